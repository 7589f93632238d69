"""What `swarmlet status` says. Without the command-line library: it is asked most often, and by scripts."""

from __future__ import annotations

from typing import Any

from swarmlet.api.client import Client
from swarmlet.cli.output import counted, paint, say, say_json, span


def show_status(api: Client, *, as_json: bool) -> int:
    """The cluster in one look; 0 when all is well, 1 when something needs a person."""
    seen = api.get("/v1/swarmlet/status")
    if as_json:
        say_json(seen)
        return 0 if _is_well(seen) else 1
    tolerance = f"survives the loss of {seen['Survives']}" if seen["FaultTolerant"] else "NOT FAULT TOLERANT"
    parts = [f"{seen['NodesReady']}/{seen['NodesTotal']} nodes, {tolerance}"]
    parts.append(counted(seen["Jobs"], "job"))
    parts.append(f"{seen['Running']} running, {seen['Pending']} pending")
    if seen["Unknown"]:
        parts.append(f"{seen['Unknown']} unknown")
    say(" · ".join(parts))
    if not seen["Current"]:
        say(paint(f"! {_how_old(api, seen)}", "red"))
    for node in seen["Nodes"]:
        marks = [mark for mark, is_set in (("leader", node["Leader"]), ("voter", node["Voter"])) if is_set]
        if node["Drain"]:
            marks.append("draining")
        if node["Eligibility"] != "eligible":
            marks.append("ineligible")
        say(f"  {node['Name']}  {node['Status']}  {node['Address']}  {' '.join(marks)}".rstrip())
    for problem in seen["Problems"]:
        say(paint(f"! {problem['Subject']}: {problem['Problem']}", "yellow"))
    return 0 if _is_well(seen) else 1


def _how_old(api: Client, seen: dict[str, Any]) -> str:
    known = f"this is what this node knew {span(seen['LastContactMs'] * 10**6)} ago (index {seen['AppliedIndex']})"
    if api.stale:
        return known
    return f"no leader reached: {known}; nothing can be changed now"


def _is_well(seen: dict[str, Any]) -> bool:
    return bool(seen["Current"]) and not seen["Problems"]
