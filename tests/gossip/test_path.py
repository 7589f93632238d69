"""Which way, and which protocol, does not work: named by who sees it, known to all."""

from __future__ import annotations

import pytest

from swarmlet.errors import InvalidInput
from swarmlet.gossip.effect import EventKind, MemberState, UserEventHeard
from swarmlet.gossip.packet import EVENT_PAYLOAD_MAX, Packet, UserEvent
from swarmlet.gossip.path import (
    BLOCKED_PINGS,
    BLOCKED_STREAMS,
    LOST_WARN,
    SLOW_SECONDS,
    WINDOW,
    PathFault,
    PathProblem,
    Paths,
    sentence,
)
from swarmlet.gossip.path_report import (
    FAULTS_MAX,
    FORGET_SECONDS,
    GAP_SECONDS,
    REPEAT_SECONDS,
    REPORTERS_MAX,
    PathReports,
)
from swarmlet.ids import NodeId
from swarmlet.simulation.gossip_cluster import Cluster
from swarmlet.simulation.network import Faults
from tests.gossip.double import Bench

ME, A, B = NodeId("me"), NodeId("a"), NodeId("b")


def fault(problem: PathProblem, source: str, target: str, value: int = 0) -> PathFault:
    return PathFault(problem=problem, source=source, target=target, value=value)


def fail_pings(paths: Paths, count: int, start: float = 10.0) -> None:
    for number in range(count):
        paths.probed(A, start + number, answered=False)


def test_pings_that_get_no_answer_while_datagrams_come_in_are_lost_on_the_way_out() -> None:
    paths = Paths(ME)
    fail_pings(paths, BLOCKED_PINGS)
    paths.datagram(12.0, A)
    assert paths.faults() == (fault(PathProblem.DATAGRAMS, "me", "a"),)


def test_where_nothing_comes_in_the_way_in_is_named() -> None:
    paths = Paths(ME)
    paths.datagram(10.1, A)
    fail_pings(paths, BLOCKED_PINGS)
    assert paths.faults() == (fault(PathProblem.DATAGRAMS, "a", "me"),)


def test_an_answer_ends_a_blocked_way() -> None:
    paths = Paths(ME)
    fail_pings(paths, BLOCKED_PINGS)
    paths.answered(20.0, A, 0.001)
    paths.probed(A, 20.0, answered=True)
    # What got no answer while it was blocked counts as lost until the window has moved on.
    assert [each.problem for each in paths.faults()] == [PathProblem.LOSS]
    for number in range(WINDOW):
        paths.answered(21.0 + number, A, 0.001)
        paths.probed(A, 21.0 + number, answered=True)
    assert paths.faults() == ()


def test_losses_are_counted_over_a_window_and_named_with_their_share() -> None:
    paths = Paths(ME)
    for number in range(WINDOW):
        is_lost = number % (WINDOW // LOST_WARN) == 0
        paths.probed(A, float(number), answered=not is_lost)
        if not is_lost:
            paths.answered(float(number), A, 0.001)
    assert paths.faults() == (fault(PathProblem.LOSS, "me", "a", 100 * LOST_WARN // WINDOW),)


def test_a_late_answer_is_not_a_lost_one() -> None:
    paths = Paths(ME)
    for number in range(WINDOW):
        paths.probed(A, float(number), answered=False)
        paths.answered_late(A, float(number))
        paths.answered(float(number), A, 0.001)
    assert paths.faults() == ()


def test_answers_that_come_many_probes_late_are_not_lost_either() -> None:
    paths = Paths(ME)
    fail_pings(paths, WINDOW)
    paths.answered(30.0, A, 0.001)
    assert [each.problem for each in paths.faults()] == [PathProblem.LOSS]
    for number in range(WINDOW):
        paths.answered_late(A, 10.0 + number)
    paths.answered_late(A, 5.0)
    assert paths.faults() == ()


def test_streams_that_fail_are_named_while_datagrams_come_in_and_not_otherwise() -> None:
    paths = Paths(ME)
    for number in range(10):
        paths.streamed(10.0 + number, A, works=False)
    paths.datagram(20.0, A)
    assert paths.faults() == ()
    for number in range(1, BLOCKED_STREAMS):
        paths.streamed(20.0 + number, A, works=False)
        paths.datagram(20.5 + number, A)
    assert paths.faults() == (fault(PathProblem.STREAMS, "me", "a"),)
    assert paths.failing_streams() == [A]
    paths.streamed(14.0, A, works=True)
    assert paths.faults() == ()


def test_long_round_trips_are_named_with_their_length() -> None:
    paths = Paths(ME)
    paths.answered(1.0, A, SLOW_SECONDS)
    assert paths.faults() == (fault(PathProblem.SLOW, "me", "a", round(SLOW_SECONDS * 1000)),)
    paths.answered(2.0, A, SLOW_SECONDS / 2)
    assert paths.faults() == ()


def test_a_pause_of_this_member_ends_its_rows_of_failures() -> None:
    paths = Paths(ME)
    fail_pings(paths, BLOCKED_PINGS - 1)
    paths.postpone()
    paths.probed(A, 90.0, answered=False)
    assert [each.problem for each in paths.faults()] == [PathProblem.LOSS]


@pytest.mark.parametrize("problem", list(PathProblem))
def test_every_problem_has_a_sentence(problem: PathProblem) -> None:
    assert len(sentence(problem, 7)) > 10


def test_a_report_says_to_others_what_its_member_sees() -> None:
    mine, theirs = PathReports(ME), PathReports(B)
    faults = (fault(PathProblem.DATAGRAMS, "me", "a"), fault(PathProblem.LOSS, "me", "b", 31))
    payload = mine.to_tell(0.0, faults)
    assert payload is not None
    theirs.hear(0.0, ME, 5, payload)
    assert theirs.all(()) == {"me": faults}
    assert mine.all(faults) == {"me": faults}


def test_a_report_is_repeated_and_an_end_is_told() -> None:
    reports = PathReports(ME)
    faults = (fault(PathProblem.DATAGRAMS, "me", "a"),)
    assert reports.to_tell(0.0, ()) is None
    assert reports.to_tell(0.0, faults) is not None
    assert reports.to_tell(REPEAT_SECONDS - 1, faults) is None
    assert reports.to_tell(REPEAT_SECONDS, faults) is not None
    assert reports.to_tell(REPEAT_SECONDS + GAP_SECONDS / 2, ()) is None
    told = [reports.has_told]
    end = reports.to_tell(REPEAT_SECONDS + GAP_SECONDS, ())
    assert end is not None
    assert [*told, reports.has_told] == [True, False]
    listener = PathReports(B)
    listener.hear(0.0, ME, 2, end)
    assert listener.all(()) == {}


def test_an_older_report_and_garbage_change_nothing() -> None:
    told = PathReports(ME).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    end = PathReports(ME)
    end.to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    ended = end.to_tell(GAP_SECONDS, ())
    assert told is not None
    assert ended is not None
    reports = PathReports(B)
    reports.hear(0.0, ME, 8, ended)
    reports.hear(0.0, ME, 7, told)
    reports.hear(0.0, ME, 9, b"\xff")
    assert reports.all(()) == {}


def test_what_is_not_repeated_is_forgotten() -> None:
    payload = PathReports(ME).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    assert payload is not None
    reports = PathReports(B)
    reports.hear(0.0, ME, 1, payload)
    reports.forget(FORGET_SECONDS + 1)
    assert reports.all(()) == {}


def test_a_report_fits_into_an_event_however_long_the_ids_are() -> None:
    faults = tuple(fault(PathProblem.DATAGRAMS, f"{number:064}", f"{number:064}") for number in range(20))
    payload = PathReports(ME).to_tell(0.0, faults)
    assert payload is not None
    assert len(payload) <= EVENT_PAYLOAD_MAX
    reports = PathReports(B)
    reports.hear(0.0, ME, 1, payload)
    assert 1 <= len(reports.all(())[ME]) <= FAULTS_MAX


def test_where_many_report_others_keep_quiet() -> None:
    payload = PathReports(ME).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    assert payload is not None
    reports = PathReports(B)
    for number in range(3 * REPORTERS_MAX):
        reports.hear(0.0, NodeId(f"n{number}"), 1, payload)
    assert len(reports.all(())) == 2 * REPORTERS_MAX
    assert reports.to_tell(0.0, (fault(PathProblem.DATAGRAMS, "b", "a"),)) is None


def test_names_that_begin_with_an_underscore_are_the_programs_own() -> None:
    with pytest.raises(InvalidInput, match="the program's own"):
        Bench("a").core.publish(100.0, "_paths", b"")


# In simulated clusters: who is asked does not matter.


def seen(cluster: Cluster, observer: str) -> set[tuple[PathProblem, str, str]]:
    found = cluster.cores[observer].path_faults().values()
    return {(each.problem, each.source, each.target) for faults in found for each in faults}


def settled(nodes: int = 4, faults: Faults | None = None) -> Cluster:
    cluster = Cluster(3, nodes, faults)
    cluster.run_for(6.0)
    return cluster


@pytest.mark.parametrize(("source", "target"), [("n1", "n2"), ("n2", "n1")])
def test_datagrams_cut_one_way_between_two_are_named_with_the_direction_by_everybody(
    source: str, target: str
) -> None:
    cluster = settled()
    cluster.network.cut(source, target, datagrams_only=True)
    cluster.run_for(20.0)
    for observer in cluster.names:
        assert seen(cluster, observer) == {(PathProblem.DATAGRAMS, source, target)}
    cluster.network.heal()
    cluster.run_for(60.0)
    assert [seen(cluster, observer) for observer in cluster.names] == [set()] * 4
    assert cluster.events(EventKind.PATH_CLEARED) != []
    assert cluster.events(EventKind.SUSPECTED) == []


def test_streams_cut_alone_are_named_by_everybody() -> None:
    cluster = settled()
    for other in ("n0", "n2", "n3"):
        cluster.network.cut_streams(other, "n1")
        cluster.network.cut_streams("n1", other)
    cluster.run_for(45.0)
    for observer in cluster.names:
        kinds = seen(cluster, observer)
        assert {(PathProblem.STREAMS, other, "n1") for other in ("n0", "n2", "n3")} <= kinds
        assert {kind for kind, _, _ in kinds} == {PathProblem.STREAMS}
    assert cluster.events(EventKind.DIED) == []


def test_three_packets_in_ten_lost_are_named_and_kill_nobody() -> None:
    cluster = settled(4, Faults(loss=0.3))
    cluster.run_for(60.0)
    for observer in cluster.names:
        assert PathProblem.LOSS in {kind for kind, _, _ in seen(cluster, observer)}
    assert cluster.events(EventKind.DIED) == []


def test_a_slow_network_is_named_and_kills_nobody() -> None:
    cluster = settled(4, Faults(delay_min=0.15, delay_mean=0.2))
    cluster.run_for(30.0)
    for observer in cluster.names:
        assert PathProblem.SLOW in {kind for kind, _, _ in seen(cluster, observer)}
    assert cluster.events(EventKind.DIED) == []


def test_a_healthy_network_has_no_faults() -> None:
    cluster = settled(5, Faults(loss=0.01, reorder=0.2, duplicate=0.1))
    cluster.run_for(120.0)
    assert [cluster.cores[observer].path_faults() for observer in cluster.names] == [{}] * 5


def test_faults_of_a_member_that_is_gone_are_over() -> None:
    cluster = settled()
    cluster.network.cut("n1", "n2", datagrams_only=True)
    cluster.run_for(15.0)
    cluster.crash("n2")
    cluster.run_for(8.0)
    assert cluster.agrees("n2", MemberState.AGENT_DOWN)
    assert [seen(cluster, observer) for observer in ("n0", "n1", "n3")] == [set()] * 3
    cluster.power_off("n2")
    cluster.run_for(20.0)
    assert cluster.agrees("n2", MemberState.DEAD)
    assert cluster.cores["n1"]._paths.watched() == []


def test_events_with_a_reserved_name_that_nobody_knows_are_passed_on_and_not_delivered() -> None:
    bench = Bench("a")
    bench.core._on_events(bench.now, (UserEvent(time=3, origin="a", name="_newer"),))
    assert [effect for effect in bench.take() if isinstance(effect, UserEventHeard)] == []
    assert bench.core.user_events() == []
    assert any(packet.events for _, packet in sent_soon(bench))


def sent_soon(bench: Bench) -> list[tuple[str, Packet]]:
    bench.core.on_timer(bench.core.deadline)
    return bench.packets()


def test_a_silent_host_and_a_stopped_agent_are_no_faults_of_the_network() -> None:
    cluster = settled(4)
    cluster.power_off("n1")
    cluster.crash("n2")
    cluster.run_for(20.0)
    assert cluster.agrees("n1", MemberState.DEAD)
    assert [cluster.cores[observer].path_faults() for observer in ("n0", "n3")] == [{}] * 2
    cluster.start("n1")
    cluster.start("n2")
    cluster.run_for(20.0)
    assert [cluster.cores[observer].path_faults() for observer in cluster.names] == [{}] * 4
