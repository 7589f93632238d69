"""The sequential greedy that the array engines must match choice by choice. Plain, slow, obvious."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from swarmlet.placement.columns import Demand
from swarmlet.placement.group import Order, Policy
from swarmlet.placement.score import emptiness


@dataclass
class World:
    """Nodes as lists; per level and slot the branch, per level and branch the step."""

    capacity: list[Demand]
    free: list[Demand]
    held: list[int]
    bound: list[int]
    rank: list[int]
    branches: list[list[int]] = field(default_factory=list)
    steps: list[list[int]] = field(default_factory=list)
    #: What one takes of each node's CPU, where that differs from node to node.
    cpu: list[int] = field(default_factory=list)


def greedy(world: World, demand: Demand, count: int, order: Order) -> dict[int, int]:
    """Slot -> how many, one allocation after the other."""
    free, held, placed = [list(each) for each in world.free], list(world.held), dict[int, int]()
    slots = range(len(free))
    demands = [(cpu, *demand[1:]) for cpu in world.cpu] or [demand] * len(free)
    for _ in range(count):
        fits = [
            slot
            for slot in slots
            if all(have >= want for have, want in zip(free[slot], demands[slot], strict=True))
            and placed.get(slot, 0) < world.bound[slot]
        ]
        inside = list(slots)
        for branch, step in zip(world.branches, world.steps, strict=True):
            used = {b: sum(held[slot] for slot in inside if branch[slot] == b) for b in set(branch)}
            best = min(((used[branch[s]] + 1) * step[branch[s]], branch[s]) for s in fits) if fits else (0, 0)
            inside = [slot for slot in inside if branch[slot] == best[1]]
            fits = [slot for slot in fits if branch[slot] == best[1]]
        if not fits:
            break

        def cost(slot: int) -> tuple[Any, ...]:
            cpu, memory = (free[slot][d] - demands[slot][d] for d in (0, 1))
            empty = emptiness(cpu, memory, world.capacity[slot][0], world.capacity[slot][1])
            if order.policy is Policy.APART:
                return world.rank[slot], held[slot], -empty if order.is_emptiest else empty, slot
            return world.rank[slot], empty + order.collision * held[slot], slot

        chosen = min(fits, key=cost)
        free[chosen] = [have - want for have, want in zip(free[chosen], demands[chosen], strict=True)]
        held[chosen] += 1
        placed[chosen] = placed.get(chosen, 0) + 1
    return placed
