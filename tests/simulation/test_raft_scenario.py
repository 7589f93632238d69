"""Raft clusters on virtual time: nothing is violated, and the harness finds what was broken on purpose."""

from __future__ import annotations

import msgspec
import pytest

from swarmlet.simulation import planted
from swarmlet.simulation.raft_machine import SESSIONS_MAX, Command, Machine, Outcome
from swarmlet.simulation.raft_scenario import Cluster, run
from swarmlet.simulation.world import Power


def command(serial: int, value: int, client: str = "c", kind: str = "write", **fields: int) -> Command:
    return Command(client=client, serial=serial, kind=kind, key="k", value=value, **fields)


def write(cluster: Cluster, value: int) -> list[Outcome | None]:
    """Ask the leader for a write; the list gets its outcome."""
    outcomes: list[Outcome | None] = []
    leader = cluster.leader()
    assert leader is not None
    leader.submit(command(0, 0, kind="open"), lambda outcome, _: None)
    leader.submit(command(value, value), lambda outcome, _: outcomes.append(outcome))
    return outcomes


def test_a_write_is_acknowledged_and_reaches_everybody() -> None:
    cluster = Cluster(1, 3)
    cluster.run_for(2.0)
    outcomes = write(cluster, 7)
    cluster.run_for(1.0)
    assert outcomes == [Outcome.DONE]
    assert [peer.machine.read("k") for peer in cluster.running()] == [7, 7, 7]


def test_another_leader_takes_over_from_a_silent_host() -> None:
    cluster = Cluster(2, 3)
    cluster.run_for(2.0)
    first = cluster.leader()
    assert first is not None
    cluster.stop(first, Power.OFF)
    cluster.run_for(3.0)
    assert cluster.leader() not in {None, first}


def test_a_linearizable_read_on_any_peer_sees_what_was_acknowledged() -> None:
    cluster = Cluster(3, 3)
    cluster.run_for(2.0)
    write(cluster, 5)
    cluster.run_for(1.0)
    seen: list[int | None] = []
    for peer in cluster.running():
        peer.read("k", lambda _, value: seen.append(value))
    cluster.run_for(1.0)
    assert seen == [5, 5, 5]


def test_a_retry_is_answered_and_not_repeated() -> None:
    machine = Machine()
    machine.apply(1, command(0, 0, kind="open"))
    assert machine.apply(2, command(1, 10)) is Outcome.DONE
    assert machine.apply(3, command(2, 20)) is Outcome.DONE
    assert machine.apply(4, command(2, 99)) is Outcome.DONE
    assert machine.read("k") == 20
    assert machine.apply(5, command(1, 10)) is Outcome.EXPIRED


def test_a_session_that_the_log_expired_is_refused_on_every_replica() -> None:
    machine = Machine()
    for number in range(SESSIONS_MAX + 1):
        machine.apply(number, command(0, 0, client=str(number), kind="open"))
    assert Machine(machine.save()).apply(100, command(1, 1, client="0")) is Outcome.EXPIRED
    assert machine.apply(100, command(1, 1, client="1")) is Outcome.DONE


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 24, 6))
def test_swarms_of_faults_violate_nothing_and_end_in_progress(first: int) -> None:
    assert sum(run(seed).operations for seed in range(first, first + 6)) > 0


@pytest.mark.slow
def test_no_disk_is_lost_while_only_the_leader_has_applied_a_new_configuration() -> None:
    """Seed 2634 lost one of three voters of whom two had been all: the one left could not know of the third."""
    run(2634, traced=False)


@pytest.mark.slow
def test_a_leader_by_late_votes_of_an_earlier_term_lacks_what_was_committed_since() -> None:
    """Leader completeness speaks of later terms: seed 7655's n1 leads term 3 when term 4 has committed already."""
    run(7655, traced=False)


@pytest.mark.slow
def test_an_acknowledgement_may_leave_after_what_it_speaks_of_was_replaced_under_the_same_sync() -> None:
    """Seed 5616's n4 wrote an entry of term 7, and its replacement of term 8, before one sync made both durable."""
    run(5616, traced=False)


@pytest.mark.slow
def test_a_seed_gives_the_same_history_twice() -> None:
    assert run(9) == run(9)


def test_what_happens_does_not_depend_on_whether_it_is_traced() -> None:
    traced, untraced = run(9, seconds=0.5), run(9, seconds=0.5, traced=False)
    assert msgspec.structs.replace(traced, trace_hash="") == msgspec.structs.replace(untraced, trace_hash="")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["forgotten-vote", "ack-before-sync", "append-truncates", "learners-count", "retried-sync"]
)
def test_a_planted_defect_is_found_within_a_few_seeds(name: str) -> None:
    """The whole table: `scripts/simulate.py raft --planted`."""
    assert planted.hunt(planted.defect(name), seeds_max=60).seeds is not None


@pytest.mark.slow
def test_a_planted_defect_is_gone_afterwards() -> None:
    assert planted.hunt(planted.defect("two-votes"), seeds_max=5).seeds is not None
    run(0)
