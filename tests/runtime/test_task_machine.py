"""The table of a task's life."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmlet.ids import AllocationId
from swarmlet.model.allocation import TASK_EVENTS_MAX, TaskStatus
from swarmlet.model.job import SECOND_NS, RestartMode, RestartPolicy
from swarmlet.runtime.drivers.driver import TaskExit, TaskHandle
from swarmlet.runtime.task_machine import (
    Action,
    Adopted,
    Begin,
    Delay,
    Delayed,
    DelayOver,
    Event,
    Exited,
    Finish,
    GivenUp,
    Phase,
    RestartRequested,
    Start,
    Started,
    StartFailed,
    Stop,
    StopRequested,
    TaskMachine,
    TaskRecord,
    Vanished,
    Watch,
    after_failure,
)

HANDLE = TaskHandle(driver="fake", allocation_id=AllocationId("a"), task="server", identifier="1")
NOW = 1_000 * SECOND_NS


def machine(policy: RestartPolicy | None = None, *, is_batch: bool = False) -> TaskMachine:
    return TaskMachine(TaskRecord(name="server"), policy or RestartPolicy(), is_batch=is_batch, memory_mib=64)


def play(under_test: TaskMachine, *events: Event) -> list[Action]:
    """Feed all; the last step's actions."""
    actions: list[Action] = []
    for event in events:
        actions = under_test.step(NOW, event)
    return actions


def exited(code: int = 1) -> Exited:
    return Exited(result=TaskExit(exit_code=code))


def test_a_task_starts_and_is_watched() -> None:
    under_test = machine()
    assert under_test.step(NOW, Begin()) == [Start()]
    assert under_test.step(NOW, Started(handle=HANDLE)) == [Watch()]
    assert under_test.record.state.status is TaskStatus.RUNNING


def test_crashes_are_retried_after_0_1_2_4_8_seconds_and_then_given_up() -> None:
    """The defaults that a user feels."""
    under_test = machine()
    delays = []
    actions = play(under_test, Begin(), Started(handle=HANDLE), exited())
    while isinstance(actions[0], Delay):
        delays.append(actions[0].delay_ns // SECOND_NS)
        actions = play(under_test, DelayOver(), Started(handle=HANDLE), exited())
    assert delays == [0, 1, 2, 4, 8]
    assert actions == [Finish()]
    assert under_test.record.state.is_failed
    assert under_test.record.state.restarts == 5
    assert under_test.record.state.events[-1].kind == "Not Restarting"


def test_a_delay_that_the_job_sets_is_kept_unchanged() -> None:
    policy = RestartPolicy(attempts=2, delay_ns=15 * SECOND_NS, is_backoff=False)
    verdict = after_failure(policy, 1, NOW, NOW)
    assert isinstance(verdict, Delayed)
    assert verdict.delay_ns == 15 * SECOND_NS


def test_attempts_are_forgotten_after_the_interval() -> None:
    policy = RestartPolicy(attempts=1, interval_ns=60 * SECOND_NS)
    assert isinstance(after_failure(policy, 1, NOW, NOW + 59 * SECOND_NS), GivenUp)
    assert isinstance(after_failure(policy, 1, NOW, NOW + 60 * SECOND_NS), Delayed)


def test_mode_delay_waits_for_the_next_interval() -> None:
    policy = RestartPolicy(attempts=1, interval_ns=60 * SECOND_NS, mode=RestartMode.DELAY)
    verdict = after_failure(policy, 1, NOW, NOW + 20 * SECOND_NS)
    assert isinstance(verdict, Delayed)
    assert verdict.delay_ns == 40 * SECOND_NS


def test_a_batch_task_that_ends_well_is_done_and_a_service_starts_again() -> None:
    batch, service = machine(is_batch=True), machine()
    assert play(batch, Begin(), Started(handle=HANDLE), exited(0)) == [Finish()]
    assert not batch.record.state.is_failed
    assert play(service, Begin(), Started(handle=HANDLE), exited(0)) == [Delay(delay_ns=0)]


def test_a_lasting_start_failure_is_not_retried() -> None:
    under_test = machine()
    assert play(under_test, Begin(), StartFailed(message="no such image", is_temporary=False)) == [Finish()]
    assert under_test.record.state.is_failed


def test_a_stop_is_not_a_failure() -> None:
    under_test = machine()
    assert play(under_test, Begin(), Started(handle=HANDLE), StopRequested(reason="scaled down")) == [Stop()]
    assert play(under_test, exited(143)) == [Finish()]
    assert not under_test.record.state.is_failed


def test_a_stop_during_the_start_stops_what_was_started() -> None:
    under_test = machine()
    assert play(under_test, Begin(), StopRequested(reason="x")) == []
    assert play(under_test, Started(handle=HANDLE)) == [Watch(), Stop()]


def test_a_stop_during_the_wait_for_the_next_attempt_ends_at_once() -> None:
    under_test = machine()
    assert play(under_test, Begin(), Started(handle=HANDLE), exited(), StopRequested(reason="x")) == [
        Finish()
    ]


def test_a_requested_restart_uses_up_no_attempt() -> None:
    under_test = machine()
    assert play(under_test, Begin(), Started(handle=HANDLE), RestartRequested(reason="x")) == [Stop()]
    assert play(under_test, exited(143)) == [Start()]
    assert under_test.record.attempts == 0
    assert under_test.record.state.restarts == 1


def test_an_adopted_task_is_only_watched() -> None:
    under_test = machine()
    play(under_test, Begin(), Started(handle=HANDLE))
    before = under_test.record.state
    again = TaskMachine(under_test.record, RestartPolicy(), is_batch=False)
    assert again.step(NOW + 1, Adopted(handle=HANDLE)) == [Watch()]
    assert again.record.state == before


def test_a_task_that_a_reboot_ended_is_started_without_using_up_an_attempt() -> None:
    under_test = machine()
    actions = play(under_test, Begin(), Started(handle=HANDLE), Vanished(message="reboot"))
    assert (actions, under_test.record.attempts) == ([Start()], 0)


def test_an_out_of_memory_kill_is_named_with_its_limit() -> None:
    under_test = machine()
    killed = Exited(result=TaskExit(exit_code=137, is_oom_killed=True))
    play(under_test, Begin(), Started(handle=HANDLE), killed)
    assert under_test.record.state.is_oom_killed
    terminated = [event for event in under_test.record.state.events if event.kind == "Terminated"]
    assert terminated[0].message == "killed by the kernel: out of memory at its limit of 64 MiB"


EVENTS = st.sampled_from(
    [
        Begin(),
        Started(handle=HANDLE),
        StartFailed(message="x"),
        exited(),
        exited(0),
        Vanished(message="x"),
        DelayOver(),
        StopRequested(reason="x"),
        RestartRequested(reason="x"),
        Adopted(handle=HANDLE),
    ]
)


@given(st.lists(EVENTS, max_size=60))
def test_no_order_of_events_breaks_the_machine(events: list[Event]) -> None:
    under_test = machine()
    for event in events:
        was_dead = under_test.record.phase is Phase.DEAD
        actions = under_test.step(NOW, event)
        state = under_test.record.state
        assert len(state.events) <= TASK_EVENTS_MAX
        assert (under_test.record.phase is Phase.DEAD) == (state.status is TaskStatus.DEAD)
        assert (Finish() in actions) == (not was_dead and under_test.record.phase is Phase.DEAD)
        if Stop() in actions or Watch() in actions:
            assert under_test.record.handle is not None


@given(st.lists(EVENTS, max_size=40))
def test_after_a_stop_nothing_is_started(events: list[Event]) -> None:
    under_test = machine()
    play(under_test, *events, StopRequested(reason="x"))
    for event in (Started(handle=HANDLE), exited(), DelayOver(), RestartRequested(reason="x"), Begin()):
        assert Start() not in under_test.step(NOW, event)


def test_a_restart_for_a_failing_check_counts_against_the_restart_policy() -> None:
    asked = RestartRequested(reason="check", is_failure=True)
    under_test = machine(RestartPolicy(attempts=1, delay_ns=7, is_backoff=False))
    assert play(under_test, Begin(), Started(handle=HANDLE), asked) == [Stop()]
    assert under_test.step(NOW, exited(0)) == [Delay(delay_ns=7)]
    play(under_test, DelayOver(), Started(handle=HANDLE), asked)
    assert under_test.step(NOW, exited(0)) == [Finish()]
    assert under_test.record.state.is_failed


def test_somebodys_restart_after_one_for_a_check_is_not_a_failure() -> None:
    under_test = machine(RestartPolicy(attempts=1, delay_ns=0, is_backoff=False))
    for_check = RestartRequested(reason="check", is_failure=True)
    play(
        under_test, Begin(), Started(handle=HANDLE), for_check, exited(), DelayOver(), Started(handle=HANDLE)
    )
    assert play(under_test, RestartRequested(reason="x"), exited()) == [Start()]
