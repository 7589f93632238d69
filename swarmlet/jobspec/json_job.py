"""Nomad's JSON form of a job (`Job` of its HTTP API) to `Job` and back. Durations are whole nanoseconds.

Clients send the whole structure with nulls for what is not set: null, empty and zero mean "not set" for what is not
supported here; anything else there is refused by name.
"""

from __future__ import annotations

from typing import Any

from swarmlet.errors import InvalidJob
from swarmlet.ids import JobId, Namespace
from swarmlet.jobspec import json_fields
from swarmlet.jobspec.check_section import CHECKS_REFUSED
from swarmlet.jobspec.driver_config import with_texts
from swarmlet.jobspec.json_fields import fields_of
from swarmlet.jobspec.json_object import JsonObject
from swarmlet.jobspec.json_writing import job_to_json
from swarmlet.jobspec.policy_section import (
    Fields,
    migrate_strategy,
    present,
    reschedule_policy,
    restart_policy,
    update_strategy,
)
from swarmlet.model.check import Check, CheckKind, CheckRestart
from swarmlet.model.job import (
    Affinity,
    Algorithm,
    Artifact,
    ChangeScript,
    Constraint,
    DeviceRequest,
    DisconnectStrategy,
    EphemeralDisk,
    Job,
    JobType,
    LogRotation,
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


def job_from_json(data: dict[str, Any]) -> Job:
    """The job in `data` (the inner object, not `{"Job": …}`). Raises InvalidJob with all problems of its shape.

    Bookkeeping (Version, indexes, Status) is the cluster's and is not read. Whether the job makes sense is
    `validate_job`'s to say.
    """
    problems: list[str] = []
    job = _job(JsonObject(data, "Job", problems))
    if problems:
        raise InvalidJob(problems)
    return job


def _job(data: JsonObject) -> Job:
    job_type = _type(data)
    inherited = {
        "Update": fields_of(data.object("Update"), json_fields.UPDATE),
        "Reschedule": _reschedule(data.object("Reschedule")),
        "Migrate": fields_of(data.object("Migrate"), json_fields.MIGRATE),
    }
    data.refuse("Multiregion", "Periodic", "ParameterizedJob", "Payload", "Dispatched")
    name = data.filled("ID") or data.filled("Name") or ""
    namespace = data.filled("Namespace")
    algorithm = data.choice("SchedulerAlgorithm", Algorithm)
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


def _type(data: JsonObject) -> JobType:
    written = data.filled("Type") or JobType.SERVICE
    if written in tuple(JobType):
        return JobType(written)
    data.problems.append(f'{data.where}.Type "{written[:40]}" is unknown; expected {", ".join(JobType)}')
    return JobType.SERVICE


def _constraints(data: JsonObject) -> tuple[Constraint, ...]:
    return tuple(
        Constraint(**fields_of(item, json_fields.CONSTRAINT)) for item in data.objects("Constraints")
    )


def _affinities(data: JsonObject) -> tuple[Affinity, ...]:
    return tuple(Affinity(**fields_of(item, json_fields.AFFINITY)) for item in data.objects("Affinities"))


def _spreads(data: JsonObject) -> tuple[Spread, ...]:
    found = []
    for item in data.objects("Spreads"):
        targets = tuple(
            SpreadTarget(**{"value": "", "percent": 0, **fields_of(target, json_fields.SPREAD_TARGET)})
            for target in item.objects("SpreadTarget")
        )
        found.append(Spread(**{"attribute": "", **fields_of(item, json_fields.SPREAD)}, targets=targets))
    return tuple(found)


def _restart(data: JsonObject | None) -> Fields:
    if data is None:
        return {}
    fields = fields_of(data, json_fields.RESTART)
    # What `job_to_json` adds, so that a job read and written back stays the same.
    maximum = data.duration_ns("DelayMax")
    if maximum:
        fields |= {"delay_max_ns": maximum, "is_backoff": True}
    elif "delay_ns" in fields:
        fields |= {"delay_max_ns": fields["delay_ns"], "is_backoff": False}
    return fields


def _reschedule(data: JsonObject | None) -> Fields:
    fields = fields_of(data, json_fields.RESCHEDULE)
    if "attempts" in fields and "is_unlimited" not in fields:
        fields["is_unlimited"] = False
    return fields


def _group(data: JsonObject, inherited: dict[str, Fields], job_type: JobType) -> TaskGroup:
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
        update=update_strategy(
            inherited["Update"] | fields_of(data.object("Update"), json_fields.UPDATE), job_type
        ),
        migrate=migrate_strategy(
            inherited["Migrate"] | fields_of(data.object("Migrate"), json_fields.MIGRATE)
        ),
        disconnect=_disconnect(data),
        ephemeral_disk=EphemeralDisk(**fields_of(data.object("EphemeralDisk"), json_fields.DISK)),
        volumes=_volumes(data),
        services=_services(data),
        **fields_of(data, json_fields.GROUP),
    )


def _disconnect(data: JsonObject) -> DisconnectStrategy:
    block = data.object("Disconnect")
    if block is not None:
        return DisconnectStrategy(**fields_of(block, json_fields.DISCONNECT))
    return DisconnectStrategy(
        **present(stop_on_client_after_ns=data.duration_ns("StopAfterClientDisconnect"))
    )


def _volumes(data: JsonObject) -> tuple[VolumeRequest, ...]:
    found = []
    for name, value in sorted(data.map("Volumes").items()):
        item = JsonObject(value, f"{data.where}.Volumes.{name}", data.problems)
        item.refuse("MountOptions")
        found.append(VolumeRequest(name=name, **fields_of(item, json_fields.VOLUME)))
    return tuple(found)


def _network(data: JsonObject) -> Network:
    data.refuse("CNI")
    mode = data.filled("Mode")
    if mode not in (None, "host", "bridge", "none"):
        data.problems.append(f'{data.where}.Mode "{mode}" is not supported; expected host, bridge or none')
        mode = None
    static = [_port(port) for port in data.objects("ReservedPorts")]
    dynamic = [_port(port) for port in data.objects("DynamicPorts")]
    return Network(
        ports=tuple(static + dynamic),
        **present(mode=mode, hostname=data.text("Hostname")),
        **fields_of(data.object("DNS"), json_fields.DNS),
    )


def _port(data: JsonObject) -> Port:
    return Port(**{"label": "", **fields_of(data, json_fields.PORT)})


def _services(data: JsonObject, task: str = "") -> tuple[Service, ...]:
    found = []
    for item in data.objects("Services"):
        item.refuse("Connect")
        checks = tuple(
            _check(check, item, task, number) for number, check in enumerate(item.objects("Checks"), start=1)
        )
        found.append(Service(**{"name": "", **fields_of(item, json_fields.SERVICE)}, health_checks=checks))
    return tuple(found)


def _check(data: JsonObject, service: JsonObject, task: str, number: int) -> Check:
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
        is_grpc_over_tls=bool(data.boolean("GRPCUseTLS")),
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
            grpc_service=data.text("GRPCService"),
            command=data.text("Command"),
            args=data.texts("Args"),
            success_before_passing=data.integer("SuccessBeforePassing"),
            failures_before_critical=data.integer("FailuresBeforeCritical"),
        ),
    )


def _task(data: JsonObject, group_restart: Fields) -> Task:
    data.refuse(
        "Lifecycle", "Vault", "Consul", "ScalingPolicies", "Secrets",
        "Identities", "Actions", "Schedule", "CSIPluginConfig", "DispatchPayload", "Kind",
    )  # fmt: skip
    own_restart = _restart(data.object("RestartPolicy"))
    return Task(
        name=data.text("Name") or "",
        driver=data.text("Driver") or "",
        config=with_texts(data.map("Config")),
        resources=_resources(data.object("Resources")),
        constraints=_constraints(data),
        affinities=_affinities(data),
        devices=_devices(data.object("Resources")),
        restart=restart_policy(group_restart | own_restart) if own_restart else None,
        services=_services(data, data.text("Name") or ""),
        volume_mounts=tuple(
            VolumeMount(**{"volume": "", "destination": "", **fields_of(item, json_fields.MOUNT)})
            for item in data.objects("VolumeMounts")
        ),
        logs=LogRotation(**fields_of(data.object("LogConfig"), json_fields.LOGS)),
        templates=tuple(_template(item) for item in data.objects("Templates")),
        artifacts=tuple(_artifact(item) for item in data.objects("Artifacts")),
        **fields_of(data, json_fields.TASK),
    )


def _template(data: JsonObject) -> Template:
    data.refuse("Once")
    script = data.object("ChangeScript")
    return Template(
        **{"destination": "", **fields_of(data, json_fields.TEMPLATE)},
        change_script=ChangeScript(**{"command": "", **fields_of(script, json_fields.CHANGE_SCRIPT)})
        if script
        else None,
    )


def _artifact(data: JsonObject) -> Artifact:
    data.refuse("Chown")
    return Artifact(**{"source": "", **fields_of(data, json_fields.ARTIFACT)})


def _devices(data: JsonObject | None) -> tuple[DeviceRequest, ...]:
    return tuple(
        DeviceRequest(
            **{"name": "", **fields_of(item, json_fields.DEVICE)},
            constraints=_constraints(item),
            affinities=_affinities(item),
        )
        for item in (data.objects("Devices") if data is not None else [])
    )


def _resources(data: JsonObject | None) -> TaskResources:
    if data is None:
        return TaskResources(is_default=True)
    data.refuse("NUMA", "Networks")
    fields = fields_of(data, json_fields.RESOURCES)
    if fields.get("cpu") and fields.get("cores"):
        data.problems.append(
            f"{data.where}: CPU = {fields['cpu']} and Cores = {fields['cores']} are both set; "
            "expected only one of CPU and Cores"
        )
    if fields.get("cores"):
        fields["cpu"] = 0
    is_default = "memory" not in fields or data.boolean("MemoryIsDefault") or False
    return TaskResources(is_default=is_default, **fields)


__all__ = ["job_from_json", "job_to_json"]
