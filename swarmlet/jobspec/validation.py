"""What must hold for a job, whichever way it came in: findings with a path into the job."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from swarmlet.errors import InvalidJob
from swarmlet.jobspec.evaluate import suggestion
from swarmlet.jobspec.file_validation import file_findings
from swarmlet.jobspec.unsupported import DRIVERS, DRIVERS_KNOWN_ELSEWHERE
from swarmlet.model.check import (
    CHECKS_MAX,
    GRPC_SERVICE_LENGTH_MAX,
    INTERVAL_NS_MIN,
    TIMEOUT_NS_MIN,
    CheckKind,
)
from swarmlet.model.job import (
    AFFINITIES_MAX,
    COUNT_MAX,
    DEVICE_COUNT_MAX,
    DEVICE_REQUESTS_MAX,
    DEVICE_WHOLE,
    GROUPS_MAX,
    HOUR_NS,
    JOB_BYTES_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
    SPREAD_TARGETS_MAX,
    SPREADS_MAX,
    TASKS_MAX,
    Affinity,
    Constraint,
    DeviceRequest,
    Job,
    JobType,
    RestartPolicy,
    Service,
    Spread,
    Task,
    TaskGroup,
)
from swarmlet.model.resources import CORES_MAX, Network, Port
from swarmlet.model.variable import may_read

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}\Z")
_NAME_EXPECTED = "expected 1 to 128 letters, digits, -, _ or . and a letter or digit first"
_ENVIRONMENT_NAME = re.compile(r"[^\s=\0]+\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
PORT_MAX = 65_535
#: One node of a petahertz or a pebibyte does not exist; larger numbers are slips, and keep sums in 63 bits.
QUANTITY_MAX = 1_000_000_000
#: Nomad's own least reservations.
CPU_MIN, MEMORY_MIN, DISK_MIN = 1, 10, 10
PORTS_MAX = 1_000
#: What is placed all at once goes into one log entry.
GANG_MAX = 20_000
#: Beyond these a check says nothing within the life of a rollout.
CHECK_NS_MAX = 24 * HOUR_NS
ANSWERS_MAX = 1_000
OPERANDS = (
    "=", "==", "is", "!=", "not", "<", "<=", ">", ">=", "regexp", "version", "semver", "set_contains",
    "set_contains_all", "set_contains_any", "is_set", "is_not_set", "distinct_hosts", "distinct_property",
)  # fmt: skip
_NO_VALUE = ("is_set", "is_not_set", "distinct_hosts", "distinct_property")
_NO_ATTRIBUTE = ("distinct_hosts",)
_PREFERABLE = " ".join(OPERANDS[:-2])

DOCKER_KEYS = (
    "advertise_ipv6_address", "args", "auth", "auth_soft_fail", "cap_add", "cap_drop", "cgroupns",
    "command", "container_exists_attempts", "cpu_cfs_period", "cpu_hard_limit", "cpuset_cpus", "devices",
    "dns_options", "dns_search_domains", "dns_servers", "entrypoint", "extra_hosts", "force_pull",
    "group_add", "healthchecks", "hostname", "image", "image_pull_timeout", "init", "interactive",
    "ipc_mode", "ipv4_address", "ipv6_address", "isolation", "labels", "load", "logging", "mac_address",
    "memory_hard_limit", "mount", "mounts", "network_aliases", "network_mode", "oom_score_adj",
    "pid_mode", "pids_limit", "port_map", "ports", "privileged", "readonly_rootfs", "runtime",
    "security_opt", "shm_size", "storage_opt", "sysctl", "tty", "ulimit", "userns_mode", "uts_mode",
    "volume_driver", "volumes", "work_dir",
)  # fmt: skip
EXEC_KEYS = ("args", "cap_add", "cap_drop", "command", "ipc_mode", "pid_mode", "security_opt", "work_dir")
RAW_EXEC_KEYS = ("args", "command", "oom_score_adj", "work_dir")
#: Driver -> the keys of its configuration, and the one that it cannot do without.
_CONFIGURATIONS = {
    "docker": (DOCKER_KEYS, "image"),
    "exec": (EXEC_KEYS, "command"),
    "raw_exec": (RAW_EXEC_KEYS, "command"),
}
#: Nomad's, and no driver of ours has them: refused instead of ignored.
KEYS_NOT_SUPPORTED = ("cgroup_v1_override", "cgroup_v2_override")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `path` are the names from the job down to it."""

    path: tuple[str, ...]
    message: str


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What others know about parts of a job; they live above this package, and are handed in."""

    #: What is wrong with a driver's configuration, a sentence each: (driver, config).
    driver: Callable[[str, dict[str, Any]], list[str]]
    #: Raises InvalidJob where a constraint could not be evaluated on any node.
    constraint: Callable[[Constraint], object]
    #: What is wrong with a template, a sentence each: (text, left and right delimiter, may the task read that variable).
    template: Callable[[str, str, str, Callable[[str], bool]], list[str]] = lambda *_: []


def validate_job(job: Job, checks: Checks | None = None) -> list[str]:
    """Everything that is wrong with a job, as sentences that name the place; empty for a valid job."""
    return [f"{_where(finding.path)}: {finding.message}" for finding in findings(job, checks)]


def _where(path: tuple[str, ...]) -> str:
    pieces = []
    at = 0
    while at < len(path):
        if path[at] in ("group", "task", "port", "volume") and at + 1 < len(path):
            pieces.append(f'{path[at]} "{path[at + 1]}"')
            at += 2
        else:
            if path[at] != "0":
                pieces.append(path[at])
            at += 1
    return ", ".join(pieces) or "job"


def findings(job: Job, checks: Checks | None = None) -> list[Finding]:
    """Everything that is wrong with a job. `checks` are asked about a job that is well formed otherwise."""
    found = [Finding(path, message) for path, message in _job(job)]
    if not found and checks is not None:
        found = [Finding(path, message) for path, message in _checked(job, checks)]
    return found


_Found = Iterator[tuple[tuple[str, ...], str]]


def _checked(job: Job, checks: Checks) -> _Found:
    yield from _compiled((), (*job.constraints, *map(matched, job.affinities)), checks)
    for group in job.groups:
        path: tuple[str, ...] = ("group", group.name)
        yield from _compiled(path, (*group.constraints, *map(matched, group.affinities)), checks)
        for task in group.tasks:
            here = (*path, "task", task.name)
            for request in task.devices:
                rules = (*request.constraints, *map(matched, request.affinities))
                yield from _compiled((*here, "resources", "0", "device", request.name), rules, checks)
            yield from _compiled(here, (*task.constraints, *map(matched, task.affinities)), checks)
            for message in checks.driver(task.driver, task.config):
                yield (*here, "config", "0", *_key_in(message, task.config)), message
            yield from _templates(here, job, group, task, checks)


def matched(affinity: Affinity) -> Constraint:
    """What an affinity looks for, as the constraint that would require it."""
    return Constraint(left=affinity.left, right=affinity.right, operand=affinity.operand)


def _compiled(path: tuple[str, ...], constraints: tuple[Constraint, ...], checks: Checks) -> _Found:
    for number, constraint in enumerate(constraints):
        try:
            checks.constraint(constraint)
        except InvalidJob as error:
            for message in error.problems:
                yield (*path, "constraint", str(number)), message


def _templates(path: tuple[str, ...], job: Job, group: TaskGroup, task: Task, checks: Checks) -> _Found:
    def is_readable(variable: str) -> bool:
        groups = [each.name for each in job.groups]
        tasks = [each.name for each in group.tasks]
        return may_read(variable, job.id, group.name, task.name, groups=groups, tasks=tasks)

    for number, template in enumerate(task.templates):
        sides = template.left_delimiter, template.right_delimiter
        for message in checks.template(template.data, *sides, is_readable):
            yield (*path, "template", str(number), "data"), message


def _key_in(message: str, config: dict[str, Any]) -> tuple[str, ...]:
    """The place of the key that a driver's sentence speaks of (`config key 'mount[0].type'`)."""
    named = re.search(r"config key '([^']+)'", message)
    if named:
        return tuple(re.findall(r"[^.\[\]]+", named[1]))
    words = set(re.findall(r"[a-z_]+", message))
    return (next((key for key in config if {key, key.removesuffix("s")} & words), ""),)


def _job(job: Job) -> _Found:
    if not _JOB_ID.match(job.id):
        yield (), f'"{job.id[:40]}" is no job id; {_NAME_EXPECTED}'
    if not _JOB_ID.match(job.name):
        yield ("name",), f'"{job.name[:40]}" is no job name; {_NAME_EXPECTED}'
    if not _NAME.match(job.namespace):
        yield ("namespace",), f'"{job.namespace[:40]}" is no namespace; {_NAME_EXPECTED}'
    if not PRIORITY_MIN <= job.priority <= PRIORITY_MAX:
        yield (
            ("priority",),
            f"priority {job.priority} is out of range; expected {PRIORITY_MIN} to {PRIORITY_MAX}",
        )
    if not job.datacenters or not all(job.datacenters):
        yield ("datacenters",), 'datacenters names none; expected names, or ["*"] for all'
    if not _NAME.match(job.node_pool):
        yield ("node_pool",), f'"{job.node_pool[:40]}" is no node pool; {_NAME_EXPECTED}'
    yield from _constraints((), job.constraints)
    yield from _affinities((), job.affinities)
    yield from _spreads((), job.spreads)
    if not 1 <= len(job.groups) <= GROUPS_MAX:
        yield (), f"the job has {len(job.groups)} groups; expected 1 to {GROUPS_MAX}"
    yield from _unique("group", (), [group.name for group in job.groups])
    for group in job.groups[:GROUPS_MAX]:
        yield from _group(group)
        yield from _canaries(job, group)
        if job.type.is_per_node and group.count > 1:
            yield (
                ("group", group.name, "count"),
                f"count {group.count} in a job of type {job.type}, which runs once on every node; expected 1",
            )
        own = [volume.name for volume in group.volumes if volume.is_per_alloc]
        if own and job.type.is_per_node:
            yield (
                ("group", group.name, "volume", own[0], "per_alloc"),
                f"per_alloc in a job of type {job.type}, whose allocations have no lasting index; expected false",
            )
        if (group.is_gang or job.is_gang) and group.count > GANG_MAX:
            yield (
                ("group", group.name, "count"),
                f"count {group.count} placed all at once; expected at most {GANG_MAX:_}",
            )
    size = len(msgspec.msgpack.encode(job))
    if size > JOB_BYTES_MAX:
        yield (), f"the job takes {size:_} B; expected at most {JOB_BYTES_MAX:_}"


def _unique(what: str, path: tuple[str, ...], names: list[str]) -> _Found:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield (*path, what, name), f'a second {what} named "{name}"; expected different names'
        seen.add(name)


def _group(group: TaskGroup) -> _Found:
    path: tuple[str, ...] = ("group", group.name)
    if not _NAME.match(group.name):
        yield path, f'"{group.name[:40]}" is no group name; {_NAME_EXPECTED}'
    if not 0 <= group.count <= COUNT_MAX:
        yield (*path, "count"), f"count {group.count} is out of range; expected 0 to {COUNT_MAX:_}"
    if not 1 <= len(group.tasks) <= TASKS_MAX:
        yield path, f'group "{group.name}" has {len(group.tasks)} tasks; expected 1 to {TASKS_MAX}'
    yield from _constraints(path, group.constraints)
    yield from _affinities(path, group.affinities)
    yield from _spreads(path, group.spreads)
    yield from _restart((*path, "restart", "0"), group.restart)
    yield from _policies(path, group)
    if not DISK_MIN <= group.ephemeral_disk.size <= QUANTITY_MAX:
        yield (
            (*path, "ephemeral_disk", "0", "size"),
            f"a disk of {group.ephemeral_disk.size} MiB; expected {DISK_MIN} to {QUANTITY_MAX:_}",
        )
    if len(group.networks) > 1:
        yield (*path, "network", "1"), "a group has one network; found more"
    labels = [port.label for network in group.networks for port in network.ports]
    yield from _networks(path, group.networks)
    yield from _unique("volume", path, [volume.name for volume in group.volumes])
    for volume in group.volumes:
        if volume.kind != "host":
            yield (
                (*path, "volume", volume.name, "type"),
                f'type "{volume.kind}" is not supported; expected host',
            )
        if not volume.source:
            yield (
                (*path, "volume", volume.name),
                f'volume "{volume.name}" has no source; expected the name of a host volume',
            )
    yield from _services(path, group.services, labels)
    yield from _check_targets(path, group)
    yield from _unique("task", path, [task.name for task in group.tasks])
    if sum(task.is_leader for task in group.tasks) > 1:
        yield path, f'group "{group.name}" has more than one leader; expected one task with leader = true'
    for task in group.tasks[:TASKS_MAX]:
        yield from _task((*path, "task", task.name), task, group, labels)


def _canaries(job: Job, group: TaskGroup) -> _Found:
    """Whether a group may be tried on canaries."""
    update = group.update
    if update is None:
        return
    here = ("group", group.name, "update", "0")
    if update.canary < 0:
        yield (*here, "canary"), f"canary {update.canary} is negative; expected 0 or more"
    if update.auto_promote and not update.canary:
        yield (*here, "auto_promote"), "auto_promote without canary; expected canary = 1 or more"
    if update.canary <= 0:
        return
    if job.type is not JobType.SERVICE:
        yield (*here, "canary"), f"canary in a job of type {job.type}; only services are tried on canaries"
    if update.max_parallel == 0:
        yield (
            (*here, "canary"),
            "canary with max_parallel = 0, which replaces all at once; expected 1 or more",
        )
    if group.holds_data():
        yield (
            (*here, "canary"),
            "canary in a group that writes to a volume or a sticky disk: two versions would use its data; expected 0",
        )


def _policies(path: tuple[str, ...], group: TaskGroup) -> _Found:
    update, reschedule, migrate = group.update, group.reschedule, group.migrate
    if update is not None:
        here = (*path, "update", "0")
        if update.max_parallel < 0:
            yield (
                (*here, "max_parallel"),
                f"max_parallel {update.max_parallel} is negative; expected 0 or more",
            )
        if update.healthy_deadline_ns <= update.min_healthy_ns:
            yield (
                (*here, "healthy_deadline"),
                "healthy_deadline is not longer than min_healthy_time; expected more time to become healthy",
            )
        if 0 < update.progress_deadline_ns <= update.healthy_deadline_ns:
            yield (
                (*here, "progress_deadline"),
                "progress_deadline is not longer than healthy_deadline; expected more, or 0 for none",
            )
    if reschedule is not None:
        here = (*path, "reschedule", "0")
        if reschedule.attempts < 0:
            yield (*here, "attempts"), f"attempts {reschedule.attempts} is negative; expected 0 or more"
        if reschedule.attempts > 0 and not reschedule.is_unlimited and reschedule.interval_ns <= 0:
            yield (*here, "attempts"), "attempts without interval; expected the time in which they count"
    if migrate.max_parallel < 1:
        yield (
            (*path, "migrate", "0", "max_parallel"),
            f"max_parallel {migrate.max_parallel} would move nothing; expected 1 or more",
        )


def _restart(path: tuple[str, ...], restart: RestartPolicy) -> _Found:
    if restart.attempts < 0:
        yield (*path, "attempts"), f"attempts {restart.attempts} is negative; expected 0 or more"
    if restart.attempts > 0 and restart.interval_ns <= 0:
        yield (*path, "interval"), "interval is 0; expected the time in which attempts count"


def _networks(path: tuple[str, ...], networks: tuple[Network, ...]) -> _Found:
    ports = [port for network in networks for port in network.ports]
    if len(ports) > PORTS_MAX:
        yield path, f"{len(ports)} ports; expected at most {PORTS_MAX}"
    base = (*path, "network", "0")
    yield from _unique("port", base, [port.label for port in ports])
    static: dict[int, Port] = {}
    for port in ports:
        here = (*base, "port", port.label)
        if not _NAME.match(port.label):
            yield here, f'"{port.label[:40]}" is no port label; {_NAME_EXPECTED}'
        if not 0 <= port.static <= PORT_MAX:
            yield (*here, "static"), f"static port {port.static} is out of range; expected 1 to {PORT_MAX}"
        elif port.static and port.static in static:
            yield (
                (*here, "static"),
                f'static port {port.static} is also port "{static[port.static].label}"; expected another',
            )
        else:
            static[port.static] = port
        if not -1 <= port.to <= PORT_MAX:
            yield (*here, "to"), f"to {port.to} is out of range; expected 1 to {PORT_MAX}, or -1"


def _devices(path: tuple[str, ...], devices: tuple[DeviceRequest, ...]) -> _Found:
    if len(devices) > DEVICE_REQUESTS_MAX:
        yield path, f"{len(devices)} devices; at most {DEVICE_REQUESTS_MAX} are possible in a task"
    for request in devices:
        here = (*path, "device", request.name)
        if not 1 <= len(request.name.split("/")) <= 3 or not all(request.name.split("/")):
            yield (
                here,
                f'"{request.name[:40]}" is no device; expected "type", "vendor/type" or "vendor/type/name"',
            )
        if not 1 <= request.count <= DEVICE_COUNT_MAX:
            yield (*here, "count"), f"{request.count} devices; expected 1 to {DEVICE_COUNT_MAX}"
        if not 1 <= request.milli <= DEVICE_WHOLE or (request.milli < DEVICE_WHOLE and request.count != 1):
            yield (*here, "fraction"), "a fraction is of one device, between 0.001 and 1; expected count = 1"
        yield from _constraints(here, request.constraints)
        yield from _affinities(here, request.affinities)


def _is_limit(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= COUNT_MAX)


def _affinities(path: tuple[str, ...], affinities: tuple[Affinity, ...]) -> _Found:
    if len(affinities) > AFFINITIES_MAX:
        yield (*path, "affinity"), f"{len(affinities)} affinities; at most {AFFINITIES_MAX} are possible"
    for number, affinity in enumerate(affinities):
        here = (*path, "affinity", str(number))
        if affinity.weight == 0 or not -100 <= affinity.weight <= 100:
            yield (
                (*here, "weight"),
                f"weight {affinity.weight} of an affinity; expected 1 to 100, or -100 to -1 for what is avoided",
            )
        if affinity.operand not in OPERANDS[:-2]:
            yield (
                (*here, "operator"),
                f'"{affinity.operand[:40]}" is no operator of an affinity; expected one of {_PREFERABLE}',
            )
            continue
        if not affinity.left:
            yield here, "an affinity without attribute; expected one such as ${node.datacenter}"


def _spreads(path: tuple[str, ...], spreads: tuple[Spread, ...]) -> _Found:
    if len(spreads) > SPREADS_MAX:
        yield (*path, "spread"), f"{len(spreads)} spreads; at most {SPREADS_MAX} are possible"
    for number, spread in enumerate(spreads):
        here = (*path, "spread", str(number))
        if not spread.attribute.startswith("${"):
            yield (
                here,
                f'spread over "{spread.attribute[:40]}"; expected an attribute such as ${{node.datacenter}}',
            )
        if not 0 <= spread.weight <= 100:
            yield here, f"weight {spread.weight} of a spread; expected 0 to 100"
        if len(spread.targets) > SPREAD_TARGETS_MAX:
            yield here, f"{len(spread.targets)} targets; at most {SPREAD_TARGETS_MAX} are possible"
        if any(target.percent < 0 for target in spread.targets) or (
            sum(target.percent for target in spread.targets) > 100
        ):
            yield here, "the targets' percentages are negative or exceed 100 together"


def _constraints(path: tuple[str, ...], constraints: tuple[Constraint, ...]) -> _Found:
    for number, constraint in enumerate(constraints):
        here = (*path, "constraint", str(number))
        if constraint.operand not in OPERANDS:
            yield (
                (*here, "operator"),
                f'"{constraint.operand[:40]}" is no operator; expected one of {" ".join(OPERANDS)}',
            )
            continue
        if not constraint.left and constraint.operand not in _NO_ATTRIBUTE:
            yield here, "constraint has no attribute; expected one such as ${attr.cpu.arch}"
        if not constraint.right and constraint.operand not in _NO_VALUE:
            yield here, "constraint has no value; expected what the attribute is compared with"
        if constraint.operand == "distinct_property" and not _is_limit(constraint.right):
            yield here, f'"{constraint.right[:40]}" is no limit of distinct_property; expected 1 or more'
        if constraint.operand == "regexp" and "${" not in constraint.right:
            try:
                re.compile(constraint.right)
            except (re.error, OverflowError, RecursionError) as error:
                yield here, f"not a regular expression: {error}"


def _services(path: tuple[str, ...], services: Iterable[Service], labels: list[str]) -> _Found:
    for number, service in enumerate(services):
        label = service.port_label
        if not _is_service_name(service.name):
            yield (
                (*path, "service", str(number), "name"),
                f'"{service.name[:40]}" is no service name; {_NAME_EXPECTED}',
            )
        if label and not label.isdigit() and "${" not in label and label not in labels:
            yield (
                (*path, "service", str(number), "port"),
                f'port "{label[:40]}" is no port of the group{_known(label, labels)}',
            )
        yield from _checks((*path, "service", str(number)), service, labels)


def _checks(path: tuple[str, ...], service: Service, labels: list[str]) -> _Found:
    for number, check in enumerate(service.health_checks):
        here = (*path, "check", str(number))
        for name, found, least in (
            ("interval", check.interval_ns, INTERVAL_NS_MIN),
            ("timeout", check.timeout_ns, TIMEOUT_NS_MIN),
        ):
            if not least <= found <= CHECK_NS_MAX:
                yield (*here, name), f"{name} of {found / 1e9:g} s is out of range; expected 1 s to 1 day"
        for name, count in (
            ("success_before_passing", check.success_before_passing),
            ("failures_before_critical", check.failures_before_critical),
            ("check_restart limit", check.restart.limit),
        ):
            if not 0 <= count <= ANSWERS_MAX:
                yield (*here, name), f"{name} of {count} is out of range; expected 0 to {ANSWERS_MAX}"
        if not 0 <= check.restart.grace_ns <= CHECK_NS_MAX:
            yield here, f"grace of {check.restart.grace_ns / 1e9:g} s is out of range; expected 0 s to 1 day"
        if check.kind is CheckKind.SCRIPT:
            if not check.command:
                yield here, "a script check has no command; expected the program to run inside the task"
            if not check.task:
                yield here, "a script check has no task; expected the task to run it in"
            continue
        label = check.port_label or service.port_label
        if not label:
            yield here, f"a {check.kind} check has no port; expected port in the check or its service"
        elif not label.isdigit() and "${" not in label and label not in labels:
            yield (*here, "port"), f'port "{label[:40]}" is no port of the group{_known(label, labels)}'
        if check.kind is CheckKind.HTTP and not _is_method(check.method):
            yield (*here, "method"), f'method: "{check.method[:40]}" is no HTTP method; expected such as GET'
        if len(check.grpc_service) > GRPC_SERVICE_LENGTH_MAX:
            yield (
                (*here, "grpc_service"),
                f"grpc_service has {len(check.grpc_service)} characters; expected at most {GRPC_SERVICE_LENGTH_MAX}",
            )
        for name, values in check.headers.items():
            if not _HEADER_NAME.match(name) or any("\n" in value or "\r" in value for value in values):
                yield (*here, "header"), f'header "{name[:40]}" is no HTTP header'


def _is_method(text: str) -> bool:
    return text.isascii() and text.isalpha()


def _check_targets(path: tuple[str, ...], group: TaskGroup) -> _Found:
    """Each check's task exists, and there are not too many of them."""
    names = [task.name for task in group.tasks]
    services = [*group.services, *(service for task in group.tasks for service in task.services)]
    checks = [check for service in services for check in service.health_checks]
    if len(checks) > CHECKS_MAX:
        yield path, f'group "{group.name}" has {len(checks)} checks; expected at most {CHECKS_MAX}'
    for check in checks:
        if check.task and check.task not in names:
            yield (
                path,
                f'check "{check.name[:40]}": task "{check.task[:40]}" is no task of the group{_known(check.task, names)}',
            )


def _is_service_name(name: str) -> bool:
    return _NAME.match(name) is not None or "${" in name


def _known(label: str, labels: list[str]) -> str:
    if not labels:
        return '; expected network { port "…" {} } in the group'
    return f"; expected one of {', '.join(labels)}{suggestion(label, labels)}"


def _task(path: tuple[str, ...], task: Task, group: TaskGroup, labels: list[str]) -> _Found:
    if not _NAME.match(task.name):
        yield path, f'"{task.name[:40]}" is no task name; {_NAME_EXPECTED}'
    resources = task.resources
    if not 0 <= resources.cores <= CORES_MAX:
        yield (
            (*path, "resources", "0", "cores"),
            f"{resources.cores} cores are out of range; expected 1 to {CORES_MAX:_}",
        )
    for name, amount, least in (
        ("cpu", resources.cpu, 0 if resources.cores else CPU_MIN),
        ("memory", resources.memory, MEMORY_MIN),
        ("memory_max", resources.memory_max or resources.memory, resources.memory),
    ):
        if not least <= amount <= QUANTITY_MAX:
            unit = "MHz" if name == "cpu" else "MiB"
            yield (
                (*path, "resources", "0", name),
                f"{name} of {amount} {unit} is out of range; expected {least} to {QUANTITY_MAX:_}",
            )
    yield from _constraints(path, task.constraints)
    yield from _affinities(path, task.affinities)
    yield from _devices((*path, "resources", "0"), task.devices)
    if task.restart is not None:
        yield from _restart((*path, "restart", "0"), task.restart)
    yield from _services(path, task.services, labels)
    if task.kill_signal and task.kill_signal not in signal.Signals.__members__:
        hint = suggestion(task.kill_signal.upper(), list(signal.Signals.__members__))
        yield (
            (*path, "kill_signal"),
            f'"{task.kill_signal[:40]}" is no signal; expected one such as SIGTERM{hint}',
        )
    for name in task.env:
        if not _ENVIRONMENT_NAME.match(name):
            yield (
                (*path, "env"),
                f'"{name[:40]}" is no name of an environment variable; expected no space and no =',
            )
    volumes = [volume.name for volume in group.volumes]
    yield from file_findings(path, task)
    for number, mount in enumerate(task.volume_mounts):
        here = (*path, "volume_mount", str(number))
        if mount.volume not in volumes:
            yield (
                (*here, "volume"),
                f'volume "{mount.volume[:40]}" is not in the group; expected a volume block{suggestion(mount.volume, volumes)}',
            )
        if not mount.destination:
            yield here, "volume_mount has no destination; expected a path in the container"
        is_read_only = mount.is_read_only or any(
            volume.is_read_only for volume in group.volumes if volume.name == mount.volume
        )
        if is_read_only and task.driver == "raw_exec":
            yield (
                (*here, "read_only"),
                "raw_exec cannot keep a task from writing to a volume; expected another driver",
            )
    if not 1 <= task.logs.max_files <= 1_000 or not 1 <= task.logs.max_file_mib <= 100_000:
        yield (*path, "logs", "0"), "logs out of range; expected 1 to 1000 files of 1 to 100000 MiB"
    yield from _driver(path, task, labels)


# Drivers ------------------------------------------------------------------------------------------------


def _driver(path: tuple[str, ...], task: Task, labels: list[str]) -> _Found:
    if task.driver not in DRIVERS:
        shown = ", ".join(DRIVERS)
        if not task.driver:
            yield path, f'task "{task.name}" has no driver; expected driver = one of {shown}'
        elif task.driver in DRIVERS_KNOWN_ELSEWHERE:
            yield (*path, "driver"), f'driver "{task.driver}" is not supported yet; expected one of {shown}'
        else:
            hint = suggestion(task.driver, DRIVERS)
            yield (*path, "driver"), f'driver "{task.driver[:40]}" is unknown; expected one of {shown}{hint}'
        return
    keys, needed = _CONFIGURATIONS[task.driver]
    here = (*path, "config", "0")
    for key in task.config:
        if key in KEYS_NOT_SUPPORTED:
            yield (
                (*here, key),
                f"{key} is not supported by the {task.driver} driver; expected a file without it",
            )
        elif key not in keys:
            yield (
                (*here, key),
                f"{key} is unknown in the configuration of {task.driver}; expected a known name{suggestion(key, keys)}",
            )
    if needed not in task.config:
        yield here, f'task "{task.name}" has no {needed}; expected config {{ {needed} = "…" }}'
    for key, kind, expected in _SHAPES:
        if key in task.config and key in keys and not kind(task.config[key]):
            yield (*here, key), f"{key} is not {expected}"
    if task.resources.cores and task.config.get("cpuset_cpus"):
        yield (
            (*here, "cpuset_cpus"),
            "cpuset_cpus and resources { cores } are both set: whole cores are chosen where the task is placed; expected only one of them",
        )
    ports: Any = task.config.get("ports")
    if task.driver == "docker" and _is_texts(ports):
        for label in ports:
            if label not in labels:
                yield (*here, "ports"), f'port "{label[:40]}" is no port of the group{_known(label, labels)}'


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


_SHAPES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("image", _is_text, "a name of an image"),
    ("command", _is_text, "a string"),
    ("args", _is_texts, "a list of strings"),
    ("ports", _is_texts, "a list of port labels"),
    ("volumes", _is_texts, "a list of strings"),
    ("network_mode", _is_text, "a string"),
    ("hostname", _is_text, "a string"),
    ("work_dir", _is_text, "a string"),
    ("cap_add", _is_texts, "a list of strings"),
    ("cap_drop", _is_texts, "a list of strings"),
    ("pid_mode", _is_text, "a string"),
    ("ipc_mode", _is_text, "a string"),
)
