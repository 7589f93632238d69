"""Faults of the network as few sentences."""

from __future__ import annotations

from swarmlet.api.paths import path_problems, path_rows
from swarmlet.gossip.path import PathFault, PathProblem
from swarmlet.ids import NodeId


def fault(problem: PathProblem, source: str, target: str, value: int = 0) -> PathFault:
    return PathFault(problem=problem, source=source, target=target, value=value)


def subjects(*faults: PathFault) -> list[str]:
    return [each["Subject"] for each in path_problems({NodeId("x"): faults}, lambda node: node)]


def test_what_both_ends_say_of_one_way_is_one_problem() -> None:
    blocked = fault(PathProblem.DATAGRAMS, "a", "b")
    found = path_problems({NodeId("a"): (blocked,), NodeId("b"): (blocked,)}, str.upper)
    assert [each["Subject"] for each in found] == ["A to B"]
    assert "datagrams (UDP) do not arrive" in found[0]["Problem"]


def test_a_member_at_the_end_of_many_ways_is_named_once() -> None:
    into = [fault(PathProblem.DATAGRAMS, name, "h3") for name in ("h1", "h2", "h4", "h5", "h6")]
    out = [fault(PathProblem.STREAMS, "h3", name) for name in ("h1", "h2")]
    assert subjects(*into, *out) == ["h1, h2, h4 and 2 others to h3", "h3 to h1, h2"]


def test_losses_have_no_direction_and_the_worst_counts() -> None:
    found = path_problems(
        {
            NodeId("a"): (fault(PathProblem.LOSS, "a", "b", 30),),
            NodeId("b"): (fault(PathProblem.LOSS, "b", "a", 44), fault(PathProblem.LOSS, "b", "c", 20)),
        },
        lambda node: node,
    )
    assert [each["Subject"] for each in found] == ["b and a, c"]
    assert "44 %" in found[0]["Problem"]


def test_rows_say_who_sees_what() -> None:
    faults = {NodeId("a"): (fault(PathProblem.SLOW, "a", "b", 400),)}
    assert path_rows(faults, str.upper) == [
        {"SeenBy": "A", "Problem": "slow", "From": "A", "To": "B", "Value": 400}
    ]
