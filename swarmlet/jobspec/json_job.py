"""Nomad's JSON form of a job (`Job` of its HTTP API) to `Job` and back. Durations are whole nanoseconds.

Clients send the whole structure with nulls for what is not set: null, empty and zero mean "not set" for what is not
supported here; anything else there is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from swarmlet.errors import InvalidJob
from swarmlet.ids import JobId, Namespace
from swarmlet.jobspec.check_section import CHECKS_REFUSED
from swarmlet.jobspec.driver_config import with_texts
from swarmlet.jobspec.duration import to_duration_ns
from swarmlet.jobspec.json_writing import job_to_json
from swarmlet.jobspec.policy_section import (
    Fields,
    migrate_strategy,
    present,
    reschedule_policy,
    restart_policy,
    update_strategy,
)
from swarmlet.jobspec.value import BadValue, to_boolean, to_integer, to_list, to_map, to_text, weight
from swarmlet.model.check import Check, CheckKind, CheckRestart
from swarmlet.model.job import (
    Affinity,
    Algorithm,
    Artifact,
    ChangeMode,
    ChangeScript,
    Constraint,
    DelayFunction,
    DeviceRequest,
    DisconnectStrategy,
    EphemeralDisk,
    HealthCheckKind,
    Job,
    JobType,
    LogRotation,
    RestartMode,
    Service,
    Spread,
    SpreadTarget,
    Task,
    TaskGroup,
    Template,
    VolumeMount,
    VolumeRequest,
)
from swarmlet.model.resources import Network, Port, TaskResources

T = TypeVar("T")
_CHOICES = {
    "HealthCheck": tuple(HealthCheckKind),
    "Mode": tuple(RestartMode),
    "SchedulerAlgorithm": tuple(Algorithm),
    "DelayFunction": tuple(DelayFunction),
    "ChangeMode": tuple(ChangeMode),
    "GetterMode": ("any", "file", "dir"),
}


class _Object:
    """A JSON object being read; wrong things are noted, not raised."""

    def __init__(self, data: Any, where: str, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        self.data: dict[str, Any] = data if isinstance(data, dict) else {}
        if data is not None and not isinstance(data, dict):
            problems.append(f"{where}: expected an object")

    def _get(self, name: str, convert: Callable[[Any], T]) -> T | None:
        value = self.data.get(name)
        if value is None:
            return None
        try:
            weight(value)
            return convert(value)
        except BadValue as error:
            self.problems.append(f"{self.where}.{name}: {error}")
            return None

    def text(self, name: str) -> str | None:
        return self._get(name, to_text)

    def filled(self, name: str) -> str | None:
        """A string; the empty one counts as not set."""
        return self.text(name) or None

    def integer(self, name: str) -> int | None:
        return self._get(name, to_integer)

    def boolean(self, name: str) -> bool | None:
        return self._get(name, to_boolean)

    def duration_ns(self, name: str) -> int | None:
        return self._get(name, to_duration_ns)

    def texts(self, name: str) -> tuple[str, ...] | None:
        return self._get(name, lambda value: tuple(map(to_text, to_list(value))))

    def text_map(self, name: str) -> dict[str, str]:
        return (
            self._get(name, lambda value: {key: to_text(item) for key, item in to_map(value).items()}) or {}
        )

    def map(self, name: str) -> dict[str, Any]:
        return self._get(name, to_map) or {}

    def objects(self, name: str) -> list[_Object]:
        values = self._get(name, to_list) or []
        return [
            _Object(value, f"{self.where}.{name}[{at}]", self.problems) for at, value in enumerate(values)
        ]

    def object(self, name: str) -> _Object | None:
        value = self.data.get(name)
        return None if value is None else _Object(value, f"{self.where}.{name}", self.problems)

    def choice(self, name: str) -> str | None:
        value = self.filled(name)
        choices = _CHOICES[name]
        if value is None or value in choices:
            return value
        self.problems.append(f'{self.where}.{name}: "{value[:40]}" is unknown; expected {", ".join(choices)}')
        return None

    def refuse(self, *names: str) -> None:
        """Things that are not supported, unless they are not set."""
        for name in names:
            if self.data.get(name):
                self.problems.append(f"{self.where}.{name} is not supported yet; remove it")


def job_from_json(data: dict[str, Any]) -> Job:
    """The job in `data` (the inner object, not `{"Job": …}`). Raises InvalidJob with all problems of its shape.

    Bookkeeping (Version, indexes, Status) is the cluster's and is not read. Whether the job makes sense is
    `validate_job`'s to say.
    """
    problems: list[str] = []
    job = _job(_Object(data, "Job", problems))
    if problems:
        raise InvalidJob(problems)
    return job


def _job(data: _Object) -> Job:
    job_type = _type(data)
    inherited = {
        "Update": _update(data.object("Update")),
        "Reschedule": _reschedule(data.object("Reschedule")),
        "Migrate": _migrate(data.object("Migrate")),
    }
    data.refuse("Multiregion", "Periodic", "ParameterizedJob", "Payload", "Dispatched")
    name = data.filled("ID") or data.filled("Name") or ""
    namespace = data.filled("Namespace")
    algorithm = data.choice("SchedulerAlgorithm")
    return Job(
        id=JobId(name),
        name=data.filled("Name") or name,
        type=job_type,
        constraints=_constraints(data),
        affinities=_affinities(data),
        spreads=_spreads(data),
        algorithm=Algorithm(algorithm) if algorithm else None,
        groups=tuple(_group(group, inherited, job_type) for group in data.objects("TaskGroups")),
        update=update_strategy(inherited["Update"], job_type) if inherited["Update"] else None,
        meta=data.text_map("Meta"),
        is_stopped=data.boolean("Stop") or False,
        **present(
            namespace=Namespace(namespace) if namespace else None,
            priority=data.integer("Priority") or None,
            datacenters=data.texts("Datacenters") or None,
            node_pool=data.filled("NodePool"),
            is_gang=data.boolean("AllAtOnce"),
        ),
    )


def _type(data: _Object) -> JobType:
    written = data.filled("Type") or JobType.SERVICE
    if written in tuple(JobType):
        return JobType(written)
    data.problems.append(f'{data.where}.Type "{written[:40]}" is unknown; expected {", ".join(JobType)}')
    return JobType.SERVICE


def _constraints(data: _Object) -> tuple[Constraint, ...]:
    return tuple(
        Constraint(
            left=item.text("LTarget") or "",
            right=item.text("RTarget") or "",
            operand=item.filled("Operand") or "=",
        )
        for item in data.objects("Constraints")
    )


def _affinities(data: _Object) -> tuple[Affinity, ...]:
    return tuple(
        Affinity(
            left=item.text("LTarget") or "",
            right=item.text("RTarget") or "",
            operand=item.filled("Operand") or "=",
            **present(weight=item.integer("Weight")),
        )
        for item in data.objects("Affinities")
    )


def _spreads(data: _Object) -> tuple[Spread, ...]:
    return tuple(
        Spread(
            attribute=item.text("Attribute") or "",
            targets=tuple(
                SpreadTarget(value=target.text("Value") or "", percent=target.integer("Percent") or 0)
                for target in item.objects("SpreadTarget")
            ),
            **present(weight=item.integer("Weight")),
        )
        for item in data.objects("Spreads")
    )


def _restart(data: _Object | None) -> Fields:
    if data is None:
        return {}
    mode = data.choice("Mode")
    fields = present(
        attempts=data.integer("Attempts"),
        interval_ns=data.duration_ns("Interval"),
        delay_ns=data.duration_ns("Delay"),
        mode=RestartMode(mode) if mode else None,
    )
    # What `job_to_json` adds, so that a job read and written back stays the same.
    maximum = data.duration_ns("DelayMax")
    if maximum:
        fields |= {"delay_max_ns": maximum, "is_backoff": True}
    elif "delay_ns" in fields:
        fields |= {"delay_max_ns": fields["delay_ns"], "is_backoff": False}
    return fields


def _reschedule(data: _Object | None) -> Fields:
    if data is None:
        return {}
    function = data.choice("DelayFunction")
    fields = present(
        attempts=data.integer("Attempts"),
        interval_ns=data.duration_ns("Interval"),
        delay_ns=data.duration_ns("Delay"),
        delay_function=DelayFunction(function) if function else None,
        max_delay_ns=data.duration_ns("MaxDelay"),
        is_unlimited=data.boolean("Unlimited"),
    )
    if "attempts" in fields and "is_unlimited" not in fields:
        fields["is_unlimited"] = False
    return fields


def _update(data: _Object | None) -> Fields:
    if data is None:
        return {}
    data.refuse("Canary")
    health = data.choice("HealthCheck")
    return present(
        max_parallel=data.integer("MaxParallel"),
        health_check=HealthCheckKind(health) if health else None,
        min_healthy_ns=data.duration_ns("MinHealthyTime"),
        healthy_deadline_ns=data.duration_ns("HealthyDeadline") or None,
        progress_deadline_ns=data.duration_ns("ProgressDeadline"),
        auto_revert=data.boolean("AutoRevert"),
        stagger_ns=data.duration_ns("Stagger"),
    )


def _migrate(data: _Object | None) -> Fields:
    if data is None:
        return {}
    return present(
        max_parallel=data.integer("MaxParallel"),
        min_healthy_ns=data.duration_ns("MinHealthyTime"),
        healthy_deadline_ns=data.duration_ns("HealthyDeadline"),
    )


def _group(data: _Object, inherited: dict[str, Fields], job_type: JobType) -> TaskGroup:
    data.refuse("Scaling", "MaxClientDisconnect", "Consul", "MaxRunDuration")
    restart = _restart(data.object("RestartPolicy"))
    return TaskGroup(
        name=data.text("Name") or "",
        tasks=tuple(_task(task, restart) for task in data.objects("Tasks")),
        constraints=_constraints(data),
        affinities=_affinities(data),
        spreads=_spreads(data),
        networks=tuple(_network(network) for network in data.objects("Networks")),
        restart=restart_policy(restart),
        reschedule=reschedule_policy(
            inherited["Reschedule"] | _reschedule(data.object("ReschedulePolicy")), job_type
        ),
        update=update_strategy(inherited["Update"] | _update(data.object("Update")), job_type),
        migrate=migrate_strategy(inherited["Migrate"] | _migrate(data.object("Migrate"))),
        disconnect=_disconnect(data),
        ephemeral_disk=_disk(data.object("EphemeralDisk")),
        volumes=_volumes(data),
        services=_services(data),
        meta=data.text_map("Meta"),
        **present(
            count=data.integer("Count"),
            shutdown_delay_ns=data.duration_ns("ShutdownDelay"),
            is_gang=data.boolean("AllAtOnce"),
        ),
    )


def _disconnect(data: _Object) -> DisconnectStrategy:
    block = data.object("Disconnect")
    if block is None:
        return DisconnectStrategy(
            **present(stop_on_client_after_ns=data.duration_ns("StopAfterClientDisconnect"))
        )
    return DisconnectStrategy(
        **present(
            replace=block.boolean("Replace"),
            stop_on_client_after_ns=block.duration_ns("StopOnClientAfter"),
            lost_after_ns=block.duration_ns("LostAfter"),
        )
    )


def _disk(data: _Object | None) -> EphemeralDisk:
    if data is None:
        return EphemeralDisk()
    return EphemeralDisk(
        **present(
            size=data.integer("SizeMB"), is_sticky=data.boolean("Sticky"), is_migrated=data.boolean("Migrate")
        )
    )


def _volumes(data: _Object) -> tuple[VolumeRequest, ...]:
    found = []
    for name in sorted(data.map("Volumes")):
        item = _Object(data.map("Volumes")[name], f"{data.where}.Volumes.{name}", data.problems)
        item.refuse("MountOptions")
        found.append(
            VolumeRequest(
                name=name,
                kind=item.filled("Type") or "host",
                source=item.text("Source") or "",
                is_read_only=item.boolean("ReadOnly") or False,
                is_per_alloc=item.boolean("PerAlloc") or False,
            )
        )
    return tuple(found)


def _network(data: _Object) -> Network:
    data.refuse("CNI")
    mode = data.filled("Mode")
    if mode not in (None, "host", "bridge", "none"):
        data.problems.append(f'{data.where}.Mode "{mode}" is not supported; expected host, bridge or none')
        mode = None
    static = [_port(port) for port in data.objects("ReservedPorts")]
    dynamic = [_port(port) for port in data.objects("DynamicPorts")]
    dns = data.object("DNS")
    return Network(
        ports=tuple(static + dynamic),
        **present(
            mode=mode,
            hostname=data.text("Hostname"),
            dns_servers=dns.texts("Servers") if dns else None,
            dns_searches=dns.texts("Searches") if dns else None,
            dns_options=dns.texts("Options") if dns else None,
        ),
    )


def _port(data: _Object) -> Port:
    return Port(
        label=data.text("Label") or "",
        **present(
            static=data.integer("Value"), to=data.integer("To"), host_network=data.filled("HostNetwork")
        ),
    )


def _services(data: _Object, task: str = "") -> tuple[Service, ...]:
    found = []
    for item in data.objects("Services"):
        item.refuse("Connect")
        found.append(
            Service(
                name=item.text("Name") or "",
                tags=item.texts("Tags") or (),
                meta=item.text_map("Meta"),
                health_checks=tuple(
                    _check(check, item, task, number)
                    for number, check in enumerate(item.objects("Checks"), start=1)
                ),
                **present(
                    port_label=item.text("PortLabel"),
                    provider=item.filled("Provider"),
                    address_mode=item.filled("AddressMode"),
                ),
            )
        )
    return tuple(found)


def _check(data: _Object, service: _Object, task: str, number: int) -> Check:
    data.refuse("GRPCService", "GRPCUseTLS")
    written = data.filled("Type") or ""
    if written not in tuple(CheckKind):
        reason = CHECKS_REFUSED.get(written, f"expected {', '.join(CheckKind)}")
        data.problems.append(f'{data.where}.Type: "{written[:40]}" is not supported: {reason}')
    on_update = data.filled("OnUpdate") or service.filled("OnUpdate")
    restart = data.object("CheckRestart") or service.object("CheckRestart")
    headers = data.map("Header")
    return Check(
        name=data.filled("Name") or f"{service.text('Name') or ''} check {number}",
        kind=CheckKind(written) if written in tuple(CheckKind) else CheckKind.TCP,
        task=data.filled("TaskName") or service.filled("TaskName") or task,
        headers={
            name: tuple(str(value) for value in values) if isinstance(values, list) else (str(values),)
            for name, values in headers.items()
        },
        is_tls_verified=not data.boolean("TLSSkipVerify"),
        is_passing_at_first=data.text("InitialStatus") == "passing",
        is_ignored_on_update=on_update == "ignore",
        restart=CheckRestart(**present(limit=restart.integer("Limit"), grace_ns=restart.duration_ns("Grace")))
        if restart
        else CheckRestart(),
        **present(
            interval_ns=data.duration_ns("Interval"),
            timeout_ns=data.duration_ns("Timeout"),
            port_label=data.text("PortLabel"),
            protocol=data.filled("Protocol"),
            method=data.filled("Method"),
            path=data.filled("Path"),
            body=data.text("Body"),
            tls_server_name=data.text("TLSServerName"),
            command=data.text("Command"),
            args=data.texts("Args"),
            success_before_passing=data.integer("SuccessBeforePassing"),
            failures_before_critical=data.integer("FailuresBeforeCritical"),
        ),
    )


def _task(data: _Object, group_restart: Fields) -> Task:
    data.refuse(
        "Lifecycle", "Vault", "Consul", "ScalingPolicies", "Secrets",
        "Identities", "Actions", "Schedule", "CSIPluginConfig", "DispatchPayload", "Kind",
    )  # fmt: skip
    own_restart = _restart(data.object("RestartPolicy"))
    return Task(
        name=data.text("Name") or "",
        driver=data.text("Driver") or "",
        config=with_texts(data.map("Config")),
        env=data.text_map("Env"),
        resources=_resources(data.object("Resources")),
        constraints=_constraints(data),
        affinities=_affinities(data),
        devices=_devices(data.object("Resources")),
        meta=data.text_map("Meta"),
        restart=restart_policy(group_restart | own_restart) if own_restart else None,
        services=_services(data, data.text("Name") or ""),
        volume_mounts=tuple(
            VolumeMount(
                volume=item.text("Volume") or "",
                destination=item.text("Destination") or "",
                is_read_only=item.boolean("ReadOnly") or False,
            )
            for item in data.objects("VolumeMounts")
        ),
        logs=_logs(data.object("LogConfig")),
        templates=tuple(_template(item) for item in data.objects("Templates")),
        artifacts=tuple(_artifact(item) for item in data.objects("Artifacts")),
        **present(
            kill_timeout_ns=data.duration_ns("KillTimeout"),
            kill_signal=data.text("KillSignal"),
            user=data.text("User"),
            is_leader=data.boolean("Leader"),
            shutdown_delay_ns=data.duration_ns("ShutdownDelay"),
        ),
    )


def _template(data: _Object) -> Template:
    data.refuse("Once")
    mode = data.choice("ChangeMode")
    script = data.object("ChangeScript")
    return Template(
        destination=data.text("DestPath") or "",
        change_script=ChangeScript(
            command=script.text("Command") or "",
            **present(
                args=script.texts("Args"),
                timeout_ns=script.duration_ns("Timeout"),
                is_fail_on_error=script.boolean("FailOnError"),
            ),
        )
        if script
        else None,
        **present(
            data=data.filled("EmbeddedTmpl"),
            source=data.filled("SourcePath"),
            change_mode=ChangeMode(mode) if mode else None,
            change_signal=data.filled("ChangeSignal"),
            splay_ns=data.duration_ns("Splay"),
            perms=data.filled("Perms"),
            uid=data.integer("Uid"),
            gid=data.integer("Gid"),
            left_delimiter=data.filled("LeftDelim"),
            right_delimiter=data.filled("RightDelim"),
            is_env=data.boolean("Envvars"),
            is_error_on_missing_key=data.boolean("ErrMissingKey"),
        ),
    )


def _artifact(data: _Object) -> Artifact:
    data.refuse("Chown")
    return Artifact(
        source=data.text("GetterSource") or "",
        options=data.text_map("GetterOptions"),
        headers=data.text_map("GetterHeaders"),
        **present(
            destination=data.filled("RelativeDest"),
            mode=data.choice("GetterMode"),
            is_insecure=data.boolean("GetterInsecure"),
        ),
    )


def _devices(data: _Object | None) -> tuple[DeviceRequest, ...]:
    return tuple(
        DeviceRequest(
            name=item.text("Name") or "",
            constraints=_constraints(item),
            affinities=_affinities(item),
            **present(count=item.integer("Count"), milli=item.integer("Milli")),
        )
        for item in (data.objects("Devices") if data is not None else [])
    )


def _resources(data: _Object | None) -> TaskResources:
    if data is None:
        return TaskResources(is_default=True)
    data.refuse("Cores", "NUMA", "Networks")
    memory = data.integer("MemoryMB")
    return TaskResources(
        is_default=memory is None or data.boolean("MemoryIsDefault") or False,
        **present(cpu=data.integer("CPU"), memory=memory, memory_max=data.integer("MemoryMaxMB")),
    )


def _logs(data: _Object | None) -> LogRotation:
    if data is None:
        return LogRotation()
    return LogRotation(
        **present(
            max_files=data.integer("MaxFiles"),
            max_file_mib=data.integer("MaxFileSizeMB"),
            is_disabled=data.boolean("Disabled"),
        )
    )


__all__ = ["job_from_json", "job_to_json"]
