"""`Job` as Nomad's JSON. What Nomad has and we do not is left out or null, as its own clients expect."""

from __future__ import annotations

from typing import Any

from swarmlet.model.check import Check
from swarmlet.model.job import (
    Affinity,
    Artifact,
    Constraint,
    Job,
    MigrateStrategy,
    ReschedulePolicy,
    RestartPolicy,
    Service,
    Spread,
    Task,
    TaskGroup,
    Template,
    UpdateStrategy,
)
from swarmlet.model.resources import Network, Port


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
    return [{"LTarget": item.left, "RTarget": item.right, "Operand": item.operand} for item in constraints]


def _affinities(affinities: tuple[Affinity, ...]) -> list[dict[str, Any]]:
    return [
        {"LTarget": item.left, "RTarget": item.right, "Operand": item.operand, "Weight": item.weight}
        for item in affinities
    ]


def _spreads(spreads: tuple[Spread, ...]) -> list[dict[str, Any]]:
    return [
        {
            "Attribute": item.attribute,
            "Weight": item.weight,
            "SpreadTarget": [{"Value": target.value, "Percent": target.percent} for target in item.targets],
        }
        for item in spreads
    ]


def _update(update: UpdateStrategy | None) -> dict[str, Any] | None:
    if update is None:
        return None
    return {
        "MaxParallel": update.max_parallel,
        "HealthCheck": str(update.health_check),
        "MinHealthyTime": update.min_healthy_ns,
        "HealthyDeadline": update.healthy_deadline_ns,
        "ProgressDeadline": update.progress_deadline_ns,
        "AutoRevert": update.auto_revert,
        "AutoPromote": False,
        "Canary": 0,
        "Stagger": update.stagger_ns,
    }


def _restart(restart: RestartPolicy | None) -> dict[str, Any] | None:
    if restart is None:
        return None
    return {
        "Attempts": restart.attempts,
        "Interval": restart.interval_ns,
        "Delay": restart.delay_ns,
        # Ours: the delay doubles up to this; 0 means that it does not grow.
        "DelayMax": restart.delay_max_ns if restart.is_backoff else 0,
        "Mode": str(restart.mode),
    }


def _reschedule(policy: ReschedulePolicy | None) -> dict[str, Any] | None:
    if policy is None:
        return None
    return {
        "Attempts": policy.attempts,
        "Interval": policy.interval_ns,
        "Delay": policy.delay_ns,
        "DelayFunction": str(policy.delay_function),
        "MaxDelay": policy.max_delay_ns,
        "Unlimited": policy.is_unlimited,
    }


def _migrate(migrate: MigrateStrategy) -> dict[str, Any]:
    return {
        "MaxParallel": migrate.max_parallel,
        "HealthCheck": "checks",
        "MinHealthyTime": migrate.min_healthy_ns,
        "HealthyDeadline": migrate.healthy_deadline_ns,
    }


def _group(group: TaskGroup) -> dict[str, Any]:
    return {
        "Name": group.name,
        "Count": group.count,
        # Ours, as `SchedulerAlgorithm` of a job.
        "AllAtOnce": group.is_gang,
        "Constraints": _constraints(group.constraints),
        "Affinities": _affinities(group.affinities),
        "Spreads": _spreads(group.spreads),
        "Networks": [_network(network) for network in group.networks],
        "RestartPolicy": _restart(group.restart),
        "ReschedulePolicy": _reschedule(group.reschedule),
        "Update": _update(group.update),
        "Migrate": _migrate(group.migrate),
        "Disconnect": {
            "Replace": group.disconnect.replace,
            "StopOnClientAfter": group.disconnect.stop_on_client_after_ns,
            "LostAfter": group.disconnect.lost_after_ns,
        },
        "EphemeralDisk": {
            "SizeMB": group.ephemeral_disk.size,
            "Sticky": group.ephemeral_disk.is_sticky,
            "Migrate": group.ephemeral_disk.is_migrated,
        },
        "Volumes": {
            volume.name: {
                "Name": volume.name,
                "Type": volume.kind,
                "Source": volume.source,
                "ReadOnly": volume.is_read_only,
                "PerAlloc": volume.is_per_alloc,
            }
            for volume in group.volumes
        }
        or None,
        "Services": [_service(service) for service in group.services],
        "Tasks": [_task(task) for task in group.tasks],
        "Meta": dict(group.meta),
        "ShutdownDelay": group.shutdown_delay_ns,
    }


def _network(network: Network) -> dict[str, Any]:
    has_dns = network.dns_servers or network.dns_searches or network.dns_options
    return {
        "Mode": network.mode,
        "Hostname": network.hostname,
        "DNS": {
            "Servers": list(network.dns_servers),
            "Searches": list(network.dns_searches),
            "Options": list(network.dns_options),
        }
        if has_dns
        else None,
        "ReservedPorts": [_port(port) for port in network.ports if port.static],
        "DynamicPorts": [_port(port) for port in network.ports if not port.static],
    }


def _port(port: Port) -> dict[str, Any]:
    return {"Label": port.label, "Value": port.static, "To": port.to, "HostNetwork": port.host_network}


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
        "Name": service.name,
        "PortLabel": service.port_label,
        "Provider": service.provider,
        "AddressMode": service.address_mode,
        "Tags": list(service.tags),
        "Meta": dict(service.meta),
        "Checks": [check_to_json(check) for check in service.health_checks],
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "Name": task.name,
        "Driver": task.driver,
        "User": task.user,
        "Config": task.config,
        "ImageDigest": task.image_digest,
        "Env": dict(task.env),
        "Services": [_service(service) for service in task.services],
        "Constraints": _constraints(task.constraints),
        "Affinities": _affinities(task.affinities),
        "Resources": {
            "CPU": task.resources.cpu,
            "Cores": 0,
            "MemoryMB": task.resources.memory,
            # Ours: the job said nothing.
            "MemoryIsDefault": task.resources.is_default,
            "MemoryMaxMB": task.resources.memory_max,
            "Devices": [
                {
                    "Name": item.name,
                    "Count": item.count,
                    "Constraints": _constraints(item.constraints),
                    "Affinities": _affinities(item.affinities),
                    # Ours: thousandths of a device.
                    "Milli": item.milli,
                }
                for item in task.devices
            ]
            or None,
        },
        "RestartPolicy": _restart(task.restart),
        "Meta": dict(task.meta),
        "KillTimeout": task.kill_timeout_ns,
        "KillSignal": task.kill_signal,
        "Leader": task.is_leader,
        "ShutdownDelay": task.shutdown_delay_ns,
        "LogConfig": {
            "MaxFiles": task.logs.max_files,
            "MaxFileSizeMB": task.logs.max_file_mib,
            "Disabled": task.logs.is_disabled,
        },
        "VolumeMounts": [
            {"Volume": item.volume, "Destination": item.destination, "ReadOnly": item.is_read_only}
            for item in task.volume_mounts
        ],
        "Templates": [_template(template) for template in task.templates] or None,
        "Artifacts": [_artifact(artifact) for artifact in task.artifacts] or None,
    }


def _template(template: Template) -> dict[str, Any]:
    script = template.change_script
    return {
        "SourcePath": template.source,
        "DestPath": template.destination,
        "EmbeddedTmpl": template.data,
        "ChangeMode": template.change_mode.value,
        "ChangeSignal": template.change_signal,
        "ChangeScript": {
            "Command": script.command,
            "Args": list(script.args),
            "Timeout": script.timeout_ns,
            "FailOnError": script.is_fail_on_error,
        }
        if script
        else None,
        "Splay": template.splay_ns,
        "Perms": template.perms,
        "Uid": template.uid,
        "Gid": template.gid,
        "LeftDelim": template.left_delimiter,
        "RightDelim": template.right_delimiter,
        "Envvars": template.is_env,
        "ErrMissingKey": template.is_error_on_missing_key,
    }


def _artifact(artifact: Artifact) -> dict[str, Any]:
    return {
        "GetterSource": artifact.source,
        "RelativeDest": artifact.destination,
        "GetterMode": artifact.mode,
        "GetterOptions": dict(artifact.options),
        "GetterHeaders": dict(artifact.headers),
        "GetterInsecure": artifact.is_insecure,
    }
