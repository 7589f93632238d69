"""Why a job is as it is: every allocation's place and history, everything that waits and what it waits for."""

from __future__ import annotations

from typing import Any

from swarmlet.api.shapes import placement_failure
from swarmlet.model.allocation import Allocation, ClientStatus, TaskState
from swarmlet.model.job import Job
from swarmlet.scheduler.definition import Difference, difference
from swarmlet.state.view import View

#: Ended allocations shown per group, newest first.
ENDED_MAX = 5


def explain_job(job: Job, view: View) -> dict[str, Any]:
    """The facts behind `swarmlet explain JOB`."""
    groups: dict[str, Any] = {
        group.name: {
            "Count": 0 if job.is_stopped else group.count,
            "Complete": 0,
            "Allocations": [],
            "Ended": [],
        }
        for group in job.groups
    }
    last: dict[tuple[str, str | int], Allocation] = {}
    for allocation in view.allocations_of_job(job.namespace, job.id):
        _keep_latest(last, allocation, job)
        group = groups.setdefault(
            allocation.group, {"Count": 0, "Complete": 0, "Allocations": [], "Ended": []}
        )
        where = "Ended" if allocation.is_terminal() else "Allocations"
        group[where].append(_allocation(allocation, view))
    for (name, _), allocation in last.items():
        groups[name]["Complete"] += _is_complete(allocation, job, view)
    for group in groups.values():
        group["Ended"] = group["Ended"][::-1][:ENDED_MAX]
    waiting: dict[str, Any] = {}
    delayed: list[dict[str, Any]] = []
    # The newest word about a group holds; open evaluations are newer than the ended ones they came from.
    evaluations = list(view.evaluations_of_job(job.namespace, job.id))
    latest = [item for item in evaluations[-1:] if item.is_terminal()]
    latest += [item for item in evaluations if not item.is_terminal()]
    for evaluation in latest:
        for name, sentence in evaluation.waiting.items():
            waiting.setdefault(name, {})["Waiting"] = sentence
        if evaluation.is_terminal() and any(not item.is_terminal() for item in evaluations):
            continue
        for name, failure in evaluation.failed_groups.items():
            waiting.setdefault(name, {})["Failure"] = placement_failure(failure)
        for name, count in evaluation.queued.items():
            if count:
                waiting.setdefault(name, {})["Queued"] = count
        if evaluation.wait_until_ns > view.time_ns and not evaluation.is_terminal():
            delayed.append(
                {
                    "EvalID": evaluation.id,
                    "UntilNs": evaluation.wait_until_ns,
                    "Reason": evaluation.status_description,
                }
            )
    if job.type.is_per_node and not job.is_stopped:
        # `count` says nothing there: every node that may take the group has it once.
        for name, group in groups.items():
            queued = waiting.get(name, {}).get("Queued", 0)
            group["Count"] = len(group["Allocations"]) + group["Complete"] + queued
    return {
        "ID": job.id,
        "Namespace": job.namespace,
        "Version": job.version,
        "Status": view.job_status(job.namespace, job.id).value,
        "Stop": job.is_stopped,
        "Groups": groups,
        "Waiting": waiting,
        "Delayed": delayed,
    }


def _keep_latest(last: dict[tuple[str, str | int], Allocation], allocation: Allocation, job: Job) -> None:
    """Remember the latest in each place that counts: an index of a group, or a node for jobs that run on every node."""
    if allocation.is_server_terminal():
        return
    place = (allocation.group, allocation.node_id if job.type.is_per_node else allocation.index)
    before = last.get(place)
    if before is None or before.create_index <= allocation.create_index:
        last[place] = allocation


def _is_complete(allocation: Allocation, job: Job, view: View) -> bool:
    """Whether work that ends has ended well, so that nothing comes in its place (the scheduler's own rule)."""
    group = job.group(allocation.group)
    if job.is_stopped or not job.type.is_finite or group is None:
        return False
    if allocation.client_status is not ClientStatus.COMPLETE:
        return False
    if not job.type.is_per_node and allocation.index >= group.count:
        return False
    old = view.job_version(job.namespace, job.id, allocation.job_version)
    return difference(old, job, group.name) is not Difference.DESTRUCTIVE


def _allocation(allocation: Allocation, view: View) -> dict[str, Any]:
    node = view.node(allocation.node_id)
    reasons = [
        f"{name}: {event.kind}{': ' + event.message if event.message else ''}"
        for name, state in sorted(allocation.task_states.items())
        for event in state.events[-2:]
    ]
    return {
        "ID": allocation.id,
        "Name": allocation.name,
        "NodeID": allocation.node_id,
        "NodeName": node.name if node else "",
        "NodeStatus": node.status.value if node else "",
        "JobVersion": allocation.job_version,
        "Canary": allocation.is_canary,
        "ClientStatus": allocation.client_status.value,
        "ClientDescription": allocation.client_description,
        "DesiredStatus": allocation.desired_status.value,
        "DesiredDescription": allocation.desired_description,
        "Healthy": allocation.health.is_healthy if allocation.health is not None else None,
        "PreviousAllocation": allocation.previous_allocation or "",
        "Events": reasons,
        "Restarts": [
            sentence
            for name, state in sorted(allocation.task_states.items())
            if (sentence := restarts(name, state))
        ],
    }


def restarts(task: str, state: TaskState) -> str:
    """How often a task was restarted, and what its last end was; empty when it never was."""
    if not state.restarts:
        return ""
    ends = [event.message for event in state.events if event.kind == "Terminated"]
    times = "once" if state.restarts == 1 else f"{state.restarts} times"
    return f"task {task} was restarted {times}" + (f"; it last ended with: {ends[-1]}" if ends else "")
