"""The container that a docker task's `config` means, in the engine's own form. Pure.

The keys are in `docker_keys`; the engine's words: https://docs.docker.com/reference/api/engine/ ("Create a container").
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Any

from swarmlet.errors import DriverError
from swarmlet.model.resources import AllocatedPort, Network, cpu_list
from swarmlet.runtime.drivers.docker_keys import BUILT_IN_NETWORKS, as_blocks, as_map, is_true
from swarmlet.runtime.drivers.docker_reference import with_digest
from swarmlet.runtime.drivers.docker_rights import Rights, check_rights
from swarmlet.runtime.drivers.driver import TaskSpec

LABEL = "swarmlet."
#: The image by the name under which the task wants it: the engine may know it by its id only.
IMAGE_LABEL = LABEL + "image"
MIB = 1024 * 1024
#: Where a container sees its allocation's directories.
SHARED, LOCAL, SECRETS = "/alloc", "/local", "/secrets"

#: Keys that are the engine's own under another name.
ENGINE_NAMES = {
    "cpuset_cpus": "CpusetCpus",
    "pid_mode": "PidMode",
    "ipc_mode": "IpcMode",
    "uts_mode": "UTSMode",
    "userns_mode": "UsernsMode",
    "cgroupns": "CgroupnsMode",
    "runtime": "Runtime",
    "volume_driver": "VolumeDriver",
}
#: The same for numbers; 0 is the engine's default.
NUMBERS = {"shm_size": "ShmSize", "pids_limit": "PidsLimit", "oom_score_adj": "OomScoreAdj"}
#: The engine's own period of its CPU limit, in microseconds, and the least quota that the kernel takes.
CPU_PERIOD, CPU_QUOTA_MIN = 100_000, 1_000
NVIDIA = "nvidia"
DEVICES = "/dev/"
NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_.-]")


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
        IMAGE_LABEL: image_of(spec),
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


def is_image_other(made: dict[str, Any], spec: TaskSpec) -> bool:
    """Whether a container was made of another image than the task wants now."""
    name = (made.get("Labels") or {}).get(IMAGE_LABEL) or made.get("Image")
    return bool(name != image_of(spec))


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
        if options.get("subpath"):
            mount["VolumeOptions"]["Subpath"] = str(options["subpath"])
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


def container(spec: TaskSpec, rights: Rights) -> dict[str, Any]:
    """The body of the engine's "create container" call. Raises DriverError for what this node does not allow."""
    config = spec.config
    check_rights(config, rights)
    bindings = port_bindings(spec)
    network = spec.network or Network()
    body: dict[str, Any] = {
        "Image": image_of(spec),
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
        "HostConfig": _host_config(spec, bindings),
    }
    if config.get("mac_address"):
        # Engines from API 1.44 on take it with a network of their user's, too; older ones here alone.
        body["MacAddress"] = config["mac_address"]
    if endpoint := _endpoint(config):
        body["NetworkingConfig"] = {"EndpointsConfig": {config["network_mode"]: endpoint}}
    if is_true(as_map(config.get("healthchecks")).get("disable", False)):
        body["Healthcheck"] = {"Test": ["NONE"]}
    # The task's own command replaces the image's; arguments alone are arguments of the image's entry point.
    command = ([config["command"]] if config.get("command") else []) + _texts(config.get("args", ()))
    body |= {"Cmd": command} if command else {}
    body |= {"Entrypoint": _texts(config["entrypoint"])} if config.get("entrypoint") else {}
    return body


def image_of(spec: TaskSpec) -> str:
    """The image that the job wants: the one that its tag meant when it was submitted, where that is known."""
    return with_digest(str(spec.config["image"]), spec.image_digest)


def _host_config(spec: TaskSpec, bindings: dict[str, list[tuple[str, int]]]) -> dict[str, Any]:
    config, network = spec.config, spec.network or Network()
    host: dict[str, Any] = {
        "Binds": binds(spec),
        "Mounts": mounts(spec),
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
        **_limits(spec),
        **_devices(spec),
    }
    for key, name in ENGINE_NAMES.items():
        host |= {name: config[key]} if config.get(key) else {}
    for key, name in NUMBERS.items():
        host |= {name: int(config[key])} if config.get(key) else {}
    if config.get("storage_opt"):
        host["StorageOpt"] = {key: str(value) for key, value in as_map(config["storage_opt"]).items()}
    mode = network_mode(config, spec.network)
    host |= {"NetworkMode": mode} if mode else {}
    host |= {"Init": True} if is_true(config.get("init", False)) else {}
    return host


def _limits(spec: TaskSpec) -> dict[str, Any]:
    """Memory and CPU. A hard limit, or `memory_max`, turns the reservation into a soft one."""
    config = spec.config
    wanted = int(config.get("memory_hard_limit") or 0)
    if wanted and wanted < spec.memory:
        raise DriverError(
            f"docker: memory_hard_limit of {wanted} MiB is below the {spec.memory} MiB that the task reserves; "
            "expected at least as much",
            temporary=False,
        )
    hard_limit = wanted or spec.memory_max
    limit = (hard_limit or spec.memory) * MIB
    found: dict[str, Any] = {
        "Memory": limit,
        "MemorySwap": limit,
        "MemoryReservation": spec.memory * MIB if hard_limit else 0,
        "CpuShares": max(2, spec.cpu) if spec.cpu else 0,
    }
    # A `cpuset_cpus` of the task's own replaces those that it would share.
    if cores := spec.cores or spec.shared_cores:
        found["CpusetCpus"] = cpu_list(cores)
    period = int(config.get("cpu_cfs_period") or CPU_PERIOD)
    if config.get("cpu_cfs_period") or is_true(config.get("cpu_hard_limit", False)):
        found["CpuPeriod"] = period
    if is_true(config.get("cpu_hard_limit", False)):
        if spec.core_mhz <= 0:
            raise DriverError(
                "docker: cpu_hard_limit needs the speed of this node's cores; set cpu_mhz in its configuration",
                temporary=False,
            )
        found["CpuQuota"] = max(CPU_QUOTA_MIN, period * spec.cpu // spec.core_mhz)
    return found


def _devices(spec: TaskSpec) -> dict[str, Any]:
    """What the task names, and what the allocation holds of the node's devices.

    A device whose id is a path is given as it is; NVIDIA's are asked of the engine, whose runtime knows them.
    """
    found = [_device(block) for block in as_blocks(spec.config.get("devices"))]
    requests = []
    for held in spec.devices:
        paths = [name for name in held.ids if name.startswith(DEVICES)]
        found += [_device({"host_path": path}) for path in paths]
        others = [name for name in held.ids if not name.startswith(DEVICES)]
        # The nvidia runtime goes by NVIDIA_VISIBLE_DEVICES, which the task has anyway.
        if others and held.device.startswith(NVIDIA + "/") and spec.config.get("runtime") != NVIDIA:
            requests.append({"Driver": NVIDIA, "DeviceIDs": others, "Capabilities": [["gpu"]]})
    return ({"Devices": found} if found else {}) | ({"DeviceRequests": requests} if requests else {})


def _device(block: dict[str, Any]) -> dict[str, str]:
    path = str(block.get("host_path", ""))
    return {
        "PathOnHost": path,
        "PathInContainer": str(block.get("container_path") or path),
        "CgroupPermissions": str(block.get("cgroup_permissions") or "rwm"),
    }


def _endpoint(config: dict[str, Any]) -> dict[str, Any]:
    """How the container stands in its network; only a network of the engine's user takes addresses and names."""
    mode = str(config.get("network_mode", ""))
    if mode in BUILT_IN_NETWORKS or mode.startswith("container:"):
        return {}
    endpoint: dict[str, Any] = {"MacAddress": config["mac_address"]} if config.get("mac_address") else {}
    addresses = {
        name: config[key]
        for key, name in (("ipv4_address", "IPv4Address"), ("ipv6_address", "IPv6Address"))
        if config.get(key)
    }
    endpoint |= {"IPAMConfig": addresses} if addresses else {}
    aliases = _texts(config.get("network_aliases", ()))
    return endpoint | ({"Aliases": aliases} if aliases else {})


def _texts(values: Iterable[Any]) -> list[str]:
    return [str(value) for value in values]
