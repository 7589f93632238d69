"""Queries: heard once per member, answered once, filtered, acknowledged, bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from swarmlet.errors import InvalidInput, Overloaded
from swarmlet.gossip.effect import QueryReported
from swarmlet.gossip.packet import (
    ANSWER_BYTES_MAX,
    EVENT_PAYLOAD_MAX,
    AnswerKind,
    Message,
    QueryAnswer,
    QueryReceipt,
)
from swarmlet.gossip.query import AGAIN_SECONDS, NODES_MAX, OPEN_MAX, OWED_MAX, Asked
from swarmlet.ids import NodeId
from swarmlet.simulation.gossip_cluster import Cluster
from swarmlet.simulation.network import Faults
from tests.gossip.double import Bench


def settled(nodes: int, faults: Faults | None = None) -> Cluster:
    cluster = Cluster(5, nodes, faults, acquainted=True)
    cluster.run_for(2.0)
    return cluster


def ask(cluster: Cluster, name: str, query: str, **options: Any) -> Asked:
    numbers: list[int] = []
    cluster.act(name, lambda core: numbers.append(core.ask(cluster.world.now, query, **options)))
    asked = cluster.cores[name].queries.asked(numbers[0])
    assert asked is not None
    return asked


def answerer(name: str, calls: list[str]) -> Callable[[bytes], bytes]:
    """Answers with its name and what was asked, and notes that it was called."""

    def answer(payload: bytes) -> bytes:
        calls.append(name)
        return name.encode() + payload

    return answer


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
def test_every_member_reports_once(loss: float) -> None:
    cluster = settled(15, Faults(loss=loss, duplicate=0.2, reorder=0.2))
    calls: list[str] = []
    for name in cluster.names:
        cluster.cores[name].queries.answer_with("who", answerer(name, calls))
    asked = ask(cluster, "n3", "who", payload=b"!")
    cluster.run_for(8.0)
    assert asked.is_complete
    assert asked.result().missing == ()
    assert asked.reports == {name: (AnswerKind.ANSWER, name.encode() + b"!") for name in cluster.names}
    assert sorted(calls) == sorted(cluster.names)


def test_an_asker_that_hears_a_member_only_through_others_gets_its_answer() -> None:
    cluster = settled(5)
    cluster.network.cut("n4", "n0", datagrams_only=True)
    asked = ask(cluster, "n0", "anything")
    cluster.run_for(3.0)
    assert asked.reports[NodeId("n4")] == (AnswerKind.HEARD, b"")


def test_named_members_alone_are_asked() -> None:
    cluster = settled(5)
    asked = ask(cluster, "n0", "anything", nodes=[NodeId("n2"), NodeId("n0")])
    cluster.run_for(3.0)
    assert set(asked.reports) == {"n0", "n2"}
    assert asked.is_complete


def test_tags_decide_who_answers_and_the_others_say_that_they_do_not_fit() -> None:
    cluster = settled(4)
    for number, name in enumerate(cluster.names):
        cluster.cores[name].queries.tags = {"zone": f"east-{number}" if number < 2 else "west"}
    asked = ask(cluster, "n0", "anything", tags={"zone": "east-?"})
    cluster.run_for(3.0)
    assert {node: kind for node, (kind, _) in asked.reports.items()} == {
        "n0": AnswerKind.HEARD,
        "n1": AnswerKind.HEARD,
        "n2": AnswerKind.NO_MATCH,
        "n3": AnswerKind.NO_MATCH,
    }


def test_who_says_nothing_is_named() -> None:
    cluster = settled(4)
    cluster.power_off("n2")
    asked = ask(cluster, "n0", "anything")
    cluster.run_for(3.0)
    assert asked.result().missing == ("n2",)
    assert not asked.is_complete


def test_queries_are_no_user_events_and_events_come_in_one_order_everywhere() -> None:
    cluster = settled(6)
    for number in range(6):
        cluster.cores[f"n{number}"].publish(cluster.world.now, f"e{number}", b"")
        cluster.act(f"n{number}", lambda core: None)
    ask(cluster, "n0", "anything")
    cluster.run_for(5.0)
    orders = {tuple(event.name for event in cluster.cores[name].user_events()) for name in cluster.names}
    assert len(orders) == 1
    assert sorted(*orders) == [f"e{number}" for number in range(6)]
    assert all(heard.name.startswith("e") for name in cluster.names for heard in cluster.heard[name])


def test_a_long_answer_is_cut_and_a_query_that_does_not_fit_is_refused() -> None:
    bench = Bench("a")
    bench.core.queries.answer_with("long", lambda payload: bytes(5000))
    number = bench.core.ask(bench.now, "long")
    [report] = [effect for effect in bench.take() if isinstance(effect, QueryReported)]
    assert (report.number, report.responder, len(report.payload)) == (number, "me", ANSWER_BYTES_MAX)
    with pytest.raises(InvalidInput, match="does not fit"):
        bench.core.ask(bench.now, "x", bytes(EVENT_PAYLOAD_MAX))
    with pytest.raises(InvalidInput, match="does not fit"):
        bench.core.ask(bench.now, "x", nodes=[NodeId("a")] * (NODES_MAX + 1))
    with pytest.raises(InvalidInput, match="does not fit"):
        bench.core.ask(bench.now, "")


def test_open_queries_are_bounded_and_closed_ones_take_nothing_more() -> None:
    bench = Bench("a")
    numbers = [bench.core.ask(bench.now, "x") for _ in range(OPEN_MAX)]
    with pytest.raises(Overloaded):
        bench.core.ask(bench.now, "x")
    asked = bench.core.queries.close(numbers[0])
    assert asked is not None
    bench.take()
    late = QueryAnswer(origin="me", number=numbers[0], responder="a", kind=AnswerKind.HEARD)
    bench.hear("a", (late,))
    # It is told to stop all the same.
    assert sent(bench, "a") == [QueryReceipt(number=numbers[0], responder="a")]
    assert list(asked.reports) == ["me"]


def sent(bench: Bench, to: str) -> list[Message]:
    return [message for target, packet in bench.packets() if target == to for message in packet.messages]


def answers(bench: Bench, seconds: float) -> list[str]:
    """To whom the bench sends an answer of its own within the time."""
    found = []
    until = bench.now + seconds
    while bench.core.deadline <= until:
        bench.now = max(bench.now, bench.core.deadline)
        bench.core.on_timer(bench.now)
        found += [
            target
            for target, packet in bench.packets()
            if any(isinstance(message, QueryAnswer) for message in packet.messages)
        ]
    return found


def asked_by(bench: Bench, asker: Bench, times: int = 1) -> list[int]:
    """Questions of another core, delivered to the bench."""
    numbers = []
    for _ in range(times):
        asker.core._outbox.events._queue.clear()
        numbers.append(asker.core.ask(asker.now, "x"))
        asker.core.queries.close(numbers[-1])
        for event in asker.core._outbox.events.remembered()[-1:]:
            bench.core._on_events(bench.now, (event,))
    return numbers


def test_an_answer_is_repeated_through_others_until_its_receipt_and_not_for_ever() -> None:
    bench, asker = Bench("a", "b"), Bench("x")
    asker.core.me = NodeId("a")
    asker.core._outbox.events._me = NodeId("a")
    [number] = asked_by(bench, asker)
    assert [type(message) for message in sent(bench, "a")] == [QueryAnswer]
    assert answers(bench, sum(AGAIN_SECONDS) + 5) == ["b", "a", "b", "a"]

    [number] = asked_by(bench, asker)
    bench.hear("a", (QueryReceipt(number=number, responder="me"),))
    bench.take()
    assert answers(bench, 5.0) == []


def test_answers_that_are_owed_are_bounded() -> None:
    bench, asker = Bench("a"), Bench("x")
    asker.core._outbox.events._me = NodeId("a")
    asked_by(bench, asker, OWED_MAX + 20)
    assert len(bench.core.queries._owed) == OWED_MAX


def test_a_relay_passes_an_answer_on_once_and_only_from_its_author() -> None:
    bench = Bench("asker", "author", "other")
    answer = QueryAnswer(origin="asker", number=7, responder="author", kind=AnswerKind.HEARD)
    bench.hear("author", (answer,))
    assert sent(bench, "asker") == [answer]
    bench.hear("other", (answer,))
    assert sent(bench, "asker") == []


def test_a_question_that_is_none_is_ignored() -> None:
    bench = Bench("a")
    bench.core._outbox.events.publish(bench.now, "_query", b"\xff")
    for event in bench.core._outbox.events.latest():
        bench.core._deliver(bench.now, event)
    assert [effect for effect in bench.take() if isinstance(effect, QueryReported)] == []
