"""The `config` block of a docker task: what may be in it, and the container that it means. Pure.

Keys as in Nomad's docker driver. A key that is not in `KINDS` is refused by name: nothing is ignored silently.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Any

from swarmlet.errors import DriverError
from swarmlet.model.resources import AllocatedPort, Network
from swarmlet.runtime.drivers.driver import TaskSpec

LABEL = "swarmlet."
MIB = 1024 * 1024
#: Where a container sees its allocation's directories.
SHARED, LOCAL, SECRETS = "/alloc", "/local", "/secrets"

KINDS: dict[str, str] = {
    "image": "text",
    "command": "text",
    "args": "texts",
    "entrypoint": "texts",
    "hostname": "text",
    "work_dir": "text",
    "network_mode": "text",
    "ports": "texts",
    "port_map": "map",
    "volumes": "texts",
    "volume_driver": "text",
    "mount": "blocks",
    "mounts": "blocks",
    "labels": "map",
    "dns_servers": "texts",
    "dns_search_domains": "texts",
    "dns_options": "texts",
    "extra_hosts": "texts",
    "cap_add": "texts",
    "cap_drop": "texts",
    "security_opt": "texts",
    "group_add": "texts",
    "privileged": "truth",
    "readonly_rootfs": "truth",
    "init": "truth",
    "tty": "truth",
    "interactive": "truth",
    "ulimit": "map",
    "sysctl": "map",
    "shm_size": "number",
    "pids_limit": "number",
    "memory_hard_limit": "number",
    "oom_score_adj": "number",
    "cpuset_cpus": "text",
    "pid_mode": "text",
    "ipc_mode": "text",
    "uts_mode": "text",
    "userns_mode": "text",
    "cgroupns": "text",
    "runtime": "text",
    "devices": "blocks",
    "storage_opt": "map",
    "healthchecks": "map",
    "force_pull": "truth",
    "image_pull_timeout": "text",
    "auth": "map",
    "logging": "map",
}
#: Keys that are the engine's own under another name.
ENGINE_NAMES = {
    "cpuset_cpus": "CpusetCpus",
    "pid_mode": "PidMode",
    "ipc_mode": "IpcMode",
    "uts_mode": "UTSMode",
    "userns_mode": "UsernsMode",
    "cgroupns": "CgroupnsMode",
    "runtime": "Runtime",
}
MOUNT_KEYS = frozenset(
    {"type", "target", "source", "readonly", "bind_options", "volume_options", "tmpfs_options"}
)
MOUNT_TYPES = ("bind", "volume", "tmpfs")
#: What Docker gives every container; asking for more needs the node's permission.
DEFAULT_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
        "NET_RAW",
    ]
)
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
PULL_SECONDS_MAX = 300.0
NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_.-]")


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


def _matches(kind: str, value: Any) -> bool:
    match kind:
        case "text":
            return isinstance(value, str)
        case "texts":
            return isinstance(value, (list, tuple)) and all(isinstance(item, (str, int)) for item in value)
        case "number":
            return (isinstance(value, int) and not isinstance(value, bool)) or (
                isinstance(value, str) and (value.isdigit() or "${" in value)
            )
        case "truth":
            return (
                isinstance(value, bool)
                or str(value).lower() in {"true", "false", "0", "1"}
                or "${" in str(value)
            )
        case _:
            return isinstance(value, dict) or (
                isinstance(value, (list, tuple)) and all(isinstance(item, dict) for item in value)
            )


EXPECTED = {
    "text": "a string",
    "texts": "a list of strings",
    "number": "a number",
    "truth": "true or false",
    "map": "a map",
    "blocks": "a block",
}


def validate(config: dict[str, Any]) -> list[str]:
    """What is wrong, a sentence each."""
    problems = []
    for key, value in config.items():
        kind = KINDS.get(key)
        if kind is None:
            problems.append(f"docker: config key {key!r} is not supported")
        elif not _matches(kind, value):
            problems.append(f"docker: config key {key!r} is {value!r}, expected {EXPECTED[kind]}")
    if not config.get("image"):
        problems.append('docker: config needs an image, such as image = "nginx:1.27"')
    if problems:
        return problems
    for mount in [*as_blocks(config.get("mount")), *as_blocks(config.get("mounts"))]:
        problems += _mount_problems(mount)
    for volume in config.get("volumes", ()):
        if len(str(volume).split(":")) not in {2, 3}:
            problems.append(f'docker: volume {volume!r} is not of the form "source:destination[:ro]"')
    timeout = config.get("image_pull_timeout")
    if timeout is not None and "${" not in timeout and seconds(timeout) is None:
        problems.append(f'docker: image_pull_timeout {timeout!r} is not a duration such as "5m"')
    return problems


def _mount_problems(mount: dict[str, Any]) -> list[str]:
    problems = [
        f"docker: mount key {key!r} is not supported; known: {', '.join(sorted(MOUNT_KEYS))}"
        for key in mount
        if key not in MOUNT_KEYS
    ]
    if mount.get("type", "volume") not in MOUNT_TYPES:
        problems.append(f"docker: mount type {mount['type']!r} is not one of {', '.join(MOUNT_TYPES)}")
    if not mount.get("target"):
        problems.append("docker: a mount needs a target, the path inside the container")
    return problems


def seconds(duration: str) -> float | None:
    """A duration in Go's form (`1m30s`) in seconds; None when it is none."""
    parts = DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        return None
    return sum(float(number) * DURATION_UNITS[unit] for number, unit in parts)


def container_name(spec: TaskSpec) -> str:
    """`swl-web.0-1a2b3c4d-server`: an admin sees in `docker ps` what it is."""
    name = f"swl-{spec.group}.{spec.index}-{spec.allocation_id[:8]}-{spec.task}"
    return NOT_IN_A_NAME.sub("_", name)


def labels(spec: TaskSpec) -> dict[str, str]:
    """How any agent finds the container again."""
    return {
        LABEL + "allocation": spec.allocation_id,
        LABEL + "allocation_name": spec.allocation_name,
        LABEL + "task": spec.task,
        LABEL + "job": spec.job_id,
        LABEL + "group": spec.group,
        LABEL + "namespace": spec.namespace,
        LABEL + "node": spec.node_id,
        LABEL + "cluster": spec.cluster_id,
        **({LABEL + "secret_names": ",".join(sorted(spec.secret_env))} if spec.secret_env else {}),
    }


def is_environment_other(made: dict[str, Any], body: dict[str, Any]) -> bool:
    """Whether a container was made with another environment: a template's secrets have changed since.

    The image adds variables of its own, so names that are not wanted any more are told by a label.
    """
    names = LABEL + "secret_names"
    return (made.get("Labels") or {}).get(names) != body["Labels"].get(names) or not set(body["Env"]) <= set(
        made.get("Env") or body["Env"]
    )


def network_mode(config: dict[str, Any], network: Network | None) -> str:
    """The engine's network mode; empty: the engine's default (its bridge)."""
    if config.get("network_mode"):
        return str(config["network_mode"])
    return "none" if network is not None and network.mode == "none" else ""


def is_port_mapped(config: dict[str, Any], network: Network | None) -> bool:
    """Whether the container listens on ports of its own."""
    mode = network_mode(config, network)
    return mode not in {"host", "none"} and not mode.startswith("container:")


def port_bindings(spec: TaskSpec) -> dict[str, list[tuple[str, int]]]:
    """Container port -> host addresses. TCP and UDP both, as in Nomad. Raises DriverError on an unknown label."""
    if not is_port_mapped(spec.config, spec.network):
        return {}
    ports = {port.label: port for port in spec.ports}
    port_map = as_map(spec.config.get("port_map"))
    wanted = [str(label) for label in spec.config.get("ports", port_map)]
    if not wanted and spec.network is not None and spec.network.mode == "bridge":
        wanted = list(ports)
    bindings: dict[str, list[tuple[str, int]]] = {}
    for label in wanted:
        port = ports.get(label)
        if port is None:
            known = ", ".join(ports) or "none"
            raise DriverError(
                f"docker: port {label!r} is not a port of the group (there are: {known})", temporary=False
            )
        inside = int(port_map[label]) if label in port_map else _inside(port)
        for protocol in ("tcp", "udp"):
            bindings.setdefault(f"{inside}/{protocol}", []).append((port.host_ip, port.value))
    return bindings


def _inside(port: AllocatedPort) -> int:
    return port.to if port.to > 0 else port.value


def check_rights(config: dict[str, Any], *, is_privileged_allowed: bool) -> None:
    """Raises DriverError when the task asks for more than this node's configuration allows."""
    if is_privileged_allowed:
        return
    allow = "; allow it with [drivers] docker_privileged = true in the node's configuration"
    if is_true(config.get("privileged", False)):
        raise DriverError(
            "docker: privileged containers are not allowed on this node" + allow, temporary=False
        )
    for key in ("pid_mode", "ipc_mode", "uts_mode", "userns_mode", "cgroupns"):
        if config.get(key) == "host":
            raise DriverError(f'docker: {key} = "host" is not allowed on this node' + allow, temporary=False)
    if config.get("devices"):
        raise DriverError("docker: devices are not allowed on this node" + allow, temporary=False)
    for capability in config.get("cap_add", ()):
        if str(capability).upper().removeprefix("CAP_") not in DEFAULT_CAPABILITIES:
            raise DriverError(
                f"docker: cap_add {capability!r} is not allowed on this node" + allow, temporary=False
            )
    for option in config.get("security_opt", ()):
        if "unconfined" in str(option) or str(option).startswith("label"):
            raise DriverError(
                f"docker: security_opt {option!r} is not allowed on this node" + allow, temporary=False
            )


def binds(spec: TaskSpec) -> list[str]:
    """The allocation's directories, the group's volumes, and the task's own. A relative source is in the task's directory."""
    directories = spec.directories
    found = [
        f"{directories.shared}:{SHARED}",
        f"{directories.local}:{LOCAL}",
        f"{directories.secrets}:{SECRETS}",
    ]
    for volume in spec.volumes:
        found.append(f"{volume.source}:{volume.destination}" + (":ro" if volume.is_read_only else ""))
    task_directory = posixpath.dirname(directories.local)
    for text in spec.config.get("volumes", ()):
        source, _, rest = str(text).partition(":")
        if not source.startswith("/") and not spec.config.get("volume_driver"):
            source = _inside_task(task_directory, source)
        found.append(f"{source}:{rest}")
    return found


def _inside_task(task_directory: str, source: str) -> str:
    path = posixpath.normpath(posixpath.join(task_directory, source))
    if not (path + "/").startswith(posixpath.dirname(task_directory) + "/"):
        raise DriverError(
            f"docker: volume source {source!r} leaves the allocation's directory", temporary=False
        )
    return path


def mounts(spec: TaskSpec) -> list[dict[str, Any]]:
    """`mount` blocks in the engine's form."""
    config = spec.config
    return [
        _mount(block, posixpath.dirname(spec.directories.local))
        for block in [*as_blocks(config.get("mount")), *as_blocks(config.get("mounts"))]
    ]


def _mount(block: dict[str, Any], task_directory: str) -> dict[str, Any]:
    kind = block.get("type", "volume")
    source = str(block.get("source", ""))
    mount: dict[str, Any] = {
        "Type": kind,
        "Target": block["target"],
        "ReadOnly": is_true(block.get("readonly", False)),
    }
    if kind == "bind":
        mount["Source"] = source if source.startswith("/") else _inside_task(task_directory, source)
        options = as_map(block.get("bind_options"))
        if "propagation" in options:
            mount["BindOptions"] = {"Propagation": options["propagation"]}
    elif kind == "volume":
        mount["Source"] = source
        options = as_map(block.get("volume_options"))
        driver = as_map(options.get("driver_config"))
        mount["VolumeOptions"] = {
            "NoCopy": is_true(options.get("no_copy", False)),
            "Labels": {key: str(value) for key, value in as_map(options.get("labels")).items()},
        }
        if driver:
            mount["VolumeOptions"]["DriverConfig"] = {
                "Name": driver.get("name", ""),
                "Options": {key: str(value) for key, value in as_map(driver.get("options")).items()},
            }
    else:
        options = as_map(block.get("tmpfs_options"))
        mount["TmpfsOptions"] = {
            name: int(options[key])
            for key, name in (("size", "SizeBytes"), ("mode", "Mode"))
            if key in options
        }
    return mount


def ulimits(config: dict[str, Any]) -> list[dict[str, Any]]:
    """`nofile = "2048:4096"` or `"2048"`."""
    found = []
    for name, value in as_map(config.get("ulimit")).items():
        soft, _, hard = str(value).partition(":")
        found.append({"Name": name, "Soft": int(soft), "Hard": int(hard or soft)})
    return found


def log_options(spec: TaskSpec) -> dict[str, Any]:
    """The engine keeps and rotates the log, unless the task chooses a log driver itself."""
    own = as_map(spec.config.get("logging"))
    if own:
        options = {key: str(value) for key, value in as_map(own.get("config")).items()}
        return {"Type": str(own.get("type") or own.get("driver") or "json-file"), "Config": options}
    if spec.logs.is_disabled:
        return {"Type": "none", "Config": {}}
    # The engine keeps both streams in one log: it gets the room of both.
    options = {"max-size": f"{spec.logs.max_file_mib * 2}m", "max-file": str(spec.logs.max_files)}
    return {"Type": "json-file", "Config": options}


def container(spec: TaskSpec, *, is_privileged_allowed: bool) -> dict[str, Any]:
    """The body of the engine's "create container" call. Raises DriverError for what this node does not allow."""
    config = spec.config
    check_rights(config, is_privileged_allowed=is_privileged_allowed)
    bindings = port_bindings(spec)
    hard_limit = int(config.get("memory_hard_limit", 0)) or spec.memory_max
    limit = (hard_limit or spec.memory) * MIB
    network = spec.network or Network()
    host: dict[str, Any] = {
        "Binds": binds(spec),
        "Mounts": mounts(spec),
        "Memory": limit,
        "MemorySwap": limit,
        "MemoryReservation": spec.memory * MIB if hard_limit else 0,
        "CpuShares": max(2, spec.cpu) if spec.cpu else 0,
        "PortBindings": {
            port: [{"HostIp": address, "HostPort": str(number)} for address, number in hosts]
            for port, hosts in bindings.items()
        },
        "LogConfig": log_options(spec),
        # Restarting is this program's business: the engine would do it behind its back.
        "RestartPolicy": {"Name": "no"},
        "Dns": _texts(config.get("dns_servers") or network.dns_servers),
        "DnsSearch": _texts(config.get("dns_search_domains") or network.dns_searches),
        "DnsOptions": _texts(config.get("dns_options") or network.dns_options),
        "ExtraHosts": _texts(config.get("extra_hosts", ())),
        "CapAdd": _texts(config.get("cap_add", ())),
        "CapDrop": _texts(config.get("cap_drop", ())),
        "SecurityOpt": _texts(config.get("security_opt", ())),
        "GroupAdd": _texts(config.get("group_add", ())),
        "Privileged": is_true(config.get("privileged", False)),
        "ReadonlyRootfs": is_true(config.get("readonly_rootfs", False)),
        "Ulimits": ulimits(config),
        "Sysctls": {key: str(value) for key, value in as_map(config.get("sysctl")).items()},
    }
    for key, name in ENGINE_NAMES.items():
        host |= {name: config[key]} if config.get(key) else {}
    if config.get("oom_score_adj"):
        host["OomScoreAdj"] = int(config["oom_score_adj"])
    if config.get("storage_opt"):
        host["StorageOpt"] = {key: str(value) for key, value in as_map(config["storage_opt"]).items()}
    if config.get("devices"):
        host["Devices"] = [_device(block) for block in as_blocks(config["devices"])]
    mode = network_mode(config, spec.network)
    host |= {"NetworkMode": mode} if mode else {}
    host |= {"ShmSize": int(config["shm_size"])} if config.get("shm_size") else {}
    host |= {"PidsLimit": int(config["pids_limit"])} if config.get("pids_limit") else {}
    host |= {"Init": True} if is_true(config.get("init", False)) else {}
    host |= {"VolumeDriver": config["volume_driver"]} if config.get("volume_driver") else {}
    body: dict[str, Any] = {
        "Image": config["image"],
        "Env": [f"{key}={value}" for key, value in {**spec.env, **spec.secret_env}.items()],
        "Labels": {
            **{key: str(value) for key, value in as_map(config.get("labels")).items()},
            **labels(spec),
        },
        "Hostname": config.get("hostname") or network.hostname,
        "User": spec.user,
        "WorkingDir": config.get("work_dir", ""),
        "Tty": is_true(config.get("tty", False)),
        "OpenStdin": is_true(config.get("interactive", False)),
        "ExposedPorts": {port: {} for port in bindings},
        "HostConfig": host,
    }
    if is_true(as_map(config.get("healthchecks")).get("disable", False)):
        body["Healthcheck"] = {"Test": ["NONE"]}
    # The task's own command replaces the image's; arguments alone are arguments of the image's entry point.
    command = ([config["command"]] if config.get("command") else []) + _texts(config.get("args", ()))
    body |= {"Cmd": command} if command else {}
    body |= {"Entrypoint": _texts(config["entrypoint"])} if config.get("entrypoint") else {}
    return body


def _device(block: dict[str, Any]) -> dict[str, str]:
    path = str(block.get("host_path", ""))
    return {
        "PathOnHost": path,
        "PathInContainer": str(block.get("container_path") or path),
        "CgroupPermissions": str(block.get("cgroup_permissions") or "rwm"),
    }


def _texts(values: Iterable[Any]) -> list[str]:
    return [str(value) for value in values]
