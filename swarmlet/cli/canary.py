"""Canaries as the API shows them: which allocations are some, and what a deployment that tries them waits for."""

from __future__ import annotations

from collections import Counter
from typing import Any

Json = dict[str, Any]


def is_canary(allocation: Json) -> bool:
    """Whether it is a canary that is not promoted."""
    judged = allocation.get("DeploymentStatus")
    return bool(judged and judged.get("Canary"))


def marked_name(allocation: Json, name: str) -> str:
    """Its name, with a mark where it is a canary."""
    return f"{name} canary" if is_canary(allocation) else name


def counted_canaries(number: int) -> str:
    """So many canaries."""
    return f"{number} canary" if number == 1 else f"{number} canaries"


def trying(deployment: Json) -> dict[str, Json]:
    """The groups whose canaries are not promoted, of a deployment under way."""
    if deployment["Status"] not in {"running", "paused"}:
        return {}
    return {
        name: group
        for name, group in deployment["TaskGroups"].items()
        if group.get("DesiredCanaries") and not group["Promoted"]
    }


def healthy_canaries(deployment: Json, allocations: list[Json]) -> Counter[str]:
    """Group -> how many of the deployment's canaries run and are healthy."""
    return Counter(
        item["TaskGroup"]
        for item in allocations
        if item["DeploymentID"] == deployment["ID"]
        and is_canary(item)
        and item["DeploymentStatus"]["Healthy"]
        and (item["DesiredStatus"], item["ClientStatus"]) == ("run", "running")
    )


def waits_for_promotion(deployment: Json, allocations: list[Json]) -> bool:
    """Whether all canaries are healthy, and somebody has to say that the rest may follow."""
    groups = trying(deployment)
    if (
        not groups
        or deployment["Status"] != "running"
        or all(each["AutoPromote"] for each in groups.values())
    ):
        return False
    healthy = healthy_canaries(deployment, allocations)
    return all(healthy[name] >= group["DesiredCanaries"] for name, group in groups.items())
