"""Commands about evaluations, all by the leader: its delayed ones, blocked ones that may go on, failures."""

from __future__ import annotations

import msgspec

from swarmlet.errors import Conflict, InvalidInput, NotFound
from swarmlet.ids import EvaluationId, derive
from swarmlet.model.evaluation import Evaluation, EvaluationStatus, Trigger
from swarmlet.state.command import FailEvaluation, UnblockEvaluations, UpsertEvaluations
from swarmlet.state.step import NAME_CHARS_MAX, Step, check_name

#: How an evaluation may end without a plan.
ENDS = frozenset({EvaluationStatus.FAILED, EvaluationStatus.CANCELED, EvaluationStatus.COMPLETE})


def upsert(step: Step, body: UpsertEvaluations) -> None:
    """Create or change. One that has ended stays as it ended: the leader may write from an older view."""
    for evaluation in body.evaluations:
        check_name("an evaluation's id", evaluation.id)
        check_name("an evaluation's job", evaluation.job_id)
        before = step.store.evaluation(evaluation.id)
        if before is not None and before.is_terminal():
            continue
        if before is not None:
            evaluation = msgspec.structs.replace(  # noqa: PLW2901 -- the attempt never goes back
                evaluation, attempt=max(evaluation.attempt, before.attempt)
            )
        put(step, evaluation)


def put(step: Step, evaluation: Evaluation) -> None:
    """Store one, and cancel those that it supersedes."""
    stored = step.store.put_evaluation(evaluation)
    if not stored.is_terminal() and not stored.wait_until_ns:
        step.cancel_superseded(stored)


def unblock(step: Step, body: UnblockEvaluations) -> None:
    """Blocked ones are pending again; any other is left alone."""
    for evaluation_id in body.evaluation_ids:
        row = step.store.evaluation(evaluation_id)
        if row is not None and row.status is EvaluationStatus.BLOCKED:
            put(
                step,
                msgspec.structs.replace(
                    row,
                    status=EvaluationStatus.PENDING,
                    status_description="capacity came",
                ),
            )


def fail(step: Step, body: FailEvaluation) -> None:
    """The scheduler gave up. With `retry_at_ns` a delayed follow-up takes over."""
    row = step.store.evaluation(body.evaluation_id)
    if row is None:
        raise NotFound(f'there is no evaluation "{body.evaluation_id}"')
    if row.is_terminal():
        raise Conflict(f"evaluation {row.id} has ended already: {row.status}")
    if body.status not in ENDS:
        raise InvalidInput(f'an evaluation does not fail with status "{body.status}"')
    follow_up = EvaluationId(derive("evaluation", row.id, "retry", row.attempt)) if body.retry_at_ns else None
    step.store.put_evaluation(
        msgspec.structs.replace(
            row,
            status=body.status,
            status_description=body.description[: 4 * NAME_CHARS_MAX],
            next_evaluation=follow_up,
        )
    )
    if follow_up is not None and step.store.evaluation(follow_up) is None:
        step.store.put_evaluation(
            Evaluation(
                id=follow_up,
                namespace=row.namespace,
                job_id=row.job_id,
                type=row.type,
                priority=row.priority,
                trigger=Trigger.MAX_PLAN_ATTEMPTS,
                job_modify_index=row.job_modify_index,
                deployment_id=row.deployment_id,
                wait_until_ns=body.retry_at_ns,
                previous_evaluation=row.id,
            )
        )
