"""Watches a node being emptied: how much is left, what stays and where its reason is told, and how it ended."""

from __future__ import annotations

import time
from typing import Any, Protocol

from swarmlet.cli.output import counted, say, say_now, short

#: Nothing has left for so long: say what stays. A replacement that comes up at its usual pace takes less.
STILL_SECONDS = 10.0
LOOK_SECONDS = 2
#: Of a node's allocations in one line.
NAMES_MAX = 8

Json = dict[str, Any]


class Asked(Protocol):
    """What is used of `swarmlet.api.client.Client`."""

    def get(self, path: str, query: Json | None = None) -> Any:
        """The answer."""

    def get_indexed(self, path: str, query: Json | None = None) -> tuple[Any, int]:
        """The answer and its index."""


def watch(api: Asked, node: Json, deadline_ns: int) -> int:
    """Until the drain has ended; the exit code: 1 where it ended without having emptied the node.

    `deadline_ns`: 0 for none, below zero where everything is stopped at once.
    """
    started = changed = time.monotonic()
    shown, is_told = -1, False
    seen: set[str] = set()
    path = f"/v1/node/{node['ID']}"
    try:
        while True:
            now = api.get(path)
            allocations, index = api.get_indexed(f"{path}/allocations", {"namespace": "*"})
            left = [item for item in allocations if item["ClientStatus"] in {"running", "pending"}]
            seen |= {item["ID"] for item in left}
            if len(left) != shown:
                passed = time.monotonic() - started
                say_now(f"{node['Name']} drains: {counted(len(left), 'allocation')} left · {passed:.0f} s")
                shown, changed, is_told = len(left), time.monotonic(), False
            if not now["Drain"]:
                stopped = [item for item in allocations if item["ID"] in seen and _is_forced(item)]
                passed_ns = (time.monotonic() - started) * 1e9
                return _ended(now, left, stopped if 0 < deadline_ns <= passed_ns + 1e9 else [])
            if not is_told and time.monotonic() - changed >= STILL_SECONDS:
                say_now(f"  still there: {_listed([_why(item) for item in left])}")
                is_told = True
            query = {"namespace": "*", "index": index, "wait": f"{LOOK_SECONDS}s"}
            api.get(f"{path}/allocations", query)
    except KeyboardInterrupt:
        say_now("detached; the drain goes on")
        return 0


def _ended(node: Json, left: list[Json], stopped: list[Json]) -> int:
    staying = [item for item in left if item["DesiredStatus"] == "run"]
    if staying or node["SchedulingEligibility"] == "eligible":
        more = f"; still there: {_listed([_name(item) for item in staying])}" if staying else ""
        say(f"the drain of {node['Name']} was ended by somebody{more}")
        return 1
    say(f"{node['Name']} is drained")
    if stopped:
        say(
            f"stopped at the deadline, before anything ran in its place: {_listed([_name(i) for i in stopped])}"
        )
    return 0


def _is_forced(item: Json) -> bool:
    """Stopped as it was, not once its replacement was up."""
    return bool(item["DesiredStatus"] == "stop" and item["DesiredDescription"] == "stopped on request")


def _name(item: Json) -> str:
    return f"{item['Name']} ({short(item['ID'])})"


def _why(item: Json) -> str:
    if item["DesiredStatus"] != "run":
        return f"{item['Name']} (is being stopped)"
    if item["JobType"] in {"batch", "sysbatch"}:
        return f"{item['Name']} (batch: until its end or the deadline)"
    return f"{item['Name']} (why: swarmlet explain {item['JobID']})"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return ", ".join(names[:NAMES_MAX]) + more
