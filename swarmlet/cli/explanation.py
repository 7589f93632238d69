"""Placement failures and waiting groups as sentences."""

from __future__ import annotations

from typing import Any

from swarmlet.cli.output import counted

_UNITS = {"cpu": " MHz", "memory": " MiB", "disk": " MiB"}


def failure_lines(job_id: str, group: str, failure: dict[str, Any]) -> list[str]:
    """Why allocations of a group could not be placed: one summary line, then what each node lacks."""
    count = failure["CoalescedFailures"] + 1
    lines = [
        f"! {job_id}.{group}: {count} could not be placed ({counted(failure['NodesEvaluated'], 'node')} looked at)"
    ]
    for reason, nodes in failure["ConstraintFiltered"].items():
        lines.append(f"    {counted(nodes, 'node')}: {reason}")
    for dimension, nodes in failure["DimensionExhausted"].items():
        shortage = failure["Shortage"].get(dimension)
        unit = _UNITS.get(dimension, "")
        short = f" short by {shortage}{unit} at least" if shortage else " exhausted"
        lines.append(f"    {counted(nodes, 'node')}: {dimension}{short}")
    if not failure["NodesEvaluated"]:
        lines.append("    no node is ready in the job's datacenters and node pool")
    return lines


def refusal_text(failure: dict[str, Any]) -> str:
    """What each node lacks: "n1 memory short by 212 MiB · n2 arm64 ≠ amd64"."""
    return " · ".join(f"{item['NodeName']} {item['Reason']}" for item in failure["Refusals"])
