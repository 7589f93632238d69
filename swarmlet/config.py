"""What an operator can set for a node, with its defaults. Read from TOML; flags of `swarmlet agent` win."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Literal

import msgspec

from swarmlet.errors import InvalidInput

MESH_PORT = 4747
API_PORT = 4646
#: Numbers of cores as the kernel writes them: "0-3,5".
CPU_LIST = r"^([0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*)?$"


class HostVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A directory of this machine that jobs may mount by name."""

    path: str
    read_only: bool = False


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices of one kind that this node offers to jobs."""

    vendor: str
    type: str
    name: str
    ids: tuple[str, ...]
    attributes: dict[str, str] = {}


#: What Docker gives every container: adding these back after `cap_drop` needs no permission.
DOCKER_CAPABILITIES = (
    "audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod", "net_bind_service", "net_raw",
    "setfcap", "setgid", "setpcap", "setuid", "sys_chroot",
)  # fmt: skip


class DriverSwitches(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which drivers this node offers, and what they may do."""

    docker: bool = True
    docker_socket: str = "/var/run/docker.sock"
    docker_privileged: bool = False
    exec: bool = True
    #: Whether jobs may mount directories and devices of this machine, and use volume drivers.
    docker_volumes: bool = True
    #: What `cap_add` may name; "all": anything.
    docker_allow_caps: tuple[str, ...] = DOCKER_CAPABILITIES
    #: Which of the engine's runtimes jobs may name.
    docker_allow_runtimes: tuple[str, ...] = ("runc", "nvidia")
    #: Credentials for registries: a file as `docker login` writes it (empty: that of the agent's user), and a helper.
    docker_auth_config: str = ""
    docker_auth_helper: str = ""
    #: Images that came with jobs go when nobody has used them for so long and the disk is that full.
    docker_image_gc: bool = True
    docker_image_gc_hours: float = 72.0
    docker_image_gc_disk_percent: int = 80
    #: None: allowed where the agent does not run as root.
    raw_exec: bool | None = None


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node's configuration. Sizes in MiB, cpu in MHz, times in seconds, as the field's suffix says."""

    data_dir: str = "/var/lib/swarmlet"
    name: str = ""
    #: Address other nodes reach this one at ("host" or "host:port"); empty: found from the route to the cluster.
    advertise: str = ""
    bind: str = "0.0.0.0"
    mesh_port: int = MESH_PORT
    api_bind: str = "127.0.0.1"
    #: 0 lets the kernel choose; below 0: no TCP, only the Unix socket.
    api_port: int = API_PORT
    #: Empty: `api.sock` in the data directory.
    api_socket: str = ""
    datacenter: str = "dc1"
    node_pool: str = "default"
    zone: str = ""
    meta: dict[str, str] = {}
    voter: Literal["auto", "never"] = "auto"
    #: Zero: what the machine has, less a share for itself.
    cpu_mhz: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    reserved_memory_mib: int = -1
    #: The cores that jobs may reserve, such as "2-7": empty: all of the machine's.
    reservable_cores: Annotated[str, msgspec.Meta(pattern=CPU_LIST)] = ""
    host_volumes: dict[str, HostVolume] = {}
    devices: tuple[DeviceConfig, ...] = ()
    drivers: DriverSwitches = DriverSwitches()
    #: An agent that announced a restart, or whose host still answers, is waited for this long.
    agent_restart_grace_seconds: float = 30.0
    #: Before the machine goes down its work moves elsewhere, for this long at most; 0: its tasks just end with it.
    drain_on_shutdown_seconds: Annotated[float, msgspec.Meta(ge=0, le=300)] = 0.0
    #: Certificates that this node issues, while it leads, are valid for so long; renewed when two thirds are over.
    certificate_hours: float = 2160.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: Raft state in memory only (`swarmlet dev`).
    ephemeral: bool = False


def parse(text: str, source: str) -> NodeConfig:
    """The configuration in `text` (TOML). Raises InvalidInput naming `source`, the key and what was expected."""
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{source}: not valid TOML: {error}") from error
    try:
        return msgspec.convert(data, NodeConfig)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{source}: {error}; see docs/reference/configuration.md") from error


def parse_address(text: str, default_port: int) -> tuple[str, int]:
    """(host, port) of `HOST`, `HOST:PORT` or `[IPV6]:PORT`. Raises InvalidInput."""
    host, port, has_port = text, "", False
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port, has_port = rest[1:], bool(rest)
        valid = bool(bracket) and (not rest or rest.startswith(":"))
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        valid = has_port = True
    else:
        valid = True
    if has_port:
        valid = valid and port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536
    if not valid or not host or any(character.isspace() or character in "/@" for character in host):
        raise InvalidInput(f"not an address: {text[:200]!r}; expected HOST, HOST:PORT or [IPV6]:PORT")
    return host, int(port) if has_port else default_port
