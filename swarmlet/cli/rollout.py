"""Watching a job version roll out: one line that changes on a terminal, a line per change elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from swarmlet.api.client import Client
from swarmlet.cli.canary import healthy_canaries, trying, waits_for_promotion
from swarmlet.cli.explanation import failure_lines
from swarmlet.cli.health import failing_checks, is_unsettled
from swarmlet.cli.output import is_terminal, paint, say_json, say_now, short

#: A rollout without a deployment (batch, or nothing to place) is over when nothing is pending.
WAIT_SECONDS = "5s"
#: One on every node that may take them: how many that is, the scheduler says.
PER_NODE_TYPES = frozenset({"system", "sysbatch"})
#: Seconds between repaints of the terminal's line.
REPAINT_SECONDS = 0.5
EXIT_FAILED = 2
#: What runs and is not healthy after this long is asked why; and again as often.
UNHEALTHY_SECONDS = 5.0
#: Answers of checks may differ each time: no more are printed.
COMPLAINTS_MAX = 20


class _Line:
    """One line that is overwritten on a terminal; elsewhere only what changed is printed."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""
        self._is_open = False

    def show(self, text: str, changing: str = "") -> None:
        if self._quiet:
            return
        if is_terminal():
            sys.stdout.write(f"\r\x1b[K{text}{changing}")
            sys.stdout.flush()
            self._is_open = True
        elif text != self._last:
            say_now(text + changing)
        self._last = text

    def note(self, text: str) -> None:
        if self._quiet:
            return
        if self._is_open:
            sys.stdout.write("\r\x1b[K")
        say_now(text)
        self._last = ""

    def close(self) -> None:
        if self._is_open:
            sys.stdout.write("\n")
            self._is_open = False


def way_on(deployment: dict[str, Any], allocations: list[dict[str, Any]]) -> str:
    """The command that lets a deployment go on that waits for somebody; empty where it does not wait."""
    if deployment["Status"] == "paused":
        verb = "resume"
    elif waits_for_promotion(deployment, allocations):
        verb = "promote"
    else:
        return ""
    inside = deployment["Namespace"]
    return f"swarmlet deployment {verb} {deployment['JobID']}" + (
        f" --namespace {inside}" if inside != "default" else ""
    )


def watch_rollout(
    api: Client, namespace: str, job_id: str, answered: dict[str, Any], *, as_json: bool = False
) -> int:
    """Watch until the version that was submitted is healthy (0), cannot be placed or fails (2). Ctrl-C detaches (0).

    Canaries that are all healthy and wait for somebody to promote them are the end of it, too (0).
    `answered`: what the API said to the submission. Versions that follow (the one that a failed rollout goes back
    to, or what somebody else submits) are not this version's success.
    """
    line = _Line(as_json)
    api.namespace = namespace
    started = time.monotonic()
    try:
        submitted = _submitted(api, job_id, answered["JobModifyIndex"])
        outcome = _watch(api, submitted, answered["EvalID"], line, started)
    except KeyboardInterrupt:
        line.close()
        say_now(f"detached; {job_id} goes on. See: swarmlet job status {job_id}")
        return 0
    line.close()
    if as_json:
        say_json(outcome)
    return 0 if outcome["Healthy"] else EXIT_FAILED


def _submitted(api: Client, job_id: str, index: int) -> dict[str, Any]:
    """The version of the job that a submission made (or found unchanged)."""
    current: dict[str, Any] = api.get(f"/v1/job/{job_id}")
    if current["JobModifyIndex"] == index:
        return current
    kept: list[dict[str, Any]] = api.get(f"/v1/job/{job_id}/versions")["Versions"]
    return next((version for version in kept if version["JobModifyIndex"] == index), current)


def _watch(
    api: Client, submitted: dict[str, Any], evaluation_id: str, line: _Line, started: float
) -> dict[str, Any]:
    index = 0
    job_id = submitted["ID"]
    shown_failures: set[tuple[str, ...]] = set()
    complained: set[str] = set()
    asked_at = started
    while True:
        seen = _look(api, submitted, evaluation_id)
        seconds = time.monotonic() - started
        text = _summary(seen)
        line.show(text, f" · {seconds:.0f} s")
        for group, failure in seen["Failures"].items():
            sentences = tuple(failure_lines(job_id, group, failure))
            if sentences not in shown_failures:
                shown_failures.add(sentences)
                for sentence in sentences:
                    line.note(sentence)
        end = _end(seen)
        is_failed = end is not None and not end[0]
        if seen["Deployment"] and (is_failed or time.monotonic() - asked_at >= UNHEALTHY_SECONDS):
            asked_at = time.monotonic()
            unsettled = failing_checks(api, filter(is_unsettled, seen["Allocations"]))
            for sentence, places in unsettled.items():
                if sentence not in complained and len(complained) < COMPLAINTS_MAX:
                    complained.add(sentence)
                    line.note(f"! {', '.join(places)}: {sentence}")
        if end is not None:
            line.show(f"{text}{end[1]}", f" · {seconds:.1f} s")
            return {
                "Healthy": end[0],
                "Seconds": round(seconds, 3),
                "JobID": job_id,
                "Version": seen["Version"],
                "Deployment": seen["Deployment"],
                "Failures": seen["Failures"],
                "Unhealthy": sorted(complained),
            }
        wait = f"{REPAINT_SECONDS}s" if is_terminal() else WAIT_SECONDS
        _, index = api.get_indexed(
            f"/v1/job/{job_id}/allocations", {"index": max(index, 1), "wait": wait}, timeout=60.0
        )


def _look(api: Client, submitted: dict[str, Any], evaluation_id: str) -> dict[str, Any]:
    job_id, version = submitted["ID"], submitted["Version"]
    # The job before its deployments: whoever replaces a version ends its deployment in the same step or later.
    current = api.get(f"/v1/job/{job_id}")
    evaluation = api.get(f"/v1/evaluation/{evaluation_id}") if evaluation_id else None
    deployments = api.get(f"/v1/job/{job_id}/deployments")
    allocations = [
        item
        for item in api.get(f"/v1/job/{job_id}/allocations")
        if item["JobVersion"] == version and item["DesiredStatus"] == "run"
    ]
    # What an earlier version waited for says nothing about this one.
    since = evaluation["CreateIndex"] if evaluation else 0
    evaluations = [item for item in api.get(f"/v1/job/{job_id}/evaluations") if item["ModifyIndex"] >= since]
    failures: dict[str, Any] = {}
    for item in evaluations:
        if item["Status"] in {"pending", "blocked"} or item["ID"] == evaluation_id:
            for group, failure in (item["FailedTGAllocs"] or {}).items():
                failures.setdefault(group, failure)
    blocked = any(item["Status"] == "blocked" for item in evaluations)
    return {
        "Job": current if current["Version"] == version else submitted,
        "Version": version,
        "CurrentVersion": current["Version"],
        "Evaluation": evaluation,
        "IsOpen": any(item["Status"] == "pending" for item in evaluations),
        "IsBlocked": blocked,
        "Waiting": evaluation["Waiting"] if evaluation else {},
        "Deployment": next((item for item in deployments if item["JobVersion"] == version), None),
        "Allocations": allocations,
        "Failures": failures if blocked else {},
    }


def _summary(seen: dict[str, Any]) -> str:
    job = seen["Job"]
    wanted = _wanted(seen)
    running = sum(item["ClientStatus"] in {"running", "complete"} for item in seen["Allocations"])
    parts = [f"{paint(job['ID'], 'bold')} v{seen['Version']}"]
    deployment = seen["Deployment"]
    if deployment:
        parts += _of_deployment(deployment, seen["Allocations"], wanted, running)
    else:
        parts.append(f"{running}/{wanted} running")
    for item in seen["Allocations"]:
        if item["ClientStatus"] == "pending":
            doing = _doing(item)
            if doing:
                parts.append(f"{item['NodeName']} {doing}")
                break
        if item["ClientStatus"] == "failed":
            why = item["ClientDescription"] or _doing(item)
            parts.append(f"{short(item['ID'])} failed on {item['NodeName']}: {why}")
            break
    return " · ".join(parts)


def _of_deployment(
    deployment: dict[str, Any], allocations: list[dict[str, Any]], wanted: int, running: int
) -> list[str]:
    parts = []
    tried, groups = trying(deployment), deployment["TaskGroups"]
    if tried:
        good = sum(healthy_canaries(deployment, allocations)[name] for name in tried)
        parts.append(f"{good}/{sum(each['DesiredCanaries'] for each in tried.values())} canaries healthy")
        wanted = sum(group["DesiredTotal"] for name, group in groups.items() if name not in tried)
    healthy = sum(group["HealthyAllocs"] for name, group in groups.items() if name not in tried)
    if wanted or not tried:
        parts.append(f"{healthy}/{wanted} healthy")
    if running < wanted:
        parts.append(f"{running} running")
    on = way_on(deployment, allocations)
    if on and deployment["Status"] == "paused":
        parts.append(f"paused, to go on: {on}")
    elif on:
        parts.append(f"to promote: {on}")
    return parts


def _wanted(seen: dict[str, Any]) -> int:
    job = seen["Job"]
    if job.get("Stop"):
        return 0
    if job["Type"] in PER_NODE_TYPES:
        # Those of nodes that are down keep their place; nobody can wait for them.
        return sum(item["ClientStatus"] != "unknown" for item in seen["Allocations"])
    return sum(group["Count"] for group in job["TaskGroups"])


def _doing(allocation: dict[str, Any]) -> str:
    for state in allocation["TaskStates"].values():
        if state["Events"]:
            event = state["Events"][-1]
            return str(event["DisplayMessage"] or event["Type"].lower())
    return str(allocation["ClientDescription"] or "")


def _end(seen: dict[str, Any]) -> tuple[bool, str] | None:
    """(healthy, what to add to the line) once there is nothing more to wait for."""
    deployment = seen["Deployment"]
    if seen["Job"].get("Stop"):
        return False, " · stopped by somebody else"
    is_replaced = seen["CurrentVersion"] != seen["Version"]
    if seen["IsBlocked"] and not seen["IsOpen"] and not is_replaced:
        placed_pending = any(item["ClientStatus"] == "pending" for item in seen["Allocations"])
        if not placed_pending:
            return False, " · waits for capacity"
    if deployment:
        if deployment["Status"] == "successful":
            return True, ""
        if deployment["Status"] in {"failed", "cancelled"}:
            return False, f" · {deployment['StatusDescription']}"
    if is_replaced:
        return False, f" · replaced by version {seen['CurrentVersion']}"
    if deployment and waits_for_promotion(deployment, seen["Allocations"]):
        tried = trying(deployment)
        rest = [group for name, group in deployment["TaskGroups"].items() if name not in tried]
        return (True, "") if all(each["HealthyAllocs"] >= each["DesiredTotal"] for each in rest) else None
    if deployment:
        return None
    evaluation = seen["Evaluation"]
    if evaluation and evaluation["Status"] not in {"complete", "failed", "canceled"}:
        return None
    if seen["IsOpen"]:
        return None
    wanted = _wanted(seen)
    if not wanted and seen["Job"]["Type"] in PER_NODE_TYPES:
        waiting = [f" · {group} waits: {why}" for group, why in seen["Waiting"].items()]
        return False, "".join(waiting) or " · no node takes it now"
    running = sum(item["ClientStatus"] in {"running", "complete"} for item in seen["Allocations"])
    if running >= wanted:
        return True, ""
    if any(item["ClientStatus"] == "failed" for item in seen["Allocations"]):
        return None if any(item["ClientStatus"] == "pending" for item in seen["Allocations"]) else (False, "")
    return None
