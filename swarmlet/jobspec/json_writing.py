"""`Job` as Nomad's JSON. What Nomad has and we do not is left out or null, as its own clients expect."""

from __future__ import annotations

from typing import Any

from swarmlet.jobspec import json_fields
from swarmlet.jobspec.json_fields import written
from swarmlet.model.check import Check
from swarmlet.model.job import (
    Affinity,
    Constraint,
    Job,
    RestartPolicy,
    Service,
    Spread,
    Task,
    TaskGroup,
    Template,
    UpdateStrategy,
)
from swarmlet.model.resources import Network


def job_to_json(job: Job) -> dict[str, Any]:
    """All of a job. `Status` is not the job's own to know: the API adds it."""
    return {
        "ID": job.id,
        "Name": job.name,
        "Namespace": job.namespace,
        "Region": "global",
        "Type": str(job.type),
        "Priority": job.priority,
        "AllAtOnce": job.is_gang,
        "Datacenters": list(job.datacenters),
        "NodePool": job.node_pool,
        "SchedulerAlgorithm": str(job.algorithm) if job.algorithm else None,
        "Constraints": _constraints(job.constraints),
        "Affinities": _affinities(job.affinities),
        "Spreads": _spreads(job.spreads),
        "TaskGroups": [_group(group) for group in job.groups],
        "Update": _update(job.update),
        "Meta": dict(job.meta),
        "Periodic": None,
        "ParameterizedJob": None,
        "Stop": job.is_stopped,
        "Stable": job.is_stable,
        "Version": job.version,
        "SubmitTime": job.submit_time_ns,
        "CreateIndex": job.create_index,
        "ModifyIndex": job.modify_index,
        "JobModifyIndex": job.job_modify_index,
    }


def _constraints(constraints: tuple[Constraint, ...]) -> list[dict[str, Any]]:
    return [written(item, json_fields.CONSTRAINT) for item in constraints]


def _affinities(affinities: tuple[Affinity, ...]) -> list[dict[str, Any]]:
    return [written(item, json_fields.AFFINITY) for item in affinities]


def _spreads(spreads: tuple[Spread, ...]) -> list[dict[str, Any]]:
    return [
        {
            **written(item, json_fields.SPREAD),
            "SpreadTarget": [written(target, json_fields.SPREAD_TARGET) for target in item.targets],
        }
        for item in spreads
    ]


def _update(update: UpdateStrategy | None) -> dict[str, Any] | None:
    return None if update is None else written(update, json_fields.UPDATE)


def _restart(restart: RestartPolicy | None) -> dict[str, Any] | None:
    if restart is None:
        return None
    # Ours: the delay doubles up to this; 0 means that it does not grow.
    maximum = restart.delay_max_ns if restart.is_backoff else 0
    return {**written(restart, json_fields.RESTART), "DelayMax": maximum}


def _group(group: TaskGroup) -> dict[str, Any]:
    return {
        "Name": group.name,
        **written(group, json_fields.GROUP),
        "Constraints": _constraints(group.constraints),
        "Affinities": _affinities(group.affinities),
        "Spreads": _spreads(group.spreads),
        "Networks": [_network(network) for network in group.networks],
        "RestartPolicy": _restart(group.restart),
        "ReschedulePolicy": written(group.reschedule, json_fields.RESCHEDULE) if group.reschedule else None,
        "Update": _update(group.update),
        "Migrate": {**written(group.migrate, json_fields.MIGRATE), "HealthCheck": "checks"},
        "Disconnect": written(group.disconnect, json_fields.DISCONNECT),
        "EphemeralDisk": written(group.ephemeral_disk, json_fields.DISK),
        "Volumes": {
            volume.name: {"Name": volume.name, **written(volume, json_fields.VOLUME)}
            for volume in group.volumes
        }
        or None,
        "Services": [_service(service) for service in group.services],
        "Tasks": [_task(task) for task in group.tasks],
    }


def _network(network: Network) -> dict[str, Any]:
    has_dns = network.dns_servers or network.dns_searches or network.dns_options
    return {
        "Mode": network.mode,
        "Hostname": network.hostname,
        "DNS": written(network, json_fields.DNS) if has_dns else None,
        "ReservedPorts": [written(port, json_fields.PORT) for port in network.ports if port.static],
        "DynamicPorts": [written(port, json_fields.PORT) for port in network.ports if not port.static],
    }


def check_to_json(check: Check) -> dict[str, Any]:
    """A health check in Nomad's shape."""
    return {
        "Name": check.name,
        "Type": check.kind.value,
        "TaskName": check.task,
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "PortLabel": check.port_label,
        "Protocol": check.protocol,
        "Method": check.method,
        "Path": check.path,
        "Header": {name: list(values) for name, values in check.headers.items()},
        "Body": check.body,
        "TLSSkipVerify": not check.is_tls_verified,
        "TLSServerName": check.tls_server_name,
        "GRPCService": check.grpc_service,
        "GRPCUseTLS": check.is_grpc_over_tls,
        "Command": check.command,
        "Args": list(check.args),
        "InitialStatus": "passing" if check.is_passing_at_first else "",
        "SuccessBeforePassing": check.success_before_passing,
        "FailuresBeforeCritical": check.failures_before_critical,
        "OnUpdate": "ignore" if check.is_ignored_on_update else "require_healthy",
        "CheckRestart": {"Limit": check.restart.limit, "Grace": check.restart.grace_ns}
        if check.restart.limit
        else None,
    }


def _service(service: Service) -> dict[str, Any]:
    return {
        **written(service, json_fields.SERVICE),
        "Checks": [check_to_json(check) for check in service.health_checks],
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "Name": task.name,
        "Driver": task.driver,
        "Config": task.config,
        "ImageDigest": task.image_digest,
        **written(task, json_fields.TASK),
        "Services": [_service(service) for service in task.services],
        "Constraints": _constraints(task.constraints),
        "Affinities": _affinities(task.affinities),
        "Resources": {
            **written(task.resources, json_fields.RESOURCES),
            # Ours: the job said nothing.
            "MemoryIsDefault": task.resources.is_default,
            "Devices": [
                {
                    **written(item, json_fields.DEVICE),
                    "Constraints": _constraints(item.constraints),
                    "Affinities": _affinities(item.affinities),
                }
                for item in task.devices
            ]
            or None,
        },
        "RestartPolicy": _restart(task.restart),
        "LogConfig": written(task.logs, json_fields.LOGS),
        "VolumeMounts": [written(item, json_fields.MOUNT) for item in task.volume_mounts],
        "Templates": [_template(template) for template in task.templates] or None,
        "Artifacts": [written(artifact, json_fields.ARTIFACT) for artifact in task.artifacts] or None,
    }


def _template(template: Template) -> dict[str, Any]:
    script = template.change_script
    return {
        **written(template, json_fields.TEMPLATE),
        "ChangeScript": written(script, json_fields.CHANGE_SCRIPT) if script else None,
    }
