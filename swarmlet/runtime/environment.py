"""A task's environment variables and the run-time interpolation of its values. Pure.

Names as Nomad gives them (`NOMAD_ALLOC_ID`, ...), and the same facts under `SWARMLET_`.
"""

from __future__ import annotations

import re
from typing import Any

from swarmlet.model.allocation import Allocation
from swarmlet.model.job import Job, Task, TaskGroup
from swarmlet.model.node import Node
from swarmlet.model.resources import cpu_list
from swarmlet.runtime.drivers.driver import Directories

PREFIXES = ("NOMAD_", "SWARMLET_")
REFERENCE = re.compile(r"\$\{([^${}]+)\}")
NOT_A_NAME = re.compile(r"[^A-Za-z0-9_]")
REGION = "global"


def variable_name(text: str) -> str:
    """`text` with everything that a variable's name cannot hold replaced by `_`."""
    return NOT_A_NAME.sub("_", text)


def facts(
    allocation: Allocation,
    job: Job,
    group: TaskGroup,
    task: Task,
    node: Node,
    directories: Directories,
    *,
    host_address: str,
    is_port_mapped: bool,
) -> dict[str, str]:
    """The variables without their prefix. `is_port_mapped`: the task sees its own ports, not the host's."""
    cores = allocation.cores_of(task.name)
    values = {
        "ALLOC_DIR": directories.shared,
        "TASK_DIR": directories.local,
        "SECRETS_DIR": directories.secrets,
        "ALLOC_ID": allocation.id,
        "SHORT_ALLOC_ID": allocation.id[:8],
        "ALLOC_NAME": allocation.name,
        "ALLOC_INDEX": str(allocation.index),
        "TASK_NAME": task.name,
        "GROUP_NAME": group.name,
        "JOB_ID": job.id,
        "JOB_NAME": job.name,
        "NAMESPACE": allocation.namespace,
        "REGION": REGION,
        "DC": node.datacenter,
        "CPU_LIMIT": str(cores.cpu if cores else task.resources.cpu),
        "MEMORY_LIMIT": str(task.resources.memory),
    }
    if cores:
        values["CPU_CORES"] = cpu_list(cores.ids)
    if task.resources.memory_max:
        values["MEMORY_MAX_LIMIT"] = str(task.resources.memory_max)
    for port in allocation.ports:
        label = variable_name(port.label)
        address = port.host_ip or host_address
        inside = port.to if is_port_mapped and port.to > 0 else port.value
        shown = f"[{address}]" if ":" in address else address
        values |= {
            f"IP_{label}": address,
            f"PORT_{label}": str(inside),
            f"ADDR_{label}": f"{shown}:{port.value}",
            f"HOST_IP_{label}": address,
            f"HOST_PORT_{label}": str(port.value),
            f"HOST_ADDR_{label}": f"{shown}:{port.value}",
            f"ALLOC_PORT_{label}": str(inside),
        }
    mine = [held for held in allocation.devices if held.task == task.name]
    if mine:
        values["DEVICES"] = ",".join(f"{held.device}:{name}" for held in mine for name in held.ids)
    # The narrower one wins.
    meta = {**job.meta, **group.meta, **task.meta}
    for key, value in meta.items():
        values[f"META_{variable_name(key)}"] = value
        values[f"META_{variable_name(key).upper()}"] = value
    return values


def node_values(node: Node) -> dict[str, str]:
    """What `${node.*}`, `${attr.*}` and `${meta.*}` mean on this node."""
    values = {
        "node.unique.id": node.id,
        "node.unique.name": node.name,
        "node.datacenter": node.datacenter,
        "node.region": REGION,
        "node.class": "",
        "node.pool": node.node_pool,
        "node.zone": node.zone,
    }
    values |= {f"attr.{key}": value for key, value in node.attributes.items()}
    return values | {f"meta.{key}": value for key, value in node.meta.items()}


class Interpolation:
    """Replaces `${name}` by the value of `name`; what is not known stays as it is, as in Nomad."""

    def __init__(self, values: dict[str, str]) -> None:
        """`values`: full name (`attr.cpu.arch`, `NOMAD_PORT_http`, `env.HOME`) -> value."""
        self.values = values

    def text(self, text: str) -> str:
        """One value."""
        return REFERENCE.sub(lambda found: self.values.get(found[1].strip(), found[0]), text)

    def value(self, value: Any) -> Any:
        """A value of any shape: the strings inside are replaced, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value


def build(task: Task, values: dict[str, str], node: Node) -> tuple[dict[str, str], Interpolation]:
    """The task's environment, and what its config is interpolated with. The task's own `env` wins."""
    given = {prefix + name: value for name, value in values.items() for prefix in PREFIXES}
    nvidia = [each for each in values.get("DEVICES", "").split(",") if each.startswith("nvidia/")]
    if nvidia:
        # What NVIDIA's container runtime goes by.
        given["NVIDIA_VISIBLE_DEVICES"] = ",".join(each.partition(":")[2] for each in nvidia)
    known = {**node_values(node), **given, **{f"env.{name}": value for name, value in given.items()}}
    interpolation = Interpolation(known)
    own = {key: interpolation.text(value) for key, value in task.env.items()}
    known |= {f"env.{key}": value for key, value in own.items()}
    return {**given, **own}, Interpolation(known)
