"""The evaluation broker: which evaluation is looked at next. Pure; the leader's shell owns one.

Order: priority, then age. One evaluation per job is in flight at a time. Delayed ones wait for their time,
blocked ones for capacity of a class that they have not ruled out. Everything here is rebuilt from
`View.open_evaluations()` when leadership changes, so losing it loses nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from swarmlet.ids import EvaluationId, JobId, Namespace
from swarmlet.model.evaluation import Evaluation, EvaluationStatus
from swarmlet.model.job import SECOND_NS
from swarmlet.state.command import Body, FailEvaluation, UnblockEvaluations, UpsertEvaluations

#: Attempts per evaluation before it fails (and a delayed follow-up takes its place).
ATTEMPTS_MAX = 5
#: Waits after the first, second, ... failed attempt; the last one repeats.
NACK_DELAYS_NS = (0, SECOND_NS // 10, SECOND_NS // 2, 2 * SECOND_NS)
#: A failed evaluation is tried again this much later, as a new one.
FAILED_RETRY_NS = 60 * SECOND_NS
#: Evaluations held in memory (about 1 KiB each). Beyond it new ones stay in the state and are fetched by
#: `restore` when the queue has drained: the state, not this queue, is what must not be lost.
BROKER_MAX = 100_000
#: Evaluations woken by one command, so that a log entry stays small.
UNBLOCK_BATCH = 1_000
#: Classes whose last capacity change is remembered; the oldest are folded into one floor.
CLASSES_MAX = 10_000

_JobKey = tuple[Namespace, JobId]


def _job(evaluation: Evaluation) -> _JobKey:
    return evaluation.namespace, evaluation.job_id


@dataclass
class _Job:
    """The queue of one job: ready evaluations by (priority, age), and the one in flight."""

    ready: list[tuple[int, int, int, EvaluationId]] = field(default_factory=list)
    in_flight: EvaluationId | None = None


class Broker:
    """Hands out evaluations. Times are wall time in ns and come in as arguments."""

    def __init__(self) -> None:
        """Empty; feed it with `restore`, then `enqueue` for each evaluation that changes."""
        self._known: dict[EvaluationId, Evaluation] = {}
        self._arrival: dict[EvaluationId, int] = {}
        self._attempts: dict[EvaluationId, int] = {}
        self._jobs: dict[_JobKey, _Job] = {}
        #: Heads of jobs that have nothing in flight; entries may be stale and are then skipped.
        self._heads: list[tuple[int, int, int, EvaluationId]] = []
        self._delayed: list[tuple[int, int, EvaluationId]] = []
        self._not_before: dict[EvaluationId, int] = {}
        self._blocked: dict[EvaluationId, Evaluation] = {}
        self._blocked_of_job: dict[_JobKey, EvaluationId] = {}
        self._capacity_index: dict[str, int] = {}
        self._capacity_floor = 0
        self._sequence = 0
        self._taken_at: dict[EvaluationId, int] = {}
        #: Evaluations turned away because the broker was full: `restore` again once it has drained.
        self.overflowed = False

    def __len__(self) -> int:
        """Evaluations that are ready, delayed, blocked or in flight."""
        return len(self._known)

    def restore(self, evaluations: Iterable[Evaluation], now_ns: int) -> tuple[Body, ...]:
        """Begin from the state: call with `view.open_evaluations()` on becoming leader, and after overflow."""
        self.overflowed = False
        commands: list[Body] = []
        for evaluation in evaluations:
            commands += self.enqueue(evaluation, now_ns)
        return tuple(commands)

    def enqueue(self, evaluation: Evaluation, now_ns: int) -> tuple[Body, ...]:
        """Take in a new or changed evaluation, of any status. Gives commands to propose (older blocked ones of
        the same job are canceled; one that was blocked on a stale snapshot is woken at once).
        """
        known = self._known.get(evaluation.id)
        if known is not None and evaluation.id in self._taken_at:
            # In flight: its end comes through acknowledge or nack; remember only its newest form.
            self._known[evaluation.id] = evaluation
            return ()
        if known is not None and known.status is evaluation.status:
            self._known[evaluation.id] = evaluation
            if evaluation.id in self._blocked:
                self._blocked[evaluation.id] = evaluation
            return ()
        self.forget(evaluation.id)
        if evaluation.is_terminal():
            return ()
        if len(self._known) >= BROKER_MAX:
            self.overflowed = True
            return ()
        self._sequence += 1
        self._known[evaluation.id] = evaluation
        self._arrival[evaluation.id] = self._sequence
        if evaluation.status is EvaluationStatus.BLOCKED:
            return self._block(evaluation)
        self._schedule(evaluation, max(evaluation.wait_until_ns, 0), now_ns)
        return ()

    def dequeue(self, now_ns: int) -> Evaluation | None:
        """The next evaluation to look at, now in flight; None when nothing is due."""
        self._promote(now_ns)
        while self._heads:
            entry = heapq.heappop(self._heads)
            evaluation_id = entry[3]
            evaluation = self._known.get(evaluation_id)
            if evaluation is None:
                continue
            job = self._jobs.get(_job(evaluation))
            if job is None or job.in_flight is not None or not job.ready or job.ready[0][3] != evaluation_id:
                continue
            heapq.heappop(job.ready)
            job.in_flight = evaluation_id
            self._sequence += 1
            self._taken_at[evaluation_id] = self._sequence
            return evaluation
        return None

    def acknowledge(self, evaluation_id: EvaluationId) -> tuple[Body, ...]:
        """Its plan has been applied and it has ended. Gives the command that cancels what it has overtaken."""
        evaluation = self._known.get(evaluation_id)
        taken = self._taken_at.get(evaluation_id)
        if evaluation is None or taken is None:
            return ()
        key = _job(evaluation)
        self.forget(evaluation_id)
        blocked_id = self._blocked_of_job.get(key)
        if blocked_id is None or self._arrival[blocked_id] > taken:
            return ()
        blocked = self._blocked[blocked_id]
        self.forget(blocked_id)
        return (_cancel(blocked, f"evaluation {evaluation_id[:8]} has looked at the job since"),)

    def requeue(self, evaluation_id: EvaluationId, now_ns: int) -> None:
        """Its plan was partly dropped and the state keeps it pending: look again at once, with its newest form.

        `enqueue` the newest form first. Not counted as a failed attempt: the state moved on, nothing broke.
        """
        evaluation = self._known.get(evaluation_id)
        if evaluation is None or self._has_ended(evaluation):
            return
        self._release(evaluation)
        self._schedule(evaluation, evaluation.wait_until_ns, now_ns)

    def nack(self, evaluation_id: EvaluationId, now_ns: int, reason: str) -> tuple[Body, ...]:
        """Looking at it failed: try again after a back-off, or give the command that fails it."""
        evaluation = self._known.get(evaluation_id)
        if evaluation is None or evaluation_id not in self._taken_at or self._has_ended(evaluation):
            return ()
        self._release(evaluation)
        attempts = self._attempts.get(evaluation_id, 0) + 1
        if attempts >= ATTEMPTS_MAX:
            self.forget(evaluation_id)
            return (
                FailEvaluation(
                    evaluation_id=evaluation_id,
                    description=f"gave up after {attempts} attempts: {reason}",
                    retry_at_ns=now_ns + FAILED_RETRY_NS,
                ),
            )
        self._attempts[evaluation_id] = attempts
        delay = NACK_DELAYS_NS[min(attempts - 1, len(NACK_DELAYS_NS) - 1)]
        self._schedule(evaluation, now_ns + delay, now_ns)
        return ()

    def capacity_changed(self, classes: Iterable[str], index: int) -> tuple[Body, ...]:
        """Nodes of these computed classes gained capacity at `index` (a node came back or grew, an allocation
        ended, a drain was lifted). Gives the commands that wake what may fit now.
        """
        changed = sorted(set(classes))
        for name in changed:
            self._capacity_index[name] = max(index, self._capacity_index.get(name, 0))
        while len(self._capacity_index) > CLASSES_MAX:
            oldest = min(self._capacity_index, key=lambda name: (self._capacity_index[name], name))
            self._capacity_floor = max(self._capacity_floor, self._capacity_index.pop(oldest))
        woken = [
            evaluation.id
            for evaluation in self._blocked.values()
            if any(name not in evaluation.ineligible_classes for name in changed)
        ]
        for evaluation_id in woken:
            self.forget(evaluation_id)
        return tuple(
            UnblockEvaluations(evaluation_ids=tuple(woken[start : start + UNBLOCK_BATCH]))
            for start in range(0, len(woken), UNBLOCK_BATCH)
        )

    def wake_time_ns(self) -> int | None:
        """When the next delayed evaluation is due; None: nothing is delayed."""
        while self._delayed:
            due, _, evaluation_id = self._delayed[0]
            if self._not_before.get(evaluation_id) == due:
                return due
            heapq.heappop(self._delayed)
        return None

    def forget(self, evaluation_id: EvaluationId) -> None:
        """Drop an evaluation (it ended, or its job is gone)."""
        evaluation = self._known.pop(evaluation_id, None)
        self._arrival.pop(evaluation_id, None)
        self._attempts.pop(evaluation_id, None)
        self._not_before.pop(evaluation_id, None)
        if evaluation is None:
            return
        if self._blocked.pop(evaluation_id, None) is not None:
            self._blocked_of_job.pop(_job(evaluation), None)
            return
        self._release(evaluation)
        key = _job(evaluation)
        job = self._jobs.get(key)
        if job is not None:
            remaining = [entry for entry in job.ready if entry[3] != evaluation_id]
            if len(remaining) != len(job.ready):
                heapq.heapify(remaining)
                job.ready = remaining
                self._offer(job)
            if not job.ready and job.in_flight is None:
                del self._jobs[key]

    def _has_ended(self, evaluation: Evaluation) -> bool:
        """Whether it ended (canceled, say) while it was in flight; it is then forgotten."""
        if not evaluation.is_terminal():
            return False
        self.forget(evaluation.id)
        return True

    def _block(self, evaluation: Evaluation) -> tuple[Body, ...]:
        commands: list[Body] = []
        key = _job(evaluation)
        older_id = self._blocked_of_job.get(key)
        if older_id is not None:
            older = self._blocked[older_id]
            self.forget(older_id)
            commands.append(_cancel(older, f"evaluation {evaluation.id[:8]} waits in its place"))
        if self._missed_capacity(evaluation):
            self._known.pop(evaluation.id)
            self._arrival.pop(evaluation.id)
            return (*commands, UnblockEvaluations(evaluation_ids=(evaluation.id,)))
        self._blocked[evaluation.id] = evaluation
        self._blocked_of_job[key] = evaluation.id
        return tuple(commands)

    def _missed_capacity(self, evaluation: Evaluation) -> bool:
        """Whether capacity came after the snapshot that it was planned on."""
        if self._capacity_floor > evaluation.snapshot_index:
            return True
        return any(
            index > evaluation.snapshot_index and name not in evaluation.ineligible_classes
            for name, index in self._capacity_index.items()
        )

    def _schedule(self, evaluation: Evaluation, not_before_ns: int, now_ns: int) -> None:
        if not_before_ns > now_ns:
            self._not_before[evaluation.id] = not_before_ns
            heapq.heappush(self._delayed, (not_before_ns, self._arrival[evaluation.id], evaluation.id))
            return
        self._not_before.pop(evaluation.id, None)
        job = self._jobs.setdefault(_job(evaluation), _Job())
        entry = (
            -evaluation.priority,
            evaluation.create_index,
            self._arrival[evaluation.id],
            evaluation.id,
        )
        heapq.heappush(job.ready, entry)
        self._offer(job)

    def _promote(self, now_ns: int) -> None:
        while self._delayed and self._delayed[0][0] <= now_ns:
            due, _, evaluation_id = heapq.heappop(self._delayed)
            evaluation = self._known.get(evaluation_id)
            if evaluation is not None and self._not_before.get(evaluation_id) == due:
                self._schedule(evaluation, due, now_ns)

    def _release(self, evaluation: Evaluation) -> None:
        self._taken_at.pop(evaluation.id, None)
        key = _job(evaluation)
        job = self._jobs.get(key)
        if job is not None and job.in_flight == evaluation.id:
            job.in_flight = None
            self._offer(job)
            if not job.ready:
                del self._jobs[key]

    def _offer(self, job: _Job) -> None:
        if job.in_flight is None and job.ready:
            heapq.heappush(self._heads, job.ready[0])


def _cancel(evaluation: Evaluation, why: str) -> UpsertEvaluations:
    canceled = msgspec.structs.replace(
        evaluation, status=EvaluationStatus.CANCELED, status_description=f"canceled: {why}"
    )
    return UpsertEvaluations(evaluations=(canceled,))
