"""One command being applied: the store it works on, the time, and what it gives."""

from __future__ import annotations

import msgspec

from swarmlet.errors import InvalidInput, NotFound
from swarmlet.ids import DeploymentId, EvaluationId, JobId, Namespace, NodeId, RequestId, derive
from swarmlet.model.evaluation import Evaluation, EvaluationStatus, Trigger
from swarmlet.model.job import PRIORITY_DEFAULT, Job, JobType
from swarmlet.model.node import Node
from swarmlet.state.command import Applied
from swarmlet.state.store import Store

#: Longest name or id in a key. Keys are compared and copied all the time, and shown in tables.
NAME_CHARS_MAX = 256


class Step:
    """What a handler gets besides the body. Handlers raise `SwarmletError` to refuse: nothing then changes."""

    def __init__(self, store: Store, request_id: RequestId, actor: str) -> None:
        """`store` is this command's own copy, with index and time set."""
        self.store = store
        self.index = store.index
        self.now_ns = store.time_ns
        self.request_id = request_id
        self.actor = actor
        self.outcome = Applied(index=store.index)
        self._opened: dict[tuple[Namespace, JobId], EvaluationId] = {}
        self._minted = 0

    def is_from_leader(self) -> bool:
        """Whether the leader itself asked, not a user or node."""
        return self.actor.startswith("leader:")

    def is_at_level(self, level: int) -> bool:
        """Whether every replica decides as this feature level says: one of an older version would part from the others."""
        settings = self.store.settings()
        return settings is not None and settings.feature_level >= level

    def applied(self) -> Applied:
        """What the command gave, with the evaluations it opened."""
        opened = tuple(self._opened.values())
        if not opened:
            return self.outcome
        return msgspec.structs.replace(self.outcome, evaluation_id=opened[0], evaluation_ids=opened)

    def open_evaluation(
        self,
        namespace: Namespace,
        job_id: JobId,
        trigger: Trigger,
        *,
        node_id: NodeId | None = None,
        deployment_id: DeploymentId | None = None,
    ) -> EvaluationId:
        """Ask for a look at a job: one pending evaluation per job and command."""
        known = self._opened.get((namespace, job_id))
        if known is not None:
            return known
        job = self.store.job(namespace, job_id)
        evaluation = self.store.put_evaluation(
            Evaluation(
                id=self._mint_evaluation_id(),
                namespace=namespace,
                job_id=job_id,
                type=job.type if job else JobType.SERVICE,
                priority=job.priority if job else PRIORITY_DEFAULT,
                trigger=trigger,
                job_modify_index=job.job_modify_index if job else 0,
                node_id=node_id,
                deployment_id=deployment_id,
            )
        )
        self._opened[(namespace, job_id)] = evaluation.id
        self.cancel_superseded(evaluation)
        return evaluation.id

    def _mint_evaluation_id(self) -> EvaluationId:
        """Derived from the request; a request id that came back after it was forgotten gets fresh ones."""
        while True:
            minted = EvaluationId(derive("evaluation", self.request_id, self._minted))
            self._minted += 1
            if self.store.evaluation(minted) is None:
                return minted

    def cancel_superseded(self, newest: Evaluation) -> None:
        """Cancel what `newest` makes needless: an evaluation looks at the whole job, whatever opened it.

        The one pending for longest may be in the scheduler's hands and stays; delayed ones wait for their time.
        Of blocked ones the newest stays, since it knows best what is missing.
        """
        alike = sorted(
            (
                row
                for row in self.store.open_evaluations_of_job(newest.namespace, newest.job_id)
                if row.status is newest.status and row.wait_until_ns == 0 and row.id != newest.id
            ),
            key=lambda row: (row.modify_index, row.create_index, row.id),
        )
        if newest.status is EvaluationStatus.PENDING:
            alike = alike[1:]
        for row in alike:
            self.cancel(row, f"a newer evaluation of this job is {newest.status}", newest.id)

    def cancel(self, row: Evaluation, why: str, successor: EvaluationId | None = None) -> None:
        """End an open evaluation without a plan."""
        self.store.put_evaluation(
            msgspec.structs.replace(
                row, status=EvaluationStatus.CANCELED, status_description=why, next_evaluation=successor
            )
        )


def later(now_ns: int, delay_ns: int) -> int:
    """A deadline (wall time ns), kept within what 64 bits hold whatever delay was asked for."""
    return min(now_ns + max(0, delay_ns), 2**62)


def found_node(step: Step, node_id: NodeId) -> Node:
    """The node, or NotFound."""
    node = step.store.node(node_id)
    if node is None:
        raise NotFound(f'there is no node "{node_id}"; see `swarmlet node status`')
    return node


def found_job(step: Step, namespace: Namespace, job_id: JobId) -> Job:
    """The job, or NotFound."""
    job = step.store.job(namespace, job_id)
    if job is None:
        raise NotFound(f'there is no job "{job_id}" in namespace "{namespace}"; see `swarmlet job status`')
    return job


def check_name(what: str, name: str) -> None:
    """Raises InvalidInput for a name that cannot be a key."""
    if not name or len(name) > NAME_CHARS_MAX:
        raise InvalidInput(f"{what} must have 1 to {NAME_CHARS_MAX} characters, not {len(name)}")
