"""Histories that Jepsen recorded against etcd, read from SWARMLET_CONFORMANCE_DATA: our checker's verdict is theirs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from swarmlet.simulation.linearizability import NEVER, Kind, Operation, check

NO_DATA = "SWARMLET_CONFORMANCE_DATA is not set, or has no jepsen-etcd-histories"

LINE = re.compile(r"^INFO\s+jepsen\.util - (\d+)\s+:(\w+)\s+:(\w+)\s+(.*)$")


def cases() -> list[object]:
    """(history, verdict) for each line of verdicts.txt."""
    root = Path(os.environ.get("SWARMLET_CONFORMANCE_DATA", "")) / "jepsen-etcd-histories"
    verdicts = root / "verdicts.txt"
    if "SWARMLET_CONFORMANCE_DATA" not in os.environ or not verdicts.exists():
        return [pytest.param(None, "", id="no-data", marks=pytest.mark.skip(reason=NO_DATA))]
    lines = [line.split() for line in verdicts.read_text().splitlines() if line.strip()]
    return [pytest.param(root / f"{name}.log", verdict, id=name) for name, verdict in lines]


def value(text: str) -> int | None:
    return None if text == "nil" else int(text)


def operation(client: str, kind: str, argument: str, invoked: float, **fields: object) -> Operation:
    """From the text of an invocation; a read's value comes with its answer."""
    if kind == "cas":
        expected, new = argument.strip("[]").split()
        fields |= {"expected": int(expected), "value": int(new)}
    elif kind == "write":
        fields["value"] = value(argument)
    return Operation(client=client, kind=Kind(kind), invoked=invoked, **fields)  # type: ignore[arg-type]


def parse(text: str) -> list[Operation]:
    """The operations of a log; those that never ended, or timed out, have an unknown outcome."""
    history: list[Operation] = []
    pending: dict[str, tuple[str, str, float]] = {}
    for number, line in enumerate(text.splitlines()):
        found = LINE.match(line.strip())
        if found is None:
            continue
        client, event, kind, argument = found.groups()
        if event == "invoke":
            pending[client] = (kind, argument, float(number))
            continue
        invoked_kind, invoked_argument, invoked = pending.pop(client)
        assert invoked_kind == kind, f"line {number + 1}: {client} was doing {invoked_kind}"
        if event == "info":
            history.append(operation(client, kind, invoked_argument, invoked, returned=NEVER))
        elif event == "ok":
            fields = {"value": value(argument)} if kind == "read" else {}
            history.append(
                operation(client, kind, invoked_argument, invoked, returned=float(number), **fields)
            )
        elif kind == "cas":
            history.append(
                operation(client, kind, invoked_argument, invoked, returned=float(number), succeeded=False)
            )
        # Any other refused operation did not happen.
    for client, (kind, argument, invoked) in pending.items():
        history.append(operation(client, kind, argument, invoked, returned=NEVER))
    return history


@pytest.mark.parametrize(("path", "verdict"), cases())
def test_the_verdict_on_a_history_is_the_known_one(path: Path, verdict: str) -> None:
    assert verdict in {"linearizable", "not-linearizable"}
    found = check(parse(path.read_text()))
    assert ("linearizable" if found is None else "not-linearizable") == verdict, str(found)
