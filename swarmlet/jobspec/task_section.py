"""`task` and what stands inside it, and `service`, which a group may have too."""

from __future__ import annotations

from swarmlet.jobspec.check_section import ON_UPDATE, CheckDefaults, read_check_restart, read_checks
from swarmlet.jobspec.driver_config import with_texts
from swarmlet.jobspec.file_section import read_artifacts, read_templates
from swarmlet.jobspec.policy_section import (
    Fields,
    present,
    read_affinities,
    read_constraints,
    restart_fields,
    restart_policy,
)
from swarmlet.jobspec.section import Section
from swarmlet.jobspec.unsupported import (
    CONFIG_IGNORED,
    RESOURCES_IGNORED,
    RESOURCES_REFUSED,
    SERVICE_REFUSED,
    TASK_REFUSED,
)
from swarmlet.model.check import CheckRestart
from swarmlet.model.job import DEVICE_WHOLE, DeviceRequest, LogRotation, Service, Task, VolumeMount
from swarmlet.model.resources import TaskResources


def read_task(section: Section, group_restart: Fields, job_name: str, group_name: str) -> Task:
    """One `task "name" { … }`."""
    own_restart = restart_fields(section)
    config = section.block("config")
    base = f"{job_name}-{group_name}-{section.label}"
    task = Task(
        name=section.label,
        driver=section.text("driver") or "",
        config=with_texts(config.data()) if config else {},
        env=section.text_map("env"),
        resources=_resources(section),
        constraints=read_constraints(section),
        affinities=read_affinities(section),
        devices=_devices(section),
        meta=section.text_map("meta"),
        restart=restart_policy(group_restart | own_restart) if own_restart else None,
        services=read_services(section, base, section.label),
        volume_mounts=_volume_mounts(section),
        logs=_logs(section),
        templates=read_templates(section),
        artifacts=read_artifacts(section),
        **present(
            kill_timeout_ns=section.duration_ns("kill_timeout"),
            kill_signal=section.text("kill_signal"),
            user=section.text("user"),
            is_leader=section.boolean("leader"),
            shutdown_delay_ns=section.duration_ns("shutdown_delay"),
        ),
    )
    if config is not None and task.driver == "docker":
        config.ignore(CONFIG_IGNORED)
    section.refuse(TASK_REFUSED)
    section.finish()
    return task


def _devices(section: Section) -> tuple[DeviceRequest, ...]:
    resources = section.block("resources")
    found = []
    for block in resources.blocks("device", is_labelled=True) if resources else []:
        fraction = block.text("fraction")
        found.append(
            DeviceRequest(
                name=block.label,
                constraints=read_constraints(block),
                affinities=read_affinities(block),
                milli=DEVICE_WHOLE if fraction is None else _milli(block, fraction),
                **present(count=block.integer("count")),
            )
        )
        block.finish()
    return tuple(found)


def _milli(block: Section, fraction: str) -> int:
    """Thousandths of a device, from a number between 0.001 and 1."""
    try:
        milli = round(float(fraction) * DEVICE_WHOLE)
    except ValueError:
        milli = 0
    if not 1 <= milli <= DEVICE_WHOLE:
        block.problem(block.place("fraction"), f'fraction: "{fraction[:40]}"; expected 0.001 to 1')
        return DEVICE_WHOLE
    return milli


def _resources(section: Section) -> TaskResources:
    block = section.block("resources")
    if block is None:
        return TaskResources(is_default=True)
    cpu, cores = block.integer("cpu"), block.integer("cores")
    if cpu and cores:
        block.problem(
            block.place("cores"),
            f"cpu = {cpu} and cores = {cores} are both set: whole cores bring their CPU along; expected only one of "
            "cpu and cores",
        )
    resources = TaskResources(
        is_default=not block.has("memory"),
        **present(
            cpu=0 if cores else cpu,
            memory=block.integer("memory"),
            memory_max=block.integer("memory_max"),
            cores=cores,
        ),
    )
    block.blocks("device", is_labelled=True)
    block.refuse(RESOURCES_REFUSED)
    block.ignore(RESOURCES_IGNORED)
    block.finish()
    return resources


def _logs(section: Section) -> LogRotation:
    block = section.block("logs")
    if block is None:
        return LogRotation()
    logs = LogRotation(
        **present(
            max_files=block.integer("max_files"),
            max_file_mib=block.integer("max_file_size"),
            is_disabled=block.boolean("disabled"),
        )
    )
    block.ignore({"enabled": "use disabled"})
    block.finish()
    return logs


def _volume_mounts(section: Section) -> tuple[VolumeMount, ...]:
    mounts = []
    for block in section.blocks("volume_mount"):
        mounts.append(
            VolumeMount(
                volume=block.text("volume") or "",
                destination=block.text("destination") or "",
                is_read_only=block.boolean("read_only") or False,
            )
        )
        mode = block.text("propagation_mode")
        if mode not in (None, "private"):
            block.problem(block.place("propagation_mode"), "propagation_mode: expected private")
        block.finish()
    return tuple(mounts)


def read_services(section: Section, base: str, task: str = "") -> tuple[Service, ...]:
    """All `service` blocks; `base` is the name of a service that has none, `task` the task they stand in."""
    services = []
    for block in section.blocks("service"):
        services.append(_service(block, base, task))
        block.refuse(SERVICE_REFUSED)
        block.ignore(
            {
                "enable_tag_override": "it concerns Consul",
                "address": "services are not announced yet",
                "tagged_addresses": "it concerns Consul",
                "weights": "it concerns Consul",
                "kind": "it concerns Consul",
                "cluster": "it concerns Consul",
            }
        )
        block.finish()
        block.warn(block.start, "service is stored, but not announced: there is no service discovery yet")
    return tuple(services)


def _service(block: Section, base: str, task: str) -> Service:
    written = block.text("name") or base
    provider = block.choice("provider", ("nomad", "consul"))
    if provider == "consul":
        block.warn(block.place("provider"), "provider is ignored: there is no Consul integration")
    name = written.replace("${BASE}", base)
    inherited = CheckDefaults(
        service=name,
        task=block.text("task") or task,
        on_update=block.choice("on_update", ON_UPDATE),
        restart=read_check_restart(block, CheckRestart()),
    )
    return Service(
        name=name,
        tags=block.texts("tags") or (),
        meta=block.text_map("meta"),
        canary_tags=block.texts("canary_tags") or (),
        canary_meta=block.text_map("canary_meta"),
        health_checks=read_checks(block, inherited),
        **present(port_label=block.text("port"), provider=provider, address_mode=block.text("address_mode")),
    )
