"""What a task's templates see: its own variables, services, its environment, from this node's copy of the state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from swarmlet.errors import InvalidInput
from swarmlet.ids import AllocationId, JobId, Namespace
from swarmlet.model.allocation import Allocation, ClientStatus, TaskStatus
from swarmlet.model.job import Job, Service
from swarmlet.model.variable import JOBS_ROOT, PATH_CHARS_MAX, Variable, job_path, may_read
from swarmlet.replica.replica import Replica
from swarmlet.replica.variables import Variables
from swarmlet.runtime.pace import Instance
from swarmlet.state.store import variable_scope, variable_tree_scope
from swarmlet.state.view import Table, View
from swarmlet.template import Lookups

#: Services change with every allocation of the cluster: they are looked at again this often at most.
SERVICES_SECONDS = 1.0
#: A wait is renewed this often; nothing depends on it.
WAIT_SECONDS = 60.0
#: Instances of one service that a template is told of.
INSTANCES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Reader:
    """The task on whose behalf a template reads: what it may see follows from its place."""

    namespace: Namespace
    job: JobId
    group: str
    task: str

    def refusal(self, path: str) -> InvalidInput:
        """What it is told when it asks for another one's variable."""
        return InvalidInput(
            f"task {self.task} may not read variable {path[:PATH_CHARS_MAX]}; it may read {JOBS_ROOT}, "
            f"{job_path(self.job)} and what is below that, unless it is named for another group or task"
        )


class TemplateSource(Protocol):
    """Where templates look things up."""

    def lookups(self, reader: Reader, environment: dict[str, str]) -> SeenLookups:
        """What `reader` sees now. Raises Unavailable while a key of the keyring has not come here."""

    async def wait_changed(self, seen: SeenLookups) -> None:
        """Return when what was looked up may be another now."""

    def instances(self, namespace: Namespace, job: JobId, group: str, task: str) -> list[Instance]:
        """The allocations of a group that are wanted, in the order in which they change."""

    def changed_at_ns(self, seen: SeenLookups) -> int:
        """Wall time of the last change of a variable that was looked at; 0: none was."""


class SeenLookups(Lookups, Protocol):
    """Lookups that remember what they were asked."""

    #: Which variables there were for the reader when it looked, and their indexes.
    variables_seen: tuple[tuple[str, int], ...]
    reader: Reader

    @property
    def has_asked_for_services(self) -> bool:
        """Whether services were looked up."""


class ReplicaLookups:
    """One moment of the state, for one task. Made on the loop; may be used in a thread."""

    def __init__(
        self,
        view: View,
        reader: Reader,
        environment: dict[str, str],
        opener: Callable[[Variable], dict[str, str]],
    ) -> None:
        """`opener` opens a variable; it is asked when a template asks."""
        self.reader = reader
        self._view = view
        self._environment = environment
        self._opener = opener
        self._variables = {row.path: row for row in readable(view, reader)}
        self._asked_services = False
        self.variables_seen = _indexes(view, reader)

    @property
    def has_asked_for_services(self) -> bool:
        """Whether services were looked up."""
        return self._asked_services

    def variable(self, path: str) -> dict[str, str] | None:
        """The items of one of the task's own variables."""
        found = self._variables.get(path)
        if found is not None:
            return self._opener(found)
        if not may_read(path, self.reader.job, self.reader.group, self.reader.task) or (
            self._view.variable(self.reader.namespace, path) is not None
        ):
            raise self.reader.refusal(path)
        return None

    def variable_paths(self, prefix: str) -> list[str]:
        """Those of the task's own variables that exist."""
        return [path for path in sorted(self._variables) if path.startswith(prefix)]

    def services(self, name: str) -> list[dict[str, Any]]:
        """Running instances in the task's namespace."""
        self._asked_services = True
        found = []
        for instance in instances_of(self._view, self.reader.namespace, name):
            found.append(instance)
            if len(found) >= INSTANCES_MAX:
                break
        return sorted(found, key=lambda item: (item["JobID"], item["AllocID"], item["Port"]))

    def service_names(self) -> list[dict[str, Any]]:
        """Every service that a job of the namespace offers."""
        self._asked_services = True
        tags: dict[str, dict[str, None]] = {}
        for job in self._view.jobs(self.reader.namespace):
            if not job.is_stopped:
                for _, _, service in services_of(job):
                    tags.setdefault(service.name, {}).update(dict.fromkeys(service.tags))
        return [{"Name": name, "Tags": sorted(tags[name])} for name in sorted(tags)]

    def environment(self, name: str) -> str | None:
        """The task's environment, without what templates add to it."""
        return self._environment.get(name)

    def now_seconds(self) -> float:
        """Wall time."""
        return time.time_ns() / 1e9


def services_of(job: Job) -> Iterator[tuple[str, str, Service]]:
    """Group, task ("": the group's own) and service, for every service of a job."""
    for group in job.groups:
        for service in group.services:
            yield group.name, "", service
        for task in group.tasks:
            for service in task.services:
                yield group.name, task.name, service


def instances_of(view: View, namespace: Namespace, name: str) -> Iterator[dict[str, Any]]:
    """The running instances of a service, in Nomad's form."""
    for job in view.jobs(namespace):
        by_version = {job.version: _offered(job, name)}
        if not by_version[job.version]:
            continue
        for allocation in view.allocations_of_job(namespace, job.id):
            if allocation.client_status is not ClientStatus.RUNNING or allocation.is_server_terminal():
                continue
            node = view.node(allocation.node_id)
            if node is None:
                continue
            host = node.address.rpartition(":")[0].strip("[]")
            version = allocation.job_version
            if version not in by_version:
                # While a version rolls out, or is tried, the others are what they were.
                by_version[version] = _offered(view.job_version(namespace, job.id, version), name)
            for group, task, service in by_version[version]:
                if group == allocation.group and _runs(allocation, task):
                    yield _instance(allocation, service, host, node.datacenter, task)


def _offered(job: Job | None, name: str) -> list[tuple[str, str, Service]]:
    """Group, task and service, for every service of that name."""
    if job is None:
        return []
    return [(group, task, item) for group, task, item in services_of(job) if item.name == name]


def _runs(allocation: Allocation, task: str) -> bool:
    state = allocation.task_states.get(task)
    return not task or state is None or state.status is TaskStatus.RUNNING


def _instance(
    allocation: Allocation, service: Service, host: str, datacenter: str, task: str
) -> dict[str, Any]:
    address, port = host, 0
    for held in allocation.ports:
        if held.label == service.port_label:
            address, port = held.host_ip or host, held.value
    if service.port_label.isdigit():
        port = int(service.port_label)
    return {
        "ID": f"_nomad-task-{allocation.id}-{task or 'group-' + allocation.group}-{service.name}-{service.port_label}",
        "Name": service.name,
        "ServiceName": service.name,
        "Address": address,
        "Port": port,
        "Tags": list((allocation.is_canary and service.canary_tags) or service.tags),
        "Namespace": allocation.namespace,
        "Datacenter": datacenter,
        "NodeID": allocation.node_id,
        "JobID": allocation.job_id,
        "AllocID": allocation.id,
    }


class ReplicaTemplates:
    """`TemplateSource` through this node's replica. Used from the event loop."""

    def __init__(self, replica: Replica, variables: Variables) -> None:
        """`variables` opens what the replica holds."""
        self._replica = replica
        self._variables = variables

    def lookups(self, reader: Reader, environment: dict[str, str]) -> ReplicaLookups:
        """What `reader` sees now."""
        return ReplicaLookups(self._replica.view, reader, environment, self._variables.opener())

    async def wait_changed(self, seen: SeenLookups) -> None:
        """Return when one of the reader's variables has changed, or a service may have."""
        reader, before = seen.reader, seen.variables_seen
        keys: list[Table | str] = [
            variable_scope(reader.namespace, JOBS_ROOT),
            variable_tree_scope(reader.namespace, reader.job),
        ]
        index = self._replica.view.index
        if seen.has_asked_for_services:
            keys += [Table.ALLOCATIONS, Table.JOBS, Table.NODES]

        def has_changed() -> bool:
            view = self._replica.view
            if _indexes(view, reader) != before:
                return True
            return seen.has_asked_for_services and (
                max(view.table_index(table) for table in (Table.ALLOCATIONS, Table.JOBS, Table.NODES)) > index
            )

        await self._replica.watches.wait_changed(keys, has_changed, WAIT_SECONDS)

    def instances(self, namespace: Namespace, job: JobId, group: str, task: str) -> list[Instance]:
        """The allocations of a group that are wanted, by index."""
        found = [
            Instance(
                id=AllocationId(row.id),
                started_at_ns=row.task_states[task].started_at_ns
                if task in row.task_states and row.task_states[task].status is TaskStatus.RUNNING
                else 0,
                index=row.index,
            )
            for row in self._replica.view.allocations_of_job(namespace, job)
            if row.group == group and not row.is_terminal() and row.client_status is not ClientStatus.UNKNOWN
        ]
        return sorted(found, key=lambda item: (item.index, item.id))

    def changed_at_ns(self, seen: SeenLookups) -> int:
        """Wall time of the last change of one of the reader's variables."""
        return max((row.modify_time_ns for row in readable(self._replica.view, seen.reader)), default=0)


def readable(view: View, reader: Reader) -> Iterator[Variable]:
    """The variables that the reader may read, by path."""
    shared = view.variable(reader.namespace, JOBS_ROOT)
    if shared is not None:
        yield shared
    job = view.job(reader.namespace, reader.job)
    groups = [group.name for group in job.groups] if job is not None else []
    own = job.group(reader.group) if job is not None else None
    tasks = [task.name for task in own.tasks] if own is not None else []
    for row in view.variables(reader.namespace, job_path(reader.job)):
        if may_read(row.path, reader.job, reader.group, reader.task, groups=groups, tasks=tasks) and not (
            _is_of_another_job(view, reader, row.path)
        ):
            yield row


def _is_of_another_job(view: View, reader: Reader, path: str) -> bool:
    """A job's id may have slashes: what is below one job's path may be another job's own."""
    parts = path[len(JOBS_ROOT) + 1 :].split("/")
    depth = reader.job.count("/") + 1
    return any(
        view.job(reader.namespace, JobId("/".join(parts[:end]))) is not None
        for end in range(depth + 1, len(parts) + 1)
    )


def _indexes(view: View, reader: Reader) -> tuple[tuple[str, int], ...]:
    """Which variables there are for the reader, and their indexes."""
    return tuple((row.path, row.modify_index) for row in readable(view, reader))
