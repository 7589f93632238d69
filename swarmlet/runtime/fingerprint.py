"""What this machine is and has: the facts that a node registers with."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from swarmlet.config import NodeConfig
from swarmlet.ids import NodeId, peer_id
from swarmlet.model.node import DriverInfo, HostVolumeInfo, Node, NodeDevice
from swarmlet.model.resources import Quantity, parse_cpu_list
from swarmlet.runtime.cgroup import ROOT, own_path
from swarmlet.runtime.drivers.raw_exec import boot_id

MIB = 1024 * 1024
#: A tenth of the memory stays with the machine, within these bounds (MiB).
RESERVED_SHARE, RESERVED_MIN, RESERVED_MAX = 10, 256, 2048
#: Where the kernel does not say how fast a core is (virtual machines, ARM).
FREQUENCY_DEFAULT_MHZ = 1000
#: Facts that only one node has say nothing about its kind.
UNIQUE = "unique."
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def reserved_memory(total_mib: int) -> int:
    """What the machine keeps for itself, in MiB; never more than half of it.

    >>> [reserved_memory(total) for total in (256, 2_000, 10_000, 64_000)]
    [128, 256, 1000, 2048]
    """
    return min(max(total_mib // RESERVED_SHARE, RESERVED_MIN), RESERVED_MAX, total_mib // 2)


def frequency_mhz(cpuinfo: str) -> int:
    """The fastest core in /proc/cpuinfo."""
    speeds = [
        float(line.partition(":")[2]) for line in cpuinfo.splitlines() if line.lower().startswith("cpu mhz")
    ]
    return int(max(speeds, default=0.0)) or FREQUENCY_DEFAULT_MHZ


def memory_mib(meminfo: str, limits: list[str]) -> int:
    """The machine's memory, or the cgroup's limit where that is lower ("max" is none), in MiB."""
    total = next(
        int(line.split()[1]) // 1024 for line in meminfo.splitlines() if line.startswith("MemTotal:")
    )
    return min([total, *(int(limit) // MIB for limit in limits if limit.strip().isdigit())])


def computed_class(node: Node) -> str:
    """A hash of all that a constraint can ask, except what only one node has."""
    parts = [node.datacenter, node.node_pool]
    for facts in (node.attributes, node.meta):
        parts += [f"{key}={facts[key]}" for key in sorted(facts) if not key.startswith(UNIQUE)]
        parts.append("")
    parts += [f"{name}:{info.is_healthy}" for name, info in sorted(node.drivers.items())]
    for device in node.devices:
        parts += [device.key, *(f"{key}={value}" for key, value in sorted(device.attributes.items()))]
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


def reservable_cores(cores: Iterable[int], wanted: str) -> tuple[int, ...]:
    """Which of the machine's cores jobs may reserve: those that the configuration wants, or all. Raises InvalidInput.

    >>> reservable_cores({1, 0, 2}, ""), reservable_cores({1, 0, 2}, "1-7")
    ((0, 1, 2), (1, 2))
    """
    chosen = parse_cpu_list(wanted)
    return tuple(core for core in sorted(cores) if not chosen or core in chosen)


def attributes(drivers: Mapping[str, DriverInfo]) -> dict[str, str]:
    """What constraints can ask of this machine, in Nomad's names."""
    release = _os_release()
    frequency = frequency_mhz(_read(Path("/proc/cpuinfo")))
    cores = len(os.sched_getaffinity(0))
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    facts = {
        "kernel.name": platform.system().lower(),
        "kernel.version": platform.release(),
        "kernel.arch": platform.machine(),
        "arch": architecture,
        "cpu.arch": architecture,
        "cpu.numcores": str(cores),
        "cpu.frequency": str(frequency),
        "cpu.totalcompute": str(cores * frequency),
        "memory.totalbytes": str(_memory() * MIB),
        "os.name": release.get("ID", "linux"),
        "os.version": release.get("VERSION_ID", ""),
        "unique.hostname": socket.gethostname(),
    }
    for name, info in sorted(drivers.items()):
        if info.is_healthy:
            facts[f"driver.{name}"] = "1"
        facts |= {f"driver.{name}.{key}": value for key, value in sorted(info.attributes.items())}
    return facts


def fingerprint(
    config: NodeConfig, node_id: NodeId, address: str, drivers: Mapping[str, DriverInfo], version: str
) -> Node:
    """This machine as a node. The configuration's figures win over the measured ones."""
    facts = attributes(drivers)
    cores = reservable_cores(os.sched_getaffinity(0), config.reservable_cores)
    facts["cpu.reservablecores"] = str(len(cores))
    cpu = config.cpu_mhz or int(facts["cpu.totalcompute"])
    total = config.memory_mib or _memory()
    reserved = config.reserved_memory_mib if config.reserved_memory_mib >= 0 else reserved_memory(total)
    directory = Path(config.data_dir)
    while not directory.exists():
        directory = directory.parent
    node = Node(
        id=node_id,
        name=config.name or socket.gethostname(),
        address=address,
        datacenter=config.datacenter,
        node_pool=config.node_pool,
        zone=config.zone,
        attributes=facts,
        meta=dict(config.meta),
        resources=Quantity(
            cpu=cpu,
            memory=total,
            disk=config.disk_mib or shutil.disk_usage(directory).free // MIB,
        ),
        reserved=Quantity(memory=reserved),
        reserved_ports=(config.mesh_port,) + ((config.api_port,) if config.api_port > 0 else ()),
        drivers=dict(drivers),
        host_volumes={
            name: HostVolumeInfo(path=volume.path, is_read_only=volume.read_only)
            for name, volume in config.host_volumes.items()
        },
        devices=tuple(
            NodeDevice(
                vendor=each.vendor, type=each.type, name=each.name, ids=each.ids, attributes=each.attributes
            )
            for each in config.devices
        ),
        boot_id=boot_id(),
        peer=peer_id(node_id),
        is_voter_allowed=config.voter != "never",
        version=version,
        cores=cores,
        core_mhz=cpu // int(facts["cpu.numcores"]),
    )
    return msgspec.structs.replace(node, computed_class=computed_class(node))


def _memory() -> int:
    limits = []
    memory = own_path("memory")
    if memory is not None:
        limits.append(_read(memory / "memory.limit_in_bytes"))
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::"):
            limits.append(_read(ROOT / line[3:].lstrip("/") / "memory.max"))
    return memory_mib(_read(Path("/proc/meminfo")), [limit for limit in limits if limit])


def _os_release() -> dict[str, str]:
    lines = _read(Path("/etc/os-release")).splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key: value.strip('"') for key, _, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
