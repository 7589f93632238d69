"""What-if and explanations as JSON; also for the command line, which tries things without an agent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swarmlet.api.shapes import placement_failure
from swarmlet.errors import InvalidInput
from swarmlet.ids import NodeId
from swarmlet.model.allocation import DesiredStatus
from swarmlet.model.job import Job
from swarmlet.model.plan import Plan, Run
from swarmlet.placement.explanation import Candidate
from swarmlet.scheduler.what_if import GroupKey, Standing, WhatIf, explained
from swarmlet.state.view import View


def candidate_json(candidate: Candidate) -> dict[str, Any]:
    """A node's part in a decision; its scores in the order in which they decide."""
    return {
        "NodeID": candidate.node_id,
        "NodeName": candidate.node_name,
        "Rank": candidate.rank,
        "Scores": dict(candidate.scores),
        "Reason": candidate.reason,
    }


def standing_json(key: GroupKey, standing: Standing, view: View) -> dict[str, Any]:
    """How a group stands."""
    per_node: dict[str, int] = {}
    for _, node_id in standing.places:
        node = view.node(node_id)
        name = node.name if node is not None else node_id
        per_node[name] = per_node.get(name, 0) + 1
    return {
        "Namespace": key[0],
        "JobID": key[1],
        "TaskGroup": key[2],
        "Wanted": standing.wanted,
        "Placed": len(standing.places),
        "Waiting": standing.waiting,
        "Nodes": dict(sorted(per_node.items())),
        "Failure": placement_failure(standing.failure) if standing.failure is not None else None,
        "Sentence": standing.sentence,
    }


def planned(trial: WhatIf, job: Job, *, is_explained: bool) -> dict[str, Any]:
    """What submitting `job` would do at once, in Nomad's shape and with what is ours. Uses `trial` up."""
    explanation: dict[str, Any] = {}
    trial.submit([job])
    view = trial.view
    fresh = view.job(job.namespace, job.id)
    assert fresh is not None, "it was registered a moment ago"
    if is_explained:
        explanation = {
            group.name: [candidate_json(each) for each in explained(view, fresh, group.name)]
            for group in fresh.groups
        }
    plan = trial.plan_next(job.namespace, job.id)
    return {
        "Annotations": {"DesiredTGUpdates": _updates(fresh, plan, view)},
        "FailedTGAllocs": {name: placement_failure(each) for name, each in sorted(plan.failed_groups.items())}
        if plan
        else None,
        "Placements": _placements(plan, view) if plan else {},
        "Waiting": dict(sorted(plan.waiting.items())) if plan else {},
        "Queued": dict(sorted(plan.queued.items())) if plan else {},
        "Explain": explanation,
        "Diff": None,
        "Warnings": "",
    }


def _placements(plan: Plan, view: View) -> dict[str, dict[str, int]]:
    """Group -> node -> how many; canaries and what goes on beside them are placed apart."""
    runs: dict[str, list[Run]] = {}
    for placement in plan.placements:
        runs.setdefault(placement.group, []).extend(placement.runs)
    return {group: _nodes(of_group, view) for group, of_group in runs.items()}


def _nodes(runs: Iterable[Run], view: View) -> dict[str, int]:
    found: dict[str, int] = {}
    for run in runs:
        node = view.node(run.node_id)
        name = node.name if node is not None else run.node_id
        found[name] = found.get(name, 0) + run.count
    return dict(sorted(found.items()))


def _updates(job: Job, plan: Plan | None, view: View) -> dict[str, dict[str, int]]:
    found = {
        group.name: {
            "Place": 0,
            "Stop": 0,
            "Migrate": 0,
            "InPlaceUpdate": 0,
            "DestructiveUpdate": 0,
            "Ignore": 0,
            "Canary": 0,
            "Preemptions": 0,
        }
        for group in job.groups
    }
    if plan is None:
        return found
    for placement in plan.placements:
        count = sum(run.count for run in placement.runs)
        if placement.is_canary:
            found[placement.group]["Canary"] += count
            continue
        replaced = 0
        for each in placement.replacements:
            previous = view.allocation(each.previous)
            is_old = previous is not None and previous.job_version != job.version
            replaced += is_old and placement.job_version is None
        found[placement.group]["Place"] += count - replaced
        found[placement.group]["DestructiveUpdate"] += replaced
    for stop in plan.stops:
        row = view.allocation(stop.allocation_id)
        if row is None:
            continue
        if stop.desired is DesiredStatus.EVICT:
            for group in job.groups[:1]:
                found[group.name]["Preemptions"] += 1
        elif row.group in found:
            found[row.group]["Stop"] += 1
    for update in plan.updates:
        row = view.allocation(update.allocation_id)
        if row is not None and row.group in found:
            found[row.group]["InPlaceUpdate"] += 1
    for row in view.allocations_of_job(job.namespace, job.id):
        if row.group in found and not row.is_terminal():
            found[row.group]["Ignore"] += 1
    for counts in found.values():
        counts["Ignore"] = max(
            0, counts["Ignore"] - counts["Stop"] - counts["InPlaceUpdate"] - counts["DestructiveUpdate"]
        )
    return found


def tried(trial: WhatIf, jobs: list[Job], lose: list[str]) -> dict[str, Any]:
    """Where everything goes, and how it stands after the losses. Raises InvalidInput for an unknown name."""
    trial.submit(jobs)
    trial.settle()
    view = trial.view
    answered: dict[str, Any] = {
        "Nodes": _usage(view),
        "Groups": [standing_json(key, each, view) for key, each in sorted(trial.standings().items())],
    }
    if lose:
        lost = [node for name in lose for node in _named(view, name)]
        before = trial.standings()
        trial.lose(lost)
        trial.settle()
        view = trial.view
        after = trial.standings()
        answered["Lost"] = sorted(node.name for node in view.nodes() if node.id in lost)
        answered["After"] = [
            {
                **standing_json(key, each, view),
                "Survived": len(set(before[key].places) & set(each.places)),
                "Moved": len(set(each.places) - set(before[key].places)),
            }
            for key, each in sorted(after.items())
        ]
        answered["NodesAfter"] = _usage(view)
    return answered


def _named(view: View, name: str) -> list[NodeId]:
    """The node of that name or id, or all nodes of that zone."""
    node = view.node_by_name(name) or view.node(NodeId(name))
    if node is not None:
        return [node.id]
    found = [each.id for each in view.nodes() if each.zone == name]
    if not found:
        raise InvalidInput(f'"{name}" is neither a node nor a zone')
    return found


def _usage(view: View) -> list[dict[str, Any]]:
    found = []
    for node in sorted(view.nodes(), key=lambda each: each.name):
        available, used = node.available(), view.usage(node).quantity
        found.append(
            {
                "Name": node.name,
                "Zone": node.zone,
                "Status": node.status.value,
                "Allocations": sum(1 for each in view.allocations_on_node(node.id) if not each.is_terminal()),
                "CPU": [used.cpu, available.cpu],
                "MemoryMB": [used.memory, available.memory],
                "DiskMB": [used.disk, available.disk],
            }
        )
    return found


def image_changes(before: Job | None, after: Job) -> list[dict[str, str]]:
    """Images of `after` that are new, or another one than in `before`: by name or by digest."""
    found = []
    for group in after.groups:
        for task in group.tasks:
            old = before.task(group.name, task.name) if before is not None else None
            image, was = str(task.config.get("image", "")), str(old.config.get("image", "")) if old else ""
            digest_was = old.image_digest if old is not None else ""
            if task.driver == "docker" and (image, task.image_digest) != (was, digest_was):
                found.append(
                    {
                        "TaskGroup": group.name,
                        "Task": task.name,
                        "Image": image,
                        "Digest": task.image_digest,
                        "OldImage": was,
                        "OldDigest": digest_was,
                    }
                )
    return found
