"""The simulation kernel: deterministic time, a faulty network, a disk that forgets."""

from __future__ import annotations

import pytest

from swarmlet.simulation.network import Faults, Network, Outcome
from swarmlet.simulation.world import WORLD, Power, World


def two_machines(seed: int = 1, faults: Faults | None = None) -> tuple[World, Network, list[bytes]]:
    world = World(seed)
    network = Network(world, faults)
    got: list[bytes] = []
    for name in ("a", "b"):
        world.add_machine(name)
    network.attach(
        "b",
        on_datagram=lambda data, source: got.append(data),
        on_request=lambda data, source: b"re:" + data,
    )
    return world, network, got


def test_events_happen_in_order_of_time_then_of_scheduling() -> None:
    world = World(1)
    seen: list[str] = []
    world.at(2.0, WORLD, lambda: seen.append("late"))
    world.at(1.0, WORLD, lambda: seen.append("first"))
    world.at(1.0, WORLD, lambda: seen.append("second"))
    world.at(1.0, WORLD, lambda: seen.append("never")).cancel()
    world.run_until(3.0)
    assert (seen, world.now) == (["first", "second", "late"], 3.0)


def test_forks_of_randomness_do_not_disturb_each_other() -> None:
    assert World(7).rng("x").random() == World(7).rng("x").random()
    assert World(7).rng("x").random() != World(7).rng("y").random()
    assert World(7).rng("x").random() != World(8).rng("x").random()


def test_a_crash_forgets_the_timers_of_its_life() -> None:
    world = World(1)
    world.add_machine("a")
    seen: list[str] = []
    world.after(1.0, "a", lambda: seen.append("old life"))
    world.stop("a", Power.CRASHED)
    world.start("a")
    world.after(1.0, "a", lambda: seen.append("new life"))
    world.run_for(2.0)
    assert seen == ["new life"]


def test_a_paused_machine_does_everything_after_it_resumes() -> None:
    world = World(1)
    world.add_machine("a")
    seen: list[float] = []
    world.after(1.0, "a", lambda: seen.append(world.now))
    world.pause("a")
    world.run_for(60.0)
    assert seen == []
    world.resume("a")
    world.run_for(0.0)
    assert seen == [60.0]


def test_datagrams_get_lost_and_doubled_at_the_stated_rate() -> None:
    world, network, got = two_machines(faults=Faults(loss=0.3, duplicate=0.2))
    for _ in range(2000):
        network.send("a", "b", b"x")
    world.run_for(5.0)
    assert 1500 < len(got) < 1860  # 2000 * 0.7 * 1.2 = 1680, within five standard deviations


def test_a_one_way_cut_stops_one_direction_only() -> None:
    world, network, got = two_machines()
    back: list[bytes] = []
    network.attach("a", on_datagram=lambda data, source: back.append(data))
    network.cut("a", "b")
    network.send("a", "b", b"there")
    network.send("b", "a", b"back")
    world.run_for(1.0)
    assert (got, back) == ([], [b"back"])


@pytest.mark.parametrize(
    ("power", "outcome"),
    [
        (Power.RUNNING, Outcome.REPLY),
        (Power.PAUSED, Outcome.STALLED),
        (Power.CRASHED, Outcome.REFUSED),
        (Power.OFF, Outcome.SILENT),
    ],
)
def test_a_request_ends_as_tcp_would_end_it(power: Power, outcome: Outcome) -> None:
    world, network, _ = two_machines()
    if power is Power.PAUSED:
        world.pause("b")
    elif power is not Power.RUNNING:
        world.stop("b", power)
    seen: list[Outcome] = []
    network.request("a", "b", b"hello", 1.0, lambda outcome, reply: seen.append(outcome))
    world.run_for(5.0)
    assert seen == [outcome]


def test_the_same_seed_gives_the_same_trace() -> None:
    def trace(seed: int) -> str:
        world, network, _ = two_machines(seed, Faults(loss=0.2, duplicate=0.1, reorder=0.3))
        for number in range(200):
            network.send("a", "b", bytes([number]))
        world.run_for(5.0)
        return world.trace_hash()

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
