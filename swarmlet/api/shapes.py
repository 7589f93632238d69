"""The nouns as JSON, in the names and units of Nomad's HTTP API, so that clients written for it work.

What Nomad has no name for is added under a name of our own, beside its fields.
"""

from __future__ import annotations

from typing import Any

from swarmlet.jobspec.json_writing import job_to_json
from swarmlet.model.allocation import AllocatedDevice, Allocation, TaskEvent, TaskState
from swarmlet.model.cluster import JoinToken, NamespaceRecord
from swarmlet.model.deployment import Deployment
from swarmlet.model.evaluation import Evaluation, PlacementFailure
from swarmlet.model.job import Job, Task
from swarmlet.model.node import DriverInfo, Node, NodeDevice
from swarmlet.model.resources import Quantity, cpu_list
from swarmlet.state.view import View

Json = dict[str, Any]

#: Of a job with more allocations than this, canaries are not sought for a deployment's row; their own rows say it.
CANARIES_SOUGHT_MAX = 20_000
#: Seconds in Nomad's node fields, nanoseconds elsewhere.
NS = 1_000_000_000


def timestamp(at_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds, as Go prints a time; the zero time for 0."""
    if at_ns <= 0:
        return "0001-01-01T00:00:00Z"
    seconds, rest = divmod(at_ns, NS)
    days, second_of_day = divmod(seconds, 86_400)
    year, month, day = _civil(days)
    hour, minute, second = second_of_day // 3600, second_of_day // 60 % 60, second_of_day % 60
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}{fraction}Z"


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a count of days since 1970-01-01 (proleptic Gregorian calendar)."""
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day


# Nodes.


def node_stub(node: Node) -> Json:
    """A node in a list."""
    return {
        "ID": node.id,
        "Name": node.name,
        "Datacenter": node.datacenter,
        "NodePool": node.node_pool,
        "NodeClass": "",
        "Address": node.address.rpartition(":")[0].strip("[]"),
        "MeshAddress": node.address,
        "Zone": node.zone,
        "Version": node.version,
        "FeatureLevel": node.feature_level,
        "Drain": node.drain is not None,
        "SchedulingEligibility": node.eligibility.value,
        "Status": node.status.value,
        "StatusDescription": node.status_description,
        "Drivers": {name: _driver(info) for name, info in sorted(node.drivers.items())},
        "NodeResources": {
            **_node_resources(node.resources),
            "Cpu": {
                "CpuShares": node.resources.cpu,
                "TotalCpuCores": int(node.attributes.get("cpu.numcores", "0")),
                "ReservableCpuCores": list(node.cores),
            },
            "Devices": [_node_device(each) for each in node.devices],
        },
        "ReservedResources": {
            **_node_resources(node.reserved),
            "Networks": {"ReservedHostPorts": ",".join(map(str, node.reserved_ports))},
        },
        "CreateIndex": node.create_index,
        "ModifyIndex": node.modify_index,
    }


def node_detail(node: Node, view: View) -> Json:
    """One node."""
    drain = node.drain
    return {
        **node_stub(node),
        "Attributes": dict(sorted(node.attributes.items())),
        "Meta": dict(sorted(node.meta.items())),
        # Ours: which of its cores tasks may have for themselves, which they have, and how much CPU one counts for.
        "Cores": {
            "Reservable": cpu_list(node.cores),
            "Taken": cpu_list(view.usage(node).cores),
            "MHz": node.core_mhz,
        },
        "HostVolumes": {
            name: {"Name": name, "Path": info.path, "ReadOnly": info.is_read_only}
            for name, info in sorted(node.host_volumes.items())
        },
        # Ours: made on demand, by "namespace/name".
        "Volumes": {
            key: {"Name": key.partition("/")[2], "Path": info.path, "Namespace": key.partition("/")[0]}
            for key, info in sorted(node.volumes.items())
        },
        "DrainStrategy": None
        if drain is None
        else {
            "Deadline": drain.deadline_ns,
            "IgnoreSystemJobs": drain.ignore_system_jobs,
            "ForceDeadline": timestamp(drain.force_at_ns),
            "StartedAt": timestamp(drain.started_at_ns),
        },
        "ComputedClass": node.computed_class,
        "BootID": node.boot_id,
        "StatusUpdatedAt": node.status_updated_at_ns // NS,
        "Events": [
            {"Message": event.message, "Subsystem": "Cluster", "Timestamp": timestamp(event.at_ns)}
            for event in node.events
        ],
    }


def _driver(info: DriverInfo) -> Json:
    return {
        "Detected": info.is_detected,
        "Healthy": info.is_healthy,
        "HealthDescription": info.reason,
        "Attributes": dict(sorted(info.attributes.items())),
    }


def _node_resources(quantity: Quantity) -> Json:
    return {
        "Cpu": {"CpuShares": quantity.cpu},
        "Memory": {"MemoryMB": quantity.memory},
        "Disk": {"DiskMB": quantity.disk},
    }


def _node_device(device: NodeDevice) -> Json:
    return {
        "Vendor": device.vendor,
        "Type": device.type,
        "Name": device.name,
        "Instances": [{"ID": name, "Healthy": True, "HealthDescription": ""} for name in device.ids],
        "Attributes": {name: {"String": text} for name, text in sorted(device.attributes.items())},
    }


# Allocations.


def allocation_stub(allocation: Allocation, view: View) -> Json:
    """An allocation in a list."""
    node = view.node(allocation.node_id)
    job = view.job_version(allocation.namespace, allocation.job_id, allocation.job_version)
    return {
        "ID": allocation.id,
        "EvalID": allocation.evaluation_id,
        "Name": allocation.name,
        "Namespace": allocation.namespace,
        "NodeID": allocation.node_id,
        "NodeName": node.name if node else "",
        "JobID": allocation.job_id,
        "JobType": job.type.value if job else "",
        "JobVersion": allocation.job_version,
        "TaskGroup": allocation.group,
        "DesiredStatus": allocation.desired_status.value,
        "DesiredDescription": allocation.desired_description,
        "ClientStatus": allocation.client_status.value,
        "ClientDescription": allocation.client_description,
        "DesiredTransition": {"Migrate": allocation.transition.migrate or None},
        "TaskStates": {name: task_state(state) for name, state in sorted(allocation.task_states.items())},
        "DeploymentID": allocation.deployment_id or "",
        "DeploymentStatus": _deployment_status(allocation),
        "FollowupEvalID": allocation.followup_evaluation or "",
        "PreviousAllocation": allocation.previous_allocation or "",
        "NextAllocation": allocation.next_allocation or "",
        "RescheduleTracker": {
            "Events": [
                {
                    "RescheduleTime": event.at_ns,
                    "PrevAllocID": event.previous_allocation,
                    "PrevNodeID": event.previous_node,
                    "Delay": event.delay_ns,
                }
                for event in allocation.reschedule_events
            ]
        }
        if allocation.reschedule_events
        else None,
        "CreateIndex": allocation.create_index,
        "ModifyIndex": allocation.modify_index,
        "CreateTime": allocation.create_time_ns,
        "ModifyTime": allocation.modify_time_ns,
    }


def _deployment_status(allocation: Allocation) -> Json | None:
    """Its verdict, and whether it is a canary that is not promoted."""
    health = allocation.health
    if health is None and not allocation.is_canary:
        return None
    return {
        "Healthy": None if health is None else health.is_healthy,
        "Timestamp": timestamp(0 if health is None else health.at_ns),
        "Canary": allocation.is_canary,
    }


def allocation_detail(allocation: Allocation, view: View) -> Json:
    """One allocation, with the job version that it runs."""
    job = view.job_version(allocation.namespace, allocation.job_id, allocation.job_version)
    group = job.group(allocation.group) if job else None
    ports = [
        {"Label": port.label, "Value": port.value, "To": port.to, "HostIP": port.host_ip}
        for port in allocation.ports
    ]
    return {
        **allocation_stub(allocation, view),
        "Job": job_json(job, view) if job else None,
        "AllocatedResources": {
            "Tasks": {
                task.name: {
                    "Cpu": _task_cpu(allocation, task),
                    "Memory": {
                        "MemoryMB": task.resources.memory,
                        "MemoryMaxMB": task.resources.memory_max,
                    },
                    "Devices": [
                        _allocated_device(each) for each in allocation.devices if each.task == task.name
                    ],
                }
                for task in (group.tasks if group else ())
            },
            "Shared": {"DiskMB": allocation.resources.disk, "Ports": ports, "Networks": []},
        },
        "Resources": {
            "CPU": allocation.resources.cpu,
            "Cores": sum(len(held.ids) for held in allocation.cores),
            "MemoryMB": allocation.resources.memory,
            "DiskMB": allocation.resources.disk,
        },
        "AllocModifyIndex": allocation.alloc_modify_index,
    }


def _task_cpu(allocation: Allocation, task: Task) -> Json:
    held = allocation.cores_of(task.name)
    return {
        "CpuShares": held.cpu if held else task.resources.cpu,
        "ReservedCores": list(held.ids) if held else None,
    }


def _allocated_device(held: AllocatedDevice) -> Json:
    """`Milli` is ours: thousandths of each that the task holds."""
    vendor, kind, name = held.device.split("/", 2)
    return {
        "Vendor": vendor,
        "Type": kind,
        "Name": name,
        "DeviceIDs": list(held.ids),
        "Milli": held.milli,
    }


def task_state(state: TaskState) -> Json:
    """What a task has been through."""
    return {
        "State": state.status.value,
        "Failed": state.is_failed,
        "Restarts": state.restarts,
        "LastRestart": timestamp(state.last_restart_ns),
        "StartedAt": timestamp(state.started_at_ns),
        "FinishedAt": timestamp(state.finished_at_ns),
        "ExitCode": state.exit_code,
        "OOMKilled": state.is_oom_killed,
        "Events": [_task_event(event) for event in state.events],
    }


def _task_event(event: TaskEvent) -> Json:
    return {
        "Type": event.kind,
        "Time": event.at_ns,
        "Message": event.message,
        "DisplayMessage": event.message,
        "Details": dict(sorted(event.details.items())),
    }


# Evaluations and deployments.


def evaluation_json(evaluation: Evaluation) -> Json:
    """An evaluation, with why something could not be placed."""
    return {
        "ID": evaluation.id,
        "Namespace": evaluation.namespace,
        "Priority": evaluation.priority,
        "Type": evaluation.type.value,
        "TriggeredBy": evaluation.trigger.value,
        "JobID": evaluation.job_id,
        "JobModifyIndex": evaluation.job_modify_index,
        "NodeID": evaluation.node_id or "",
        "DeploymentID": evaluation.deployment_id or "",
        "Status": evaluation.status.value,
        "StatusDescription": evaluation.status_description,
        "WaitUntil": timestamp(evaluation.wait_until_ns),
        "NextEval": evaluation.next_evaluation or "",
        "PreviousEval": evaluation.previous_evaluation or "",
        "BlockedEval": evaluation.blocked_evaluation or "",
        "FailedTGAllocs": {
            group: placement_failure(failure) for group, failure in sorted(evaluation.failed_groups.items())
        }
        or None,
        "QueuedAllocations": dict(sorted(evaluation.queued.items())),
        "Waiting": dict(sorted(evaluation.waiting.items())),
        "SnapshotIndex": evaluation.snapshot_index,
        "CreateIndex": evaluation.create_index,
        "ModifyIndex": evaluation.modify_index,
        "CreateTime": evaluation.create_time_ns,
        "ModifyTime": evaluation.modify_time_ns,
    }


def placement_failure(failure: PlacementFailure) -> Json:
    """Why a group is not whole: Nomad's metric, and how much is missing."""
    return {
        "NodesEvaluated": failure.nodes_evaluated,
        "NodesFiltered": failure.nodes_filtered,
        "NodesExhausted": failure.nodes_exhausted,
        "NodesAvailable": dict(sorted(failure.nodes_available.items())),
        "ConstraintFiltered": dict(sorted(failure.constraint_filtered.items())),
        "DimensionExhausted": dict(sorted(failure.dimension_exhausted.items())),
        "CoalescedFailures": failure.coalesced_failures,
        "Shortage": dict(sorted(failure.shortage.items())),
        "Demand": {
            "CPU": failure.demand.cpu,
            "Cores": failure.cores,
            "MemoryMB": failure.demand.memory,
            "DiskMB": failure.demand.disk,
        },
        "Refusals": [
            {
                "NodeID": refusal.node_id,
                "NodeName": refusal.node_name,
                "Reason": refusal.reason,
                "Dimension": refusal.dimension,
                "Shortage": refusal.shortage,
            }
            for refusal in failure.refusals
        ],
    }


def deployment_json(deployment: Deployment, view: View) -> Json:
    """A rollout."""
    canaries = _placed_canaries(deployment, view)
    return {
        "ID": deployment.id,
        "Namespace": deployment.namespace,
        "JobID": deployment.job_id,
        "JobVersion": deployment.job_version,
        "JobCreateIndex": deployment.job_create_index,
        "Status": deployment.status.value,
        "StatusDescription": deployment.status_description,
        "TaskGroups": {
            name: {
                "DesiredTotal": group.desired_total,
                "PlacedAllocs": group.placed,
                "HealthyAllocs": group.healthy,
                "UnhealthyAllocs": group.unhealthy,
                "AutoRevert": group.auto_revert,
                "ProgressDeadline": group.progress_deadline_ns,
                "RequireProgressBy": timestamp(group.require_progress_by_ns),
                "DesiredCanaries": group.desired_canaries,
                "PlacedCanaries": canaries.get(name, []),
                "Promoted": group.is_promoted,
                "AutoPromote": group.auto_promote,
            }
            for name, group in sorted(deployment.groups.items())
        },
        "CreateIndex": deployment.create_index,
        "ModifyIndex": deployment.modify_index,
        "CreateTime": deployment.create_time_ns,
        "ModifyTime": deployment.modify_time_ns,
    }


def _placed_canaries(deployment: Deployment, view: View) -> dict[str, list[str]]:
    """Group -> ids of all that were ever placed, promoted or not."""
    found: dict[str, list[str]] = {}
    if not any(group.desired_canaries for group in deployment.groups.values()):
        return found
    counts = view.status_counts(deployment.namespace, deployment.job_id).values()
    if sum(number for of_group in counts for number in of_group.values()) > CANARIES_SOUGHT_MAX:
        return found
    for each in view.allocations_of_job(deployment.namespace, deployment.job_id):
        if each.deployment_id == deployment.id and each.canary is not None:
            found.setdefault(each.group, []).append(each.id)
    return found


# Jobs.


def job_json(job: Job, view: View) -> Json:
    """One job, whole."""
    status = view.job_status(job.namespace, job.id)
    return {**job_to_json(job), "Status": status.value, "StatusDescription": ""}


def job_stub(job: Job, view: View) -> Json:
    """A job in a list."""
    return {
        "ID": job.id,
        "ParentID": "",
        "Name": job.name,
        "Namespace": job.namespace,
        "Datacenters": list(job.datacenters),
        "NodePool": job.node_pool,
        "Type": job.type.value,
        "Priority": job.priority,
        "Periodic": False,
        "ParameterizedJob": False,
        "Stop": job.is_stopped,
        "Status": view.job_status(job.namespace, job.id).value,
        "StatusDescription": "",
        "Version": job.version,
        "JobSummary": job_summary(job, view),
        "CreateIndex": job.create_index,
        "ModifyIndex": job.modify_index,
        "JobModifyIndex": job.job_modify_index,
        "SubmitTime": job.submit_time_ns,
    }


def job_summary(job: Job, view: View) -> Json:
    """How many allocations of each group are in which state."""
    names = ("Queued", "Complete", "Failed", "Running", "Starting", "Lost", "Unknown")
    summary: dict[str, dict[str, int]] = {group.name: dict.fromkeys(names, 0) for group in job.groups}
    for group_name, of_group in sorted(view.status_counts(job.namespace, job.id).items()):
        counts = summary.setdefault(group_name, dict.fromkeys(names, 0))
        for status, number in of_group.items():
            counts["Starting" if status == "pending" else status.capitalize()] += number
    for evaluation in view.evaluations_of_job(job.namespace, job.id):
        if evaluation.is_terminal():
            continue
        for group, waiting in evaluation.queued.items():
            if group in summary:
                summary[group]["Queued"] = waiting
    return {
        "JobID": job.id,
        "Namespace": job.namespace,
        "Summary": summary,
        "Children": None,
        "CreateIndex": job.create_index,
        "ModifyIndex": job.modify_index,
    }


# Tokens and namespaces.


def token_json(token: JoinToken) -> Json:
    """A join token as the cluster keeps it: never its secret."""
    return {
        "Accessor": token.accessor,
        "Description": token.description,
        "ExpiresAt": timestamp(token.expires_at_ns),
        "ExpiresAtNs": token.expires_at_ns,
        "UsesLeft": token.uses_left,
        "Revoked": token.is_revoked,
        "CreatedAt": timestamp(token.created_at_ns),
    }


def namespace_json(namespace: NamespaceRecord) -> Json:
    """A namespace."""
    return {
        "Name": namespace.name,
        "Description": namespace.description,
        "CreateIndex": namespace.create_index,
        "ModifyIndex": namespace.modify_index,
    }
