"""`job` and `group`, and what stands inside them except tasks."""

from __future__ import annotations

from swarmlet.ids import JobId, Namespace
from swarmlet.jobspec.policy_section import (
    Fields,
    migrate_fields,
    migrate_strategy,
    present,
    read_affinities,
    read_constraints,
    read_disconnect,
    read_spreads,
    reschedule_fields,
    reschedule_policy,
    restart_fields,
    restart_policy,
    update_fields,
    update_strategy,
)
from swarmlet.jobspec.section import Section
from swarmlet.jobspec.task_section import read_services, read_task
from swarmlet.jobspec.unsupported import (
    GROUP_REFUSED,
    JOB_IGNORED,
    JOB_REFUSED,
    NETWORK_IGNORED,
    NETWORK_REFUSED,
)
from swarmlet.model.job import Algorithm, EphemeralDisk, Job, JobType, TaskGroup, VolumeRequest
from swarmlet.model.resources import Network, Port

MODES = ("host", "bridge", "none")


def read_job(section: Section, source_text: str) -> Job:
    """One `job "id" { … }`. Problems are noted in the section's reading."""
    job_type = _type(section)
    inherited = {
        "update": update_fields(section),
        "reschedule": reschedule_fields(section),
        "migrate": migrate_fields(section),
    }
    groups = [
        _group(block, inherited, job_type, section.label)
        for block in section.blocks("group", is_labelled=True)
    ]
    for block in section.blocks("task", is_labelled=True):
        # A task directly in the job is a group of one with the task's name.
        groups.append(
            TaskGroup(
                name=block.label,
                tasks=(read_task(block, {}, section.label, block.label),),
                update=update_strategy(inherited["update"], job_type),
                reschedule=reschedule_policy(inherited["reschedule"], job_type),
                migrate=migrate_strategy(inherited["migrate"]),
            )
        )
    by_itself = {group.update.auto_promote for group in groups if group.update and group.update.canary}
    if len(by_itself) > 1:
        section.warn(
            section.start,
            "auto_promote has no effect while another group has canaries without it: all groups are promoted together, by hand",
        )
    region = section.text("region")
    if region is not None:
        section.warn(section.place("region"), f'region is ignored: there are no regions (found "{region}")')
    namespace = section.text("namespace")
    job = Job(
        id=JobId(section.text("id") or section.label),
        name=section.text("name") or section.label,
        type=job_type,
        constraints=read_constraints(section),
        affinities=read_affinities(section),
        spreads=read_spreads(section),
        algorithm=_algorithm(section),
        groups=tuple(groups),
        update=update_strategy(inherited["update"], job_type) if inherited["update"] else None,
        meta=section.text_map("meta"),
        source=source_text,
        **present(
            namespace=Namespace(namespace) if namespace else None,
            priority=section.integer("priority"),
            datacenters=section.texts("datacenters"),
            node_pool=section.text("node_pool"),
            is_gang=section.boolean("all_at_once"),
        ),
    )
    section.refuse(JOB_REFUSED)
    section.ignore(JOB_IGNORED)
    section.finish()
    return job


def _algorithm(section: Section) -> Algorithm | None:
    chosen = section.choice("scheduler_algorithm", tuple(Algorithm))
    return Algorithm(chosen) if chosen else None


def _type(section: Section) -> JobType:
    chosen = section.choice("type", tuple(JobType))
    return JobType(chosen) if chosen else JobType.SERVICE


def _group(section: Section, inherited: dict[str, Fields], job_type: JobType, job_name: str) -> TaskGroup:
    restart = restart_fields(section)
    tasks = tuple(
        read_task(block, restart, job_name, section.label)
        for block in section.blocks("task", is_labelled=True)
    )
    group = TaskGroup(
        name=section.label,
        tasks=tasks,
        constraints=read_constraints(section),
        affinities=read_affinities(section),
        spreads=read_spreads(section),
        networks=_networks(section),
        restart=restart_policy(restart),
        reschedule=reschedule_policy(inherited["reschedule"] | reschedule_fields(section), job_type),
        update=update_strategy(inherited["update"] | update_fields(section), job_type),
        migrate=migrate_strategy(inherited["migrate"] | migrate_fields(section)),
        disconnect=read_disconnect(section),
        ephemeral_disk=_ephemeral_disk(section),
        volumes=_volumes(section),
        services=read_services(section, f"{job_name}-{section.label}"),
        meta=section.text_map("meta"),
        **present(
            count=section.integer("count"),
            shutdown_delay_ns=section.duration_ns("shutdown_delay"),
            is_gang=section.boolean("all_at_once"),
        ),
    )
    section.refuse(GROUP_REFUSED)
    section.finish()
    return group


def _networks(section: Section) -> tuple[Network, ...]:
    block = section.block("network")
    if block is None:
        return ()
    mode = block.text("mode")
    if mode is not None and mode not in MODES:
        reason = "CNI networks are not supported; " if mode.startswith("cni/") else ""
        block.problem(
            block.place("mode"), f'mode: "{mode[:40]}" is unknown; {reason}expected {", ".join(MODES)}'
        )
        mode = None
    dns = block.block("dns")
    network = Network(
        ports=tuple(_port(port) for port in block.blocks("port", is_labelled=True)),
        **present(
            mode=mode,
            hostname=block.text("hostname"),
            dns_servers=dns.texts("servers") if dns else None,
            dns_searches=dns.texts("searches") if dns else None,
            dns_options=dns.texts("options") if dns else None,
        ),
    )
    if dns:
        dns.finish()
    block.refuse(NETWORK_REFUSED)
    block.ignore(NETWORK_IGNORED)
    block.finish()
    return (network,)


def _port(block: Section) -> Port:
    port = Port(
        label=block.label,
        **present(
            static=block.integer("static"), to=block.integer("to"), host_network=block.text("host_network")
        ),
    )
    block.ignore({"ignore_collision": "ports never collide here"})
    block.finish()
    return port


def _ephemeral_disk(section: Section) -> EphemeralDisk:
    block = section.block("ephemeral_disk")
    if block is None:
        return EphemeralDisk()
    disk = EphemeralDisk(
        **present(
            size=block.integer("size"),
            is_sticky=block.boolean("sticky"),
            is_migrated=block.boolean("migrate"),
        )
    )
    if disk.is_migrated and not disk.is_sticky:
        block.warn(block.place("migrate"), "migrate changes nothing without sticky = true: nothing is kept")
    block.finish()
    return disk


def _volumes(section: Section) -> tuple[VolumeRequest, ...]:
    volumes = []
    for block in section.blocks("volume", is_labelled=True):
        kind = block.text("type") or "host"
        if kind == "csi":
            block.problem(
                block.place("type"), 'type "csi" is not supported: CSI does not exist yet; expected host'
            )
        elif kind != "host":
            block.problem(block.place("type"), f'type: "{kind[:40]}" is unknown; expected host')
        volumes.append(
            VolumeRequest(
                name=block.label,
                source=block.text("source") or "",
                is_read_only=block.boolean("read_only") or False,
                is_per_alloc=block.boolean("per_alloc") or False,
            )
        )
        block.refuse({"mount_options": "it concerns CSI volumes"})
        block.ignore(
            {
                "sticky": "a group that writes to a volume always goes back to it",
                "access_mode": "every volume is a directory of one node, for all who may use it there",
                "attachment_mode": "every volume is a directory of one node",
            }
        )
        block.finish()
    return tuple(volumes)
