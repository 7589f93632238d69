"""Devices are never promised twice, whole ones are whole, and fragmentation is what a plain count says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.placement.device import TIE_BREAK, WHOLE, DeviceAsk, DeviceNode, DevicePacker

node_strategy = st.builds(
    DeviceNode,
    cpu=st.integers(1, 9),
    memory=st.integers(1, 9),
    devices=st.integers(0, 3),
    model=st.sampled_from(["a", "b"]),
)
models = st.sampled_from([frozenset[str](), frozenset({"a"}), frozenset({"b"})])
whole = st.builds(
    DeviceAsk, cpu=st.integers(0, 4), memory=st.integers(0, 4), count=st.integers(0, 3), models=models
)
part = st.builds(
    DeviceAsk,
    cpu=st.integers(0, 4),
    memory=st.integers(0, 4),
    count=st.just(1),
    milli=st.sampled_from([200, 250, 500, 700]),
    models=models,
)
kinds = st.lists(st.one_of(whole, part), min_size=1, max_size=5)


def fragments(node: DeviceNode, cpu: int, memory: int, free: list[int], mix: list[DeviceAsk]) -> float:
    """Expected thousandths that are of no use, counted out."""
    total, kinds_with_devices = 0.0, [ask for ask in mix if ask.count]
    for ask in kinds_with_devices:
        useful = [left for left in free if left >= ask.milli]
        runs = cpu >= ask.cpu and memory >= ask.memory and (not ask.models or node.model in ask.models)
        total += sum(free) - (sum(useful) if runs and len(useful) >= ask.count else 0)
    return total / max(len(kinds_with_devices), 1)


def loss(packer: DevicePacker, node: DeviceNode, slot: int, ask: DeviceAsk, mix: list[DeviceAsk]) -> float:
    """The least cost of `ask` on a node, device by device; infinite where it does not fit."""
    cpu, memory = int(packer.free_cpu[slot]), int(packer.free_memory[slot])
    free = packer.free[slot].tolist()
    open_ones = [device for device, left in enumerate(free) if left >= ask.milli]
    if cpu < ask.cpu or memory < ask.memory or (ask.models and node.model not in ask.models):
        return float("inf")
    if len(open_ones) < ask.count:
        return float("inf")
    choices = [[device] for device in open_ones] if ask.count == 1 else [open_ones[: ask.count]]
    before, best = fragments(node, cpu, memory, free, mix), float("inf")
    for choice in choices:
        after = [left - ask.milli if device in choice else left for device, left in enumerate(free)]
        best = min(best, fragments(node, cpu - ask.cpu, memory - ask.memory, after, mix))
    largest = (
        max(each.cpu for each in packer.nodes),
        max(each.memory for each in packer.nodes),
        max(1, max(each.devices for each in packer.nodes) * WHOLE),
    )
    left = (cpu - ask.cpu) / largest[0] + (memory - ask.memory) / largest[1]
    left += (sum(free) - ask.count * ask.milli) / largest[2]
    return float((best - before) / WHOLE + TIE_BREAK * left)


@settings(max_examples=100, deadline=None)
@given(st.lists(node_strategy, min_size=1, max_size=4), kinds, st.lists(st.integers(0, 4), max_size=15))
def test_each_task_goes_where_it_costs_least_and_nothing_is_promised_twice(
    nodes: list[DeviceNode], mix: list[DeviceAsk], order: list[int]
) -> None:
    packer = DevicePacker(nodes, [(ask, 1.0) for ask in mix])
    for number in order:
        ask = mix[number % len(mix)]
        losses = [loss(packer, node, slot, ask, mix) for slot, node in enumerate(nodes)]
        found = packer.place(ask)
        if found is None:
            assert min(losses) == float("inf")
            continue
        assert losses[found[0]] == pytest.approx(min(losses), abs=1e-6)
        assert len(set(found[1])) == ask.count
        assert np.all(packer.free >= 0)
        assert packer.free_cpu.min() >= 0
        assert packer.free_memory.min() >= 0


def test_what_is_released_can_be_placed_again() -> None:
    ask = DeviceAsk(1, 1, 1, 600)
    packer = DevicePacker([DeviceNode(8, 8, 1)], [(ask, 1.0)])
    found = packer.place(ask)
    assert found == (0, (0,))
    assert packer.place(ask) is None
    packer.release(ask, *found)
    assert packer.place(ask) == (0, (0,))


def test_a_fraction_fills_up_a_started_device_before_it_starts_a_whole_one() -> None:
    half = DeviceAsk(1, 1, 1, 500)
    packer = DevicePacker([DeviceNode(8, 8, 2)] * 2, [(half, 1.0), (DeviceAsk(1, 1, 2), 1.0)])
    assert [packer.place(half) for _ in range(3)] == [(0, (0,)), (0, (0,)), (0, (1,))]


def test_without_any_kind_that_asks_for_devices_the_fullest_node_is_taken() -> None:
    plain = DeviceAsk(cpu=1, memory=1)
    packer = DevicePacker([DeviceNode(8, 8, 1), DeviceNode(4, 4, 0)], [(plain, 1.0)])
    assert packer.place(plain) == (1, ())
