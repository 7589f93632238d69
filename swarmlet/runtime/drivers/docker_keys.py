"""The keys of a docker task's `config`: the kind of each, and what is wrong with what a job wrote. Pure.

Names and meanings are those of Nomad's docker driver. A key that is not in `KEYS` is refused by name: nothing is ignored
silently. A value that still holds `${...}` is judged once it is resolved, when the task starts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

#: Says what was expected; empty: the value is right.
Check = Callable[[Any], str]
#: Bytes of a number in the engine's API.
NUMBER_MAX = 2**63 - 1
MAC_ADDRESS = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}\Z")
CPUS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*\Z")
LIMIT = re.compile(r"(-1|\d+)(:(-1|\d+))?\Z")
CAPABILITY = re.compile(r"(CAP_)?[A-Z_]+\Z", re.IGNORECASE)
PERMISSIONS = re.compile(r"(?!.*(.).*\1)[rwm]{1,3}\Z")
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
PORT_MAX = 65_535
MOUNT_TYPES = ("bind", "volume", "tmpfs")
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
VOLUME_MODES = frozenset(["ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated", *PROPAGATIONS])
#: Network modes that name no network of the engine's user.
BUILT_IN_NETWORKS = ("", "default", "bridge", "host", "none")


def as_map(value: Any) -> dict[str, Any]:
    """A map, written as one or as blocks (a list of maps; the later wins)."""
    if isinstance(value, dict):
        return value
    merged: dict[str, Any] = {}
    for item in value or ():
        merged |= item
    return merged


def as_blocks(value: Any) -> list[dict[str, Any]]:
    """A list of maps; one alone may stand for itself."""
    return [value] if isinstance(value, dict) else list(value or ())


def is_true(value: Any) -> bool:
    """`true`, or the text that interpolation made of it."""
    return value is True or str(value).lower() in {"true", "1"}


def is_open(value: Any) -> bool:
    """Whether it is not known before the task starts."""
    return isinstance(value, str) and "${" in value


def seconds(duration: str) -> float | None:
    """A duration in Go's form (`1m30s`) in seconds; None when it is none."""
    parts = DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        return None
    return sum(float(number) * DURATION_UNITS[unit] for number, unit in parts)


# Kinds --------------------------------------------------------------------------------------------------


def _is_map(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, (list, tuple)) and all(isinstance(item, dict) for item in value)
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "a string"


def _name(value: Any) -> str:
    fine = isinstance(value, str) and value and not re.search(r"\s", value)
    return "" if fine else "a name without spaces"


def _truth(value: Any) -> str:
    fine = isinstance(value, bool) or str(value).lower() in {"true", "false", "0", "1"}
    return "" if fine else "true or false"


def _number(least: int, most: int = NUMBER_MAX, unit: str = "") -> Check:
    expected = (
        f"a whole number from {least} on" if most == NUMBER_MAX else f"a whole number {least} to {most}"
    )

    def check(value: Any) -> str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,19}", str(value)):
            return expected + unit
        return "" if least <= int(value) <= most else expected + unit

    return check


def _texts(each: Check = lambda value: "" if _is_scalar(value) else "strings", of: str = "strings") -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, (list, tuple)):
            return f"a list of {of}"
        return "" if all(is_open(item) or not each(item) for item in value) else f"a list of {of}"

    return check


def _matching(pattern: re.Pattern[str], expected: str) -> Check:
    return lambda value: "" if pattern.match(str(value)) else expected


def _one_of(*choices: str, prefix: str = "") -> Check:
    shown = [f'"{choice}"' for choice in choices] + ([f'"{prefix}NAME"'] if prefix else [])

    def check(value: Any) -> str:
        fine = value in choices or value == "" or (prefix and str(value).startswith(prefix))
        return "" if fine else " or ".join(shown)

    return check


def _map_of(each: Check, expected: str) -> Check:
    def check(value: Any) -> str:
        fine = _is_map(value) and all(is_open(item) or not each(item) for item in as_map(value).values())
        return "" if fine else expected

    return check


def _block(value: Any) -> str:
    return "" if _is_map(value) else "a block"


def _address(version: int) -> Check:
    def check(value: Any) -> str:
        return "" if _is_address(value, version) else f"an IPv{version} address"

    return check


def _is_address(value: Any, version: int = 0) -> bool:
    try:
        found = ipaddress.ip_address(str(value))
    except ValueError:
        return False
    return not version or found.version == version


def _server(value: Any) -> str:
    return "" if _is_address(value) else "addresses"


def _host(value: Any) -> str:
    name, _, address = str(value).partition(":")
    fine = name and (address == "host-gateway" or _is_address(address.strip("[]")))
    return "" if fine else "hosts"


def _duration(value: Any) -> str:
    return "" if seconds(str(value)) is not None else 'a duration such as "5m"'


def _scalar(value: Any) -> str:
    return "" if _is_scalar(value) else "a string"


_strings = _map_of(_scalar, "a map of strings")
_capabilities = _texts(_matching(CAPABILITY, "names"), "capabilities such as net_admin")

KEYS: dict[str, Check] = {
    "image": _name,
    "command": _text,
    "args": _texts(),
    "entrypoint": _texts(),
    "hostname": _text,
    "work_dir": _text,
    "network_mode": _text,
    "network_aliases": _texts(),
    "ipv4_address": _address(4),
    "ipv6_address": _address(6),
    "mac_address": _matching(MAC_ADDRESS, 'an address such as "02:42:ac:11:00:02"'),
    "ports": _texts(),
    "port_map": _map_of(_number(1, PORT_MAX), "a map from port labels to ports inside the container"),
    "volumes": _texts(),
    "volume_driver": _name,
    "mount": _block,
    "mounts": _block,
    "labels": _strings,
    "dns_servers": _texts(_server, "addresses"),
    "dns_search_domains": _texts(),
    "dns_options": _texts(),
    "extra_hosts": _texts(_host, 'hosts such as "db:10.0.0.5" or "host:host-gateway"'),
    "cap_add": _capabilities,
    "cap_drop": _capabilities,
    "security_opt": _texts(),
    "group_add": _texts(),
    "privileged": _truth,
    "readonly_rootfs": _truth,
    "init": _truth,
    "tty": _truth,
    "interactive": _truth,
    "ulimit": _map_of(_matching(LIMIT, "limits"), 'limits such as { nofile = "2048:4096" }'),
    "sysctl": _strings,
    "shm_size": _number(0, unit=" (bytes)"),
    "pids_limit": _number(-1),
    "memory_hard_limit": _number(0, unit=" (MiB)"),
    "cpu_hard_limit": _truth,
    "cpu_cfs_period": _number(1_000, 1_000_000, unit=" (microseconds)"),
    "cpuset_cpus": _matching(CPUS, 'cores such as "0-3,5"'),
    "oom_score_adj": _number(0, 1_000),
    "pid_mode": _one_of("host", prefix="container:"),
    "ipc_mode": _one_of("none", "private", "shareable", "host", prefix="container:"),
    "uts_mode": _one_of("host"),
    "userns_mode": _one_of("host"),
    "cgroupns": _one_of("host", "private"),
    "runtime": _text,
    "isolation": _one_of("default"),
    "devices": _block,
    "storage_opt": _strings,
    "healthchecks": _block,
    "force_pull": _truth,
    "image_pull_timeout": _duration,
    "auth": _block,
    "auth_soft_fail": _truth,
    "logging": _block,
    "load": _name,
    "container_exists_attempts": _number(0),
}
#: Keys of Nomad's that mean nothing here, with the reason.
REFUSED = {
    "advertise_ipv6_address": "services are announced under their node's address",
}
#: The keys of each block, and of the blocks inside them.
BLOCKS: dict[str, dict[str, Check]] = {
    "mount": {
        "type": _one_of(*MOUNT_TYPES),
        "target": _name,
        "source": _text,
        "readonly": _truth,
        "bind_options": _block,
        "volume_options": _block,
        "tmpfs_options": _block,
    },
    "mount.bind_options": {"propagation": _one_of(*PROPAGATIONS)},
    "mount.volume_options": {
        "no_copy": _truth,
        "labels": _strings,
        "driver_config": _block,
        "subpath": _text,
    },
    "mount.volume_options.driver_config": {"name": _text, "options": _strings},
    "mount.tmpfs_options": {"size": _number(0, unit=" (bytes)"), "mode": _number(0, 0o7777)},
    "devices": {
        "host_path": _name,
        "container_path": _text,
        "cgroup_permissions": _matching(PERMISSIONS, 'of "r", "w" and "m"'),
    },
    "healthchecks": {"disable": _truth},
    "auth": {
        "username": _text,
        "password": _text,
        "email": _text,
        "server_address": _text,
        "variable": _text,
    },
    "logging": {"type": _text, "driver": _text, "config": _strings},
}
REQUIRED = {"mount": ("target",), "devices": ("host_path",)}


# What is wrong ------------------------------------------------------------------------------------------


def validate(config: dict[str, Any]) -> list[str]:
    """What is wrong, a sentence each; every one names its key, as `config key 'mount[0].type'`."""
    problems = list(_keys(config))
    if not config.get("image"):
        problems.append('docker: config needs an image, such as image = "nginx:1.27"')
    if not problems:
        problems += [f"docker: config key '{key}' {told}" for key, told in _together(config)]
    return problems


def _keys(config: dict[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if key in REFUSED and is_true(value):
            yield f"docker: config key {key!r} is not supported: {REFUSED[key]}"
        elif key in REFUSED:
            continue
        elif key not in KEYS:
            yield f"docker: config key {key!r} is not supported"
        else:
            yield from _value(key, KEYS[key], value)
            schema = "mount" if key == "mounts" else key
            if schema in BLOCKS and _is_map(value):
                yield from _blocks(schema, key, value)


def _value(place: str, check: Check, value: Any) -> Iterator[str]:
    expected = "" if is_open(value) else check(value)
    if expected:
        yield f"docker: config key '{place}' is {_shown(value)}, expected {expected}"


def _blocks(schema: str, place: str, value: Any) -> Iterator[str]:
    blocks = as_blocks(value)
    for number, block in enumerate(blocks):
        here = place if isinstance(value, dict) else f"{place}[{number}]"
        for key, item in block.items():
            if key not in BLOCKS[schema]:
                known = ", ".join(sorted(BLOCKS[schema]))
                yield f"docker: config key '{here}.{key}' is not supported; known: {known}"
                continue
            yield from _value(f"{here}.{key}", BLOCKS[schema][key], item)
            inner = f"{schema}.{key}"
            if inner in BLOCKS and _is_map(item):
                yield from _blocks(inner, f"{here}.{key}", item)
        for key in REQUIRED.get(schema, ()):
            if not block.get(key):
                yield f"docker: config key '{here}' has no {key}; expected one"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _together(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong between keys: (key, what)."""
    config = {key: value for key, value in config.items() if not is_open(value)}
    for volume in config.get("volumes", ()):
        if not is_open(volume) and (wrong := volume_problem(str(volume))):
            yield "volumes", f"holds {_shown(volume)}: {wrong}"
    for limit, value in as_map(config.get("ulimit")).items():
        soft, _, hard = str(value).partition(":")
        if not is_open(value) and hard not in {"", "-1"} and (soft == "-1" or int(soft) > int(hard)):
            yield "ulimit", f"sets {limit} to {value}: the soft limit is above the hard one"
    mode = str(config.get("network_mode", ""))
    if not is_open(mode) and (mode in BUILT_IN_NETWORKS or mode.startswith("container:")):
        for key in ("ipv4_address", "ipv6_address", "network_aliases"):
            if config.get(key):
                yield key, "needs a network of the engine's own: network_mode = its name"
    if mode == "host":
        for key in ("hostname", "mac_address"):
            if config.get(key) and (key == "mac_address" or config.get("uts_mode") == "host"):
                yield key, 'means nothing in the host\'s network; expected it without network_mode = "host"'
    if is_true(config.get("privileged", False)) and config.get("cap_drop"):
        yield "cap_drop", "means nothing for a privileged container, which has all capabilities"
    if config.get("volume_driver") and any(
        str(volume).startswith("/") for volume in config.get("volumes", ())
    ):
        yield "volume_driver", "works with named volumes; expected no path of the host in volumes"
    auth = as_map(config.get("auth"))
    if auth.get("variable") and (auth.get("username") or auth.get("password")):
        yield "auth", "names a variable and a username or password; expected one of them"


def volume_problem(volume: str) -> str:
    """What is wrong with `source:destination[:options]`; empty: nothing."""
    parts = volume.split(":")
    if len(parts) not in {2, 3} or not parts[0]:
        return 'expected "source:destination[:ro]"'
    if not parts[1].startswith("/"):
        return "expected an absolute path inside the container after the first colon"
    unknown = [option for option in parts[2].split(",") if option not in VOLUME_MODES] if parts[2:] else []
    return f"{unknown[0]!r} is no option; expected ro or rw" if unknown else ""
