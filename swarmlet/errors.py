"""The errors of swarmlet: one tree, each with its culprit.

::

    SwarmletError
    |-- InvalidInput        the user's: a command, flag or configuration value
    |   `-- InvalidJob      the user's: a job file or a submitted job, with positions
    |-- Refused             the cluster's rules: not allowed, not found, conflicts with what is there
    |   |-- Unauthorized
    |   |-- NotFound
    |   `-- Conflict
    |-- Unavailable         nobody's: it may work later
    |   |-- NotLeader
    |   |-- NoLeader
    |   |-- Overloaded
    |   `-- UnknownOutcome
    |-- PlanRejected        the scheduler's: the state moved on under a plan
    |-- DriverError         the container runtime's
    |-- WireError           the sender's: bytes that are no message
    |-- JoinRefused         the joiner's or the cluster's: says which
    `-- StorageError        the disk's
        |-- DiskFull
        `-- CorruptLog
"""

from __future__ import annotations


class SwarmletError(Exception):
    """The root. `str(error)` is a sentence for the user: what, which value, what was expected, what to do."""

    #: Process exit code of the CLI when this error ends a command.
    exit_code = 1
    #: Status of the HTTP answer that carries this error.
    http_status = 500


class InvalidInput(SwarmletError):
    """The user's fault. No state changed. Retry after correcting the input."""

    http_status = 400


class InvalidJob(InvalidInput):
    """The job is not valid. No state changed. `problems` holds one sentence per problem, with its place."""

    def __init__(self, problems: list[str] | str) -> None:
        """Keep the sentences; the message joins them by newlines."""
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Refused(SwarmletError):
    """The cluster's rules forbid it. No state changed. Retrying the same gives the same answer."""

    http_status = 403


class Unauthorized(Refused):
    """The caller lacks a capability, or showed no valid token. No state changed."""


class NotFound(Refused):
    """The named thing does not exist. No state changed."""

    http_status = 404


class Conflict(Refused):
    """What was asked contradicts what is there (a taken name, a check index). No state changed."""

    http_status = 409


class Unavailable(SwarmletError):
    """Nobody's fault; a machine or link is missing. Unless said otherwise no state changed; retry later."""

    http_status = 503


class NotLeader(Unavailable):
    """This node does not lead. No state changed. `hint` is the id of the node believed to lead, or None."""

    def __init__(self, hint: str | None = None) -> None:
        """Remember whom to ask instead."""
        self.hint = hint
        super().__init__(
            f"this node is not the leader; ask {hint}" if hint else "this node is not the leader"
        )


class NoLeader(Unavailable):
    """The cluster has no leader that this node can reach. No state changed. Retry after an election."""

    http_status = 500


class Overloaded(Unavailable):
    """A bounded queue is full. No state changed. Retry after `retry_after_seconds`."""

    http_status = 429

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        """Remember when it is worth trying again."""
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class UnknownOutcome(Unavailable):
    """Leadership was lost while the command was under way: it may or may not take effect.

    Retry with the same request id: a command is applied once per request id.
    """

    http_status = 504


class PlanRejected(SwarmletError):
    """The plan was made from a state that has moved on. No state changed. The evaluation runs again."""

    http_status = 409


class DriverError(SwarmletError):
    """The container runtime refused or failed. `temporary` says whether the restart policy should retry."""

    def __init__(self, message: str, *, temporary: bool = True) -> None:
        """Keep whether another try may help."""
        self.temporary = temporary
        super().__init__(message)


class WireError(SwarmletError):
    """Bytes that are no valid message: the sender's fault. Nothing was allocated beyond the stated bound."""

    http_status = 400


class JoinRefused(SwarmletError):
    """A machine could not become a node. The cluster is unharmed. `code` is stable, for scripts and tests."""

    http_status = 403

    def __init__(self, code: str, message: str) -> None:
        """Keep the stable code beside the sentence."""
        self.code = code
        super().__init__(message)


class StorageError(SwarmletError):
    """The disk failed. The node stops: what it acknowledged may not be written again by guessing."""


class DiskFull(StorageError):
    """There is no room for something that can wait. Nothing was changed; retry when space was freed."""


class CorruptLog(StorageError):
    """The log on disk is damaged before its tail. Nothing was changed; it is never truncated by itself."""
