"""The broker: who is next, who waits, who is woken."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.ids import EvaluationId, JobId, Namespace
from swarmlet.leader.broker import ATTEMPTS_MAX, Broker
from swarmlet.model.evaluation import Evaluation, EvaluationStatus, Trigger
from swarmlet.model.job import SECOND_NS, JobType
from swarmlet.state.command import FailEvaluation, UnblockEvaluations, UpsertEvaluations


def an_evaluation(
    name: str,
    *,
    job: str = "",
    priority: int = 50,
    index: int = 1,
    wait_until_ns: int = 0,
    status: EvaluationStatus = EvaluationStatus.PENDING,
    ineligible: tuple[str, ...] = (),
    snapshot: int = 1,
) -> Evaluation:
    return Evaluation(
        id=EvaluationId(name),
        namespace=Namespace("default"),
        job_id=JobId(job or name),
        type=JobType.SERVICE,
        priority=priority,
        trigger=Trigger.JOB_REGISTER,
        status=status,
        wait_until_ns=wait_until_ns,
        ineligible_classes=ineligible,
        snapshot_index=snapshot,
        create_index=index,
    )


def taken(broker: Broker, now_ns: int = 0) -> str | None:
    found = broker.dequeue(now_ns)
    return found.id if found else None


def test_priority_comes_first_then_age() -> None:
    broker = Broker()
    for evaluation in (
        an_evaluation("new", index=9),
        an_evaluation("old", index=3),
        an_evaluation("urgent", priority=90, index=8),
    ):
        broker.enqueue(evaluation, 0)
    assert [taken(broker) for _ in range(4)] == ["urgent", "old", "new", None]


def test_one_evaluation_per_job_is_in_flight() -> None:
    broker = Broker()
    broker.enqueue(an_evaluation("a", job="shop", index=1), 0)
    broker.enqueue(an_evaluation("b", job="shop", index=2), 0)
    assert [taken(broker), taken(broker)] == ["a", None]
    broker.acknowledge(EvaluationId("a"))
    assert taken(broker) == "b"


def test_a_delayed_evaluation_waits_for_its_time() -> None:
    broker = Broker()
    broker.enqueue(an_evaluation("later", wait_until_ns=50), 0)
    assert (taken(broker, 49), broker.wake_time_ns()) == (None, 50)
    assert (taken(broker, 50), broker.wake_time_ns()) == ("later", None)


def test_a_failed_attempt_backs_off_and_the_last_one_fails_it() -> None:
    broker = Broker()
    broker.enqueue(an_evaluation("a"), 0)
    now = 0
    for _ in range(ATTEMPTS_MAX - 1):
        now = max(now, broker.wake_time_ns() or 0)
        assert taken(broker, now) == "a"
        assert broker.nack(EvaluationId("a"), now, "boom") == ()
    now = broker.wake_time_ns() or 0
    assert taken(broker, now) == "a"
    (command,) = broker.nack(EvaluationId("a"), now, "boom")
    assert isinstance(command, FailEvaluation)
    assert command.description == "gave up after 5 attempts: boom"
    assert command.retry_at_ns == now + 60 * SECOND_NS
    assert len(broker) == 0


def test_a_blocked_evaluation_wakes_for_a_class_that_it_has_not_ruled_out() -> None:
    broker = Broker()
    blocked = an_evaluation("b", status=EvaluationStatus.BLOCKED, ineligible=("windows",))
    broker.enqueue(blocked, 0)
    assert taken(broker) is None
    assert broker.capacity_changed(["windows"], 5) == ()
    assert broker.capacity_changed(["arm"], 6) == (UnblockEvaluations(evaluation_ids=(EvaluationId("b"),)),)
    broker.enqueue(replace(blocked, status=EvaluationStatus.PENDING, attempt=1), 0)
    assert taken(broker) == "b"


def test_capacity_that_came_while_planning_is_not_missed() -> None:
    broker = Broker()
    broker.capacity_changed(["linux"], 7)
    commands = broker.enqueue(an_evaluation("b", status=EvaluationStatus.BLOCKED, snapshot=6), 0)
    assert commands == (UnblockEvaluations(evaluation_ids=(EvaluationId("b"),)),)
    assert broker.enqueue(an_evaluation("c", status=EvaluationStatus.BLOCKED, snapshot=7), 0) == ()


def test_a_newer_blocked_evaluation_takes_the_place_of_an_older_one() -> None:
    broker = Broker()
    broker.enqueue(an_evaluation("old", job="shop", status=EvaluationStatus.BLOCKED), 0)
    (command,) = broker.enqueue(an_evaluation("new", job="shop", status=EvaluationStatus.BLOCKED), 0)
    assert isinstance(command, UpsertEvaluations)
    assert [(each.id, each.status) for each in command.evaluations] == [("old", EvaluationStatus.CANCELED)]


def test_a_blocked_evaluation_is_canceled_once_a_later_look_has_ended() -> None:
    broker = Broker()
    broker.enqueue(an_evaluation("blocked", job="shop", status=EvaluationStatus.BLOCKED), 0)
    broker.enqueue(an_evaluation("look", job="shop"), 0)
    assert taken(broker) == "look"
    assert len(broker.acknowledge(EvaluationId("look"))) == 1
    assert len(broker) == 0


def test_what_the_same_look_blocked_stays_blocked() -> None:
    broker = Broker()
    broker.enqueue(an_evaluation("look", job="shop"), 0)
    assert taken(broker) == "look"
    broker.enqueue(an_evaluation("blocked", job="shop", status=EvaluationStatus.BLOCKED), 0)
    assert broker.acknowledge(EvaluationId("look")) == ()
    assert len(broker) == 1


def test_a_partly_dropped_plan_is_looked_at_again_with_its_new_attempt() -> None:
    broker = Broker()
    broker.enqueue(an_evaluation("a"), 0)
    taken(broker)
    broker.enqueue(replace(an_evaluation("a"), attempt=1), 0)
    broker.requeue(EvaluationId("a"), 0)
    again = broker.dequeue(0)
    assert again is not None
    assert again.attempt == 1


def test_an_evaluation_that_ended_elsewhere_is_forgotten() -> None:
    broker = Broker()
    broker.enqueue(an_evaluation("a"), 0)
    broker.enqueue(an_evaluation("a", status=EvaluationStatus.CANCELED), 0)
    assert (taken(broker), len(broker)) == (None, 0)


def test_a_new_leader_starts_from_the_open_evaluations() -> None:
    broker = Broker()
    broker.restore(
        [
            an_evaluation("ready"),
            an_evaluation("blocked", status=EvaluationStatus.BLOCKED),
            an_evaluation("later", wait_until_ns=10),
        ],
        0,
    )
    assert (taken(broker), broker.wake_time_ns(), len(broker)) == ("ready", 10, 3)


def test_one_that_was_canceled_in_flight_is_not_tried_again() -> None:
    broker = Broker()
    broker.enqueue(an_evaluation("a"), 0)
    taken(broker)
    broker.enqueue(an_evaluation("a", status=EvaluationStatus.CANCELED), 0)
    assert broker.nack(EvaluationId("a"), 0, "plan rejected") == ()
    assert len(broker) == 0
