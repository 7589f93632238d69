"""The replicated state machine: a command in, the same new state, answer and changes on every replica.

No clock, no randomness, no iteration over hash maps. A command that breaks a rule changes nothing and its
`Applied` names the error; the log position and the state's time move on all the same. A command of an unknown
kind raises: skipping it would let replicas drift apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, get_args

from swarmlet.errors import InvalidInput, JoinRefused, StorageError, SwarmletError, WireError
from swarmlet.state import (
    apply_allocations,
    apply_cluster,
    apply_deployments,
    apply_evaluations,
    apply_jobs,
    apply_nodes,
    apply_plan,
    apply_reports,
    apply_tokens,
    apply_variables,
    apply_volumes,
    collect,
    restoring,
    snapshot_bytes,
)
from swarmlet.state import command as commands
from swarmlet.state.command import ENVELOPE_VERSION, FEATURE_LEVEL, Applied, Body, Command, command_codec
from swarmlet.state.snapshot import Snapshot
from swarmlet.state.step import Step
from swarmlet.state.store import Store
from swarmlet.state.view import Change

#: A command being applied; each step is one part of it.
Applying = Generator[None, None, tuple[Applied, tuple[Change, ...]]]


def decode_entry(index: int, data: bytes) -> Command:
    """The command in a log entry. Raises StorageError when this build does not understand it: it must stop."""
    try:
        command = command_codec.decode(data)
    except WireError as error:
        raise StorageError(
            f"log entry {index} holds no command that this version understands ({error}); "
            "run the version of swarmlet that the other nodes run"
        ) from error
    if command.version > ENVELOPE_VERSION:
        raise StorageError(
            f"log entry {index} has envelope version {command.version}, this build knows {ENVELOPE_VERSION}; "
            "run the version of swarmlet that the other nodes run"
        )
    return command


class StateMachine:
    """One replica's state. Not thread-safe: one owner applies, readers take snapshots."""

    def __init__(self, store: Store | None = None) -> None:
        """Start empty, or from a store that was loaded."""
        self._store = store or Store()

    @property
    def index(self) -> int:
        """The log index of the last command applied."""
        return self._store.index

    def snapshot(self) -> Snapshot:
        """The state now, for readers. O(1)."""
        return self._store.snapshot()

    def fork(self) -> StateMachine:
        """A copy that goes its own way, to see what commands would do. O(1)."""
        return StateMachine(self._store.copy())

    def apply(self, index: int, command: Command) -> tuple[Applied, tuple[Change, ...]]:
        """Apply the command at log position `index` (rising). Never fails halfway.

        A request id that was applied already gives its first answer again. Raises StorageError for a kind of
        command that this build does not know.
        """
        steps = self.applying(index, command)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                applied, changes = end.value
                return applied, changes

    def applying(self, index: int, command: Command) -> Applying:
        """As `apply`, in parts of a few milliseconds at most: others may read between them, and see the state as it was
        before. Nothing else is applied until this has ended; what is not carried on has changed nothing.
        """
        before = self._store
        assert index > before.index, f"entry {index} after entry {before.index}"
        first = before.outcome(command.request_id)
        if first is not None:
            self._store = self._begin(index, command.wall_time_ns)
            return first, ()
        work = self._begin(index, command.wall_time_ns)
        step = Step(work, command.request_id, command.actor)
        try:
            if not command.request_id:
                raise InvalidInput("a command needs a request id")
            parts = _HANDLERS[type(command.body)](step, command.body)
            if parts is not None:
                yield from parts
        except StorageError:
            raise
        except SwarmletError as error:
            work = self._begin(index, command.wall_time_ns)
            applied = Applied(index=index, error=_error_name(error), message=str(error))
        else:
            applied = step.applied()
            collect.forget_purged(step)
            work.drop_surplus()
        if command.request_id:
            work.remember(command.request_id, applied)
        changes = tuple(work.changes)
        work.changes = []
        assert self._store is before, f"something was applied while entry {index} was"
        self._store = work
        return applied, changes

    def _begin(self, index: int, wall_time_ns: int) -> Store:
        """A copy of the store, at this entry."""
        work = self._store.copy()
        work.index = index
        work.time_ns = max(work.time_ns, wall_time_ns)
        return work

    def save(self) -> Iterator[bytes]:
        """The state as bytes, in bounded pieces. Equal states give equal bytes."""
        return snapshot_bytes.save(self._store.snapshot())

    @classmethod
    def load(cls, pieces: Iterable[bytes]) -> StateMachine:
        """The state in `pieces`, cut anywhere. Raises StorageError when they are not a whole snapshot, or one of a
        feature level that this build does not know: what it would make of the next command is anybody's guess.
        """
        store = snapshot_bytes.load(pieces)
        settings = store.settings()
        if settings is not None and settings.feature_level > FEATURE_LEVEL:
            raise StorageError(
                f"the state is of feature level {settings.feature_level}, this build knows {FEATURE_LEVEL}; "
                "run the version of swarmlet that the other nodes run"
            )
        return cls(store)

    def digest(self) -> str:
        """A hash of everything, to compare replicas at the same index."""
        digest = hashlib.blake2b(digest_size=16)
        for piece in self.save():
            digest.update(piece)
        return digest.hexdigest()


def _error_name(error: SwarmletError) -> str:
    name = type(error).__name__
    return f"{name}:{error.code}" if isinstance(error, JoinRefused) else name


def _plan(step: Step, body: commands.ApplyPlan) -> Iterator[None]:
    return apply_plan.apply_plan(step, body.plan)


def _nothing(step: Step, body: commands.Noop) -> None:
    """A command that only moves state time on."""


#: The handler of each kind of command: what takes long comes in parts. A table, because a command in the last of many
#: `case`s waits for them all.
_HANDLERS: dict[type, Callable[[Step, Any], Iterator[None] | None]] = {
    commands.InitializeCluster: apply_cluster.initialize,
    commands.RegisterJob: apply_jobs.register,
    commands.DeregisterJob: apply_jobs.deregister,
    commands.EvaluateJob: apply_jobs.evaluate,
    commands.MarkJobStable: apply_jobs.mark_stable,
    commands.RegisterNode: apply_nodes.register,
    commands.UpdateNodeStatus: apply_nodes.update_status,
    commands.UpdateNodeEligibility: apply_nodes.update_eligibility,
    commands.UpdateNodeDrain: apply_nodes.update_drain,
    commands.RemoveNode: apply_nodes.remove,
    commands.UpdateAllocations: apply_allocations.update,
    commands.TransitionAllocations: apply_allocations.transition,
    commands.RestartAllocation: apply_allocations.restart,
    commands.ApplyPlan: _plan,
    commands.UpsertEvaluations: apply_evaluations.upsert,
    commands.UnblockEvaluations: apply_evaluations.unblock,
    commands.FailEvaluation: apply_evaluations.fail,
    commands.UpdateDeployment: apply_deployments.update,
    commands.SetAllocationHealth: apply_deployments.set_health,
    commands.PromoteDeployment: apply_deployments.promote,
    commands.CreateJoinToken: apply_tokens.create,
    commands.RevokeJoinToken: apply_tokens.revoke,
    commands.UseJoinToken: apply_tokens.use,
    commands.UpsertNamespace: apply_cluster.upsert_namespace,
    commands.DeleteNamespace: apply_cluster.delete_namespace,
    commands.UpdateSettings: apply_cluster.update_settings,
    commands.PutVariable: apply_variables.put,
    commands.DeleteVariable: apply_variables.delete,
    commands.AddVariableKey: apply_variables.add_key,
    commands.RemoveVariableKey: apply_variables.remove_key,
    commands.ResealVariables: apply_variables.reseal,
    commands.UpdateAutopilot: apply_cluster.update_autopilot,
    commands.BeginRestore: restoring.begin,
    commands.RestorePiece: restoring.add_piece,
    commands.CommitRestore: restoring.commit,
    commands.ReportAllocations: apply_reports.report,
    commands.PutVolume: apply_volumes.put,
    commands.DeleteVolume: apply_volumes.delete,
    commands.PutVolumeSnapshot: apply_volumes.put_snapshot,
    commands.DeleteVolumeSnapshot: apply_volumes.delete_snapshot,
    commands.CollectGarbage: collect.collect_garbage,
    commands.Noop: _nothing,
}
assert set(_HANDLERS) == set(get_args(Body)), "a command without a handler, or a handler without a command"
