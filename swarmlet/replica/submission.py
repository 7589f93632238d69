"""A command on its way to the leader, and the answer on its way back."""

from __future__ import annotations

from swarmlet import errors
from swarmlet.errors import JoinRefused, Refused, SwarmletError
from swarmlet.ids import RequestId
from swarmlet.state.command import Applied, Body
from swarmlet.wire import Codec, Record

#: Mesh method: a node hands a command to the leader.
SUBMIT_METHOD = "replica.submit"
#: Mesh method: "where does the leader's log stand?", answered by the leader alone.
SNAPSHOT_METHOD = "replica.snapshot"
#: Mesh method, one way: a packet of Raft messages.
RAFT_METHOD = "raft.packet"


class Submission(Record):
    """What travels to the leader. `request_id` stays the same over retries."""

    request_id: RequestId
    actor: str
    body: Body
    #: A voter has seen the certificate of the node that is the actor: the node is connected to it.
    is_vouched: bool = False


submission_codec: Codec[Submission] = Codec(Submission, limit=4 * 1024 * 1024)


class SnapshotRequest(Record):
    """Ask for the snapshot at this point of the log."""

    index: int
    term: int


snapshot_request_codec: Codec[SnapshotRequest] = Codec(SnapshotRequest, limit=1024)


def raise_if_refused(applied: Applied) -> Applied:
    """`applied` itself when the command took effect, else the error that `apply` named."""
    if not applied.error:
        return applied
    name, _, detail = applied.error.partition(":")
    if name == "JoinRefused":
        raise JoinRefused(detail, applied.message)
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, SwarmletError):
        raise kind(applied.message)
    raise Refused(applied.message)
