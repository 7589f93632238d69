"""Which way, and which protocol, does not work: named by who sees it, known to all."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from swarmlet.errors import InvalidInput
from swarmlet.gossip.effect import EventKind, MemberState, UserEventHeard
from swarmlet.gossip.packet import EVENT_PAYLOAD_MAX, Packet, UserEvent, encode_event
from swarmlet.gossip.path import (
    BLOCKED_PINGS,
    BLOCKED_STREAMS,
    LOST_WARN,
    SLOW_ANSWERS,
    SLOW_SECONDS,
    SLOW_WELL_SECONDS,
    WINDOW,
    PathFault,
    PathProblem,
    Paths,
    sentence,
)
from swarmlet.gossip.path_report import (
    CHANGE_SECONDS,
    CHANGES_MAX,
    FAULTS_MAX,
    FORGET_SECONDS,
    GAP_SECONDS,
    KEPT_MAX,
    REPEAT_SECONDS,
    REPEATED_MAX,
    REPORT_EVENT,
    REPORTERS_MAX,
    PathReports,
)
from swarmlet.ids import NodeId
from swarmlet.simulation.gossip_cluster import Cluster
from swarmlet.simulation.network import Faults, Network
from tests.gossip.double import Bench

ME, A, B = NodeId("me"), NodeId("a"), NodeId("b")


def fault(problem: PathProblem, source: str, target: str, value: int = 0) -> PathFault:
    return PathFault(problem=problem, source=source, target=target, value=value)


def report(payload: bytes, time: int = 1, origin: str = ME) -> UserEvent:
    return UserEvent(time=time, origin=origin, name=REPORT_EVENT, payload=payload)


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
    paths.answered(A, 0.001, 0.001)
    paths.probed(A, 20.0, answered=True)
    # What got no answer while it was blocked counts as lost until the window has moved on.
    assert [each.problem for each in paths.faults()] == [PathProblem.LOSS]
    for number in range(WINDOW):
        paths.answered(A, 0.001, 0.001)
        paths.probed(A, 21.0 + number, answered=True)
    assert paths.faults() == ()


def test_losses_are_counted_over_a_window_and_named_with_their_share() -> None:
    paths = Paths(ME)
    for number in range(WINDOW):
        is_lost = number % (WINDOW // LOST_WARN) == 0
        paths.probed(A, float(number), answered=not is_lost)
        if not is_lost:
            paths.answered(A, 0.001, 0.001)
    assert paths.faults() == (fault(PathProblem.LOSS, "me", "a", 100 * LOST_WARN // WINDOW),)


def test_a_late_answer_is_not_a_lost_one() -> None:
    paths = Paths(ME)
    for number in range(WINDOW):
        paths.probed(A, float(number), answered=False)
        paths.answered_late(A, float(number))
        paths.answered(A, 0.001, 0.001)
    assert paths.faults() == ()


def test_answers_that_come_many_probes_late_are_not_lost_either() -> None:
    paths = Paths(ME)
    fail_pings(paths, WINDOW)
    paths.answered(A, 0.001, 0.001)
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
    for _ in range(SLOW_ANSWERS):
        assert paths.faults() == ()
        paths.answered(A, SLOW_SECONDS, SLOW_SECONDS)
    slow = (fault(PathProblem.SLOW, "me", "a", round(SLOW_SECONDS * 1000)),)
    assert paths.faults() == slow
    paths.answered(A, SLOW_SECONDS, SLOW_WELL_SECONDS)
    assert paths.faults() == slow
    paths.answered(A, SLOW_SECONDS, SLOW_WELL_SECONDS / 2)
    assert paths.faults() == ()


def test_single_answers_that_come_late_are_no_slow_way() -> None:
    paths = Paths(ME)
    for _ in range(5):
        paths.answered(A, 0.9, 0.9)
        paths.answered(A, 0.7, 0.001)
        paths.answered(A, 0.7, None)
    assert paths.faults() == ()
    assert paths.watched() == []


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
    theirs.hear(0.0, report(payload, 5))
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
    listener.hear(0.0, report(end, 2))
    assert listener.all(()) == {}


def test_an_older_report_and_garbage_change_nothing() -> None:
    told = PathReports(ME).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    end = PathReports(ME)
    end.to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    ended = end.to_tell(GAP_SECONDS, ())
    assert told is not None
    assert ended is not None
    reports = PathReports(B)
    heard = [reports.hear(0.0, report(data, time)) for data, time in ((ended, 8), (told, 7), (b"\xff", 9))]
    assert heard == [True, False, False]
    assert reports.all(()) == {}


def test_what_is_not_repeated_is_forgotten() -> None:
    payload = PathReports(ME).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    assert payload is not None
    reports = PathReports(B)
    reports.hear(0.0, report(payload))
    reports.forget(FORGET_SECONDS + 1)
    assert (reports.all(()), len(reports)) == ({}, 0)
    assert not reports.hear(FORGET_SECONDS + 2, report(payload))


def test_a_report_fits_into_an_event_however_long_the_ids_are() -> None:
    faults = tuple(fault(PathProblem.DATAGRAMS, f"{number:064}", f"{number:064}") for number in range(20))
    payload = PathReports(ME).to_tell(0.0, faults)
    assert payload is not None
    assert len(payload) <= EVENT_PAYLOAD_MAX
    reports = PathReports(B)
    reports.hear(0.0, report(payload))
    assert 1 <= len(reports.all(())[ME]) <= FAULTS_MAX


def test_where_many_report_others_keep_quiet() -> None:
    payload = PathReports(ME).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    assert payload is not None
    reports = PathReports(B)
    for number in range(3 * REPORTERS_MAX):
        reports.hear(0.0, report(payload, origin=f"n{number}"))
    assert len(reports.all(())) == len(reports) == KEPT_MAX
    assert reports.to_tell(0.0, (fault(PathProblem.DATAGRAMS, "b", "a"),)) is None


def test_ways_that_come_and_go_are_told_a_few_times_and_then_seldom() -> None:
    reports = PathReports(ME)
    faults = (fault(PathProblem.LOSS, "me", "a", 30),)
    hour = 3600
    told = [
        second for second in range(hour) if reports.to_tell(second, faults if second % 2 else ()) is not None
    ]
    assert len([second for second in told if second < CHANGE_SECONDS]) == CHANGES_MAX
    assert hour / CHANGE_SECONDS - 10 <= len(told) <= hour / CHANGE_SECONDS + CHANGES_MAX
    assert min(later - earlier for earlier, later in pairwise(told)) >= GAP_SECONDS


def test_where_more_is_wrong_than_fits_the_choice_stays_and_the_gravest_goes_first() -> None:
    reports = PathReports(ME)
    many = tuple(fault(PathProblem.LOSS, "me", f"n{number:02}", 30) for number in range(20, 40))
    assert reports.to_tell(0.0, many) is not None
    before = tuple(fault(PathProblem.LOSS, "me", f"n{number:02}", 30) for number in range(20))
    assert reports.to_tell(GAP_SECONDS, before + many) is None
    grave = fault(PathProblem.DATAGRAMS, "me", "z")
    payload = reports.to_tell(GAP_SECONDS, (grave, *before, *many))
    assert payload is not None
    listener = PathReports(B)
    listener.hear(0.0, report(payload))
    assert listener.all(())[ME] == (grave, *many[: FAULTS_MAX - 1])


def test_a_report_is_passed_on_a_limited_number_of_times_and_the_newest_of_a_member_only() -> None:
    reports = PathReports(ME)
    payload = PathReports(ME).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    assert payload is not None
    for time in (1, 2):
        reports.hear(0.0, report(payload, time, "a"))
    reports.hear(0.0, report(payload, 1, "b"))
    newest = [encode_event(report(payload, 2, "a")), encode_event(report(payload, 1, "b"))]
    assert reports.take(1000, 2, 10) == newest
    assert reports.take(len(newest[1]), 2, 1) == newest[:1]
    assert reports.take(1000, 2, 10) == newest[1:]
    assert len(reports) == 0
    assert len(reports.all(())) == 2


def test_a_state_exchange_repeats_what_was_heard_lately() -> None:
    reports = PathReports(ME)
    payload = PathReports(ME).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    assert payload is not None
    for number in range(2 * REPEATED_MAX):
        reports.hear(float(number), report(payload, 1, f"n{number:02}"))
    last = 2 * REPEATED_MAX - 1
    assert [event.origin for event in reports.latest(last)] == [
        f"n{number:02}" for number in range(REPEATED_MAX, 2 * REPEATED_MAX)
    ]
    assert [event.origin for event in reports.latest(last + REPEAT_SECONDS)] == [f"n{last}"]


def test_reports_that_say_nothing_any_more_make_room() -> None:
    payload = PathReports(ME).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "me", "a"),))
    assert payload is not None
    reports = PathReports(B)
    for number in range(KEPT_MAX):
        reports.hear(float(number), report(payload, origin=f"n{number}"))
    assert not reports.hear(100.0, report(payload, origin="new"))
    reports.forget(FORGET_SECONDS + 1.5)
    assert reports.hear(FORGET_SECONDS + 2, report(payload, origin="new"))
    assert "new" in reports.all(())


def test_reports_cost_no_packet_and_take_no_room_from_membership() -> None:
    bench = Bench("a", "b")
    payload = PathReports(NodeId("a")).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "a", "b"),))
    assert payload is not None
    bench.answering = {"a", "b"}
    bench.run_for(5.0)
    assert bench.core._outbox.next_gossip == math.inf
    bench.core._on_events(bench.now, (report(payload, 3, "a"),))
    assert (bench.take(), bench.core._outbox.next_gossip) == ([], math.inf)
    assert bench.core.path_faults() == {"a": (fault(PathProblem.DATAGRAMS, "a", "b"),)}
    bench.core._outbox.send(("b", 1), ())
    [(_, packet)] = bench.packets()
    assert packet.events == (report(payload, 3, "a"),)


def test_reports_push_no_event_of_a_user_out_of_memory() -> None:
    bench = Bench("a", "b")
    bench.core.publish(bench.now, "deployed", b"1")
    payload = PathReports(NodeId("a")).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "a", "b"),))
    assert payload is not None
    for time in range(2, 2000):
        bench.core._on_events(bench.now, (report(payload, time, "a"),))
    assert [event.name for event in bench.core.user_events()] == ["deployed"]
    bench.core.publish(bench.now, "deployed", b"2")
    assert [event.time for event in bench.core.user_events()] == [1, 2000]


def test_a_report_from_far_ahead_is_not_believed() -> None:
    bench = Bench("a", "b")
    payload = PathReports(NodeId("a")).to_tell(0.0, (fault(PathProblem.DATAGRAMS, "a", "b"),))
    assert payload is not None
    bench.core._on_events(bench.now, (report(payload, 2**40, "a"),))
    assert bench.core.path_faults() == {}


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


def cut_streams_of(network: Network, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No segment of a stream gets to `node` or away from it any more; datagrams do."""
    through = network._segment

    def segment(source: str, destination: str, function: Callable[[], None], attempt: int = 0) -> None:
        if node not in {source, destination}:
            through(source, destination, function, attempt)

    monkeypatch.setattr(network, "_segment", segment)


def test_streams_cut_alone_are_named_by_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = settled()
    cut_streams_of(cluster.network, "n1", monkeypatch)
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
