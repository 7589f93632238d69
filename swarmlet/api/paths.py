"""What members say about the ways between them, as few sentences for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from swarmlet.gossip.name_vote import NameConflict
from swarmlet.gossip.path import PathFault, PathProblem, sentence
from swarmlet.ids import NodeId

#: Names shown before "and 12 others".
NAMES_MAX = 3

_Pair = tuple[str, str]


def path_problems(
    faults: Mapping[NodeId, tuple[PathFault, ...]], name_of: Callable[[str], str]
) -> list[dict[str, str]]:
    """One problem per way, or per member that is at one end of many. `name_of`: a member's id -> its name."""
    found: list[dict[str, str]] = []
    for problem in PathProblem:
        worst = _worst([fault for each in faults.values() for fault in each if fault.problem is problem])
        pairs = {(name_of(source), name_of(target)): value for (source, target), value in worst.items()}
        found += [
            {"Subject": subject, "Problem": sentence(problem, value)}
            for subject, value in _grouped(pairs, is_directed=_is_directed(problem))
        ]
    return found


def path_rows(
    faults: Mapping[NodeId, tuple[PathFault, ...]], name_of: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Every fault with who says so, for programs."""
    return [
        {
            "SeenBy": name_of(observer),
            "Problem": fault.problem.name.lower(),
            "From": name_of(fault.source),
            "To": name_of(fault.target),
            "Value": fault.value,
        }
        for observer, each in faults.items()
        for fault in each
    ]


def _is_directed(problem: PathProblem) -> bool:
    return problem in {PathProblem.DATAGRAMS, PathProblem.STREAMS}


def _worst(faults: Iterable[PathFault]) -> dict[_Pair, int]:
    """The largest value by the two ends; where there is no direction, both members speak of the same way."""
    found: dict[_Pair, int] = {}
    for fault in faults:
        ends = (fault.source, fault.target)
        if not _is_directed(fault.problem):
            ends = (min(ends), max(ends))
        found[ends] = max(found.get(ends, 0), fault.value)
    return found


def _grouped(pairs: dict[_Pair, int], *, is_directed: bool) -> list[tuple[str, int]]:
    """(who to whom, worst value): the member with most faults first, with all of its other ends."""
    left = dict(sorted(pairs.items()))
    found = []
    while left:
        counts: dict[tuple[int, str], int] = {}
        for pair in left:
            for end in (1, 0):
                counts[end, pair[end]] = counts.get((end, pair[end]), 0) + 1
        place, center = max(counts, key=lambda each: counts[each])
        if is_directed:
            taken = [pair for pair in left if pair[place] == center]
        else:
            taken = [pair for pair in left if center in pair]
        others = _names([pair[1 - pair.index(center)] for pair in taken])
        value = max(left.pop(pair) for pair in taken)
        if not is_directed:
            found.append((f"{center} and {others}", value))
        else:
            found.append((f"{others} to {center}" if place else f"{center} to {others}", value))
    return found


def _names(names: list[str]) -> str:
    if len(names) <= NAMES_MAX:
        return ", ".join(names)
    return f"{', '.join(names[:NAMES_MAX])} and {len(names) - NAMES_MAX} others"


def name_sentence(conflict: NameConflict) -> str:
    """Two nodes with one name: whose it is, and what to do."""
    both = " and ".join(node[:8] for node in conflict.members)
    outcome = conflict.outcome
    if outcome is None or not outcome.holder:
        whose = (
            "no majority of the members has known one of them first"
            if outcome is not None
            else "a vote is under way"
        )
        return f"nodes {both} have this name ({whose}): let one leave and join again with another --name"
    others = ", ".join(node[:8] for node in conflict.members if node != outcome.holder)
    return (
        f"nodes {both} have this name; it is {outcome.holder[:8]}'s by {outcome.votes} of {outcome.voters} votes: "
        f"let {others} leave and join again with another --name"
    )
