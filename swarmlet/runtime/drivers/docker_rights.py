"""What a node lets docker tasks ask for, as Nomad's plugin configuration does. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from swarmlet.config import DOCKER_CAPABILITIES, DriverSwitches
from swarmlet.errors import DriverError
from swarmlet.runtime.drivers.docker_keys import as_blocks, as_map, is_true
from swarmlet.wire import Record

ALL = "all"
NAMESPACES = ("pid_mode", "ipc_mode", "uts_mode", "userns_mode", "cgroupns")


class Rights(Record):
    """What tasks may ask for on this node; see `[drivers]` in the configuration."""

    is_privileged: bool = False
    #: Directories, devices and volume drivers of the machine.
    is_host: bool = True
    capabilities: tuple[str, ...] = DOCKER_CAPABILITIES
    runtimes: tuple[str, ...] = ("runc", "nvidia")


def rights_of(switches: DriverSwitches) -> Rights:
    """The node's configuration."""
    return Rights(
        is_privileged=switches.docker_privileged,
        is_host=switches.docker_volumes,
        capabilities=tuple(map(capability, switches.docker_allow_caps)),
        runtimes=switches.docker_allow_runtimes,
    )


def capability(name: str) -> str:
    """`CAP_NET_ADMIN` and `net_admin` are one.

    >>> capability("CAP_NET_ADMIN")
    'net_admin'
    """
    return name.lower().removeprefix("cap_")


def check_rights(config: dict[str, Any], rights: Rights) -> None:
    """Raises DriverError when the task asks for more than this node's configuration allows."""
    for what, switch in _asked(config, rights):
        raise DriverError(
            f"docker: {what} not allowed on this node; allow it with [drivers] {switch} in the node's configuration",
            temporary=False,
        )


def _asked(config: dict[str, Any], rights: Rights) -> Iterator[tuple[str, str]]:
    """What is asked for and not allowed, with the switch that allows it."""
    if not rights.is_privileged:
        for what in _privileges(config):
            yield what, "docker_privileged = true"
    if not rights.is_host:
        for what in _of_the_host(config):
            yield what, "docker_volumes = true"
    if ALL not in rights.capabilities and not rights.is_privileged:
        for name in config.get("cap_add", ()):
            if capability(str(name)) not in rights.capabilities:
                allowed = ", ".join(f'"{each}"' for each in (*rights.capabilities, capability(str(name))))
                yield f"cap_add {name!r} is", f"docker_allow_caps = [{allowed}]"
    runtime = config.get("runtime")
    if runtime and runtime not in rights.runtimes:
        allowed = ", ".join(f'"{each}"' for each in (*rights.runtimes, str(runtime)))
        yield f"runtime {runtime!r} is", f"docker_allow_runtimes = [{allowed}]"


def _privileges(config: dict[str, Any]) -> Iterator[str]:
    if is_true(config.get("privileged", False)):
        yield "privileged containers are"
    for key in NAMESPACES:
        value = str(config.get(key, ""))
        if value == "host" or value.startswith("container:"):
            yield f'{key} = "{value}" is'
    for option in config.get("security_opt", ()):
        text = str(option).replace(":", "=", 1)
        # A profile of one's own may allow everything, as "unconfined" does.
        if text.startswith(("seccomp=", "label", "systempaths=")) or "unconfined" in text:
            yield f"security_opt {option!r} is"


def _of_the_host(config: dict[str, Any]) -> Iterator[str]:
    for volume in config.get("volumes", ()):
        if str(volume).startswith("/"):
            yield f"volume {volume!r} is a path of the machine and"
    if config.get("volume_driver"):
        yield "volume_driver is"
    for block in [*as_blocks(config.get("mount")), *as_blocks(config.get("mounts"))]:
        source = str(block.get("source", ""))
        if block.get("type") == "bind" and source.startswith("/"):
            yield f"mount of {source!r} is a path of the machine and"
        if as_map(block.get("volume_options")).get("driver_config"):
            # The local driver mounts any path or device of the machine.
            yield "driver_config of a mount is"
    for block in as_blocks(config.get("devices")):
        yield f"device {block.get('host_path')!r} is"
