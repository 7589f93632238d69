"""What the gossip core asks of the world, and what it tells the rest of the node.

The shell's loop is: feed (`on_packet`, `on_timer`, ...), `drain()` the effects, perform them, arm one timer
for `deadline`.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec

from swarmlet.ids import NodeId

#: (host, port), as the shell's sockets use it. IPv4 or IPv6 text.
Address = tuple[str, int]


class MemberState(IntEnum):
    """How gossip sees a member. Gaps leave room; a larger value wins at equal incarnation."""

    ALIVE = 10
    SUSPECT = 20
    #: The host's kernel answers, the agent does not ("agent down" or "stalled"; design, "What counts as dead").
    AGENT_DOWN = 30
    DEAD = 40
    LEFT = 50


class Member(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One member as this node sees it."""

    id: NodeId
    name: str
    address: Address
    state: MemberState
    incarnation: int
    #: At most 512 B; opaque to gossip.
    metadata: bytes = b""
    #: Seconds on the core's clock when `state` was entered.
    since: float = 0.0
    #: While an announced restart lasts: seconds on the core's clock until which the member is not suspected.
    restart_until: float = 0.0
    #: Known from an earlier life of this member only: nobody has spoken of it in this one.
    is_remembered: bool = False


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send one sealed datagram, at most 1,400 B."""

    address: Address
    data: bytes


class StreamPing(msgspec.Struct, frozen=True, gc=False):
    """Ask `address` over TCP whether the agent answers; feed `on_stream_result(probe, StreamAnswer)`."""

    probe: int
    address: Address
    target: NodeId
    timeout_seconds: float
    #: Nothing is wrong yet, so a connection that stands may be asked first; that costs no handshake.
    is_routine: bool = False


class StreamAnswer(StrEnum):
    """What a stream ping found. The kernel's answers tell a stopped agent from a silent host."""

    ACK = "ack"
    #: Connection refused or reset: the kernel lives, nobody listens.
    REFUSED = "refused"
    #: The connection was accepted, then nothing: the kernel lives, the agent is stalled.
    STALLED = "stalled"
    #: No answer by this path.
    SILENT = "silent"


class Sync(msgspec.Struct, frozen=True, gc=False):
    """Exchange state with a member over a stream (push/pull): send `data`, feed the reply to `on_sync_reply`."""

    address: Address
    target: NodeId
    data: bytes


class EventKind(StrEnum):
    """What happened to a member."""

    JOINED = "joined"
    UPDATED = "updated"
    SUSPECTED = "suspected"
    ALIVE_AGAIN = "alive_again"
    AGENT_DOWN = "agent_down"
    DIED = "died"
    LEFT = "left"
    #: Two members claim one name.
    NAME_CONFLICT = "name_conflict"
    #: One path of several does not work (UDP or TCP, in or out); `detail` says which.
    PATH_WARNING = "path_warning"
    #: It works again.
    PATH_CLEARED = "path_cleared"


class MemberEvent(msgspec.Struct, frozen=True, gc=False):
    """A change of membership, after merging. `member` is its state after the change."""

    kind: EventKind
    member: Member
    detail: str = ""


class UserEventHeard(msgspec.Struct, frozen=True, gc=False):
    """A user event reached this member, its own included: once per event. `time` orders events alike everywhere."""

    time: int
    origin: NodeId
    name: str
    payload: bytes


class QueryReported(msgspec.Struct, frozen=True, gc=False):
    """A member reported on an open query of this one: once per member."""

    number: int
    responder: NodeId
    #: `packet.AnswerKind`.
    kind: int
    payload: bytes


Effect = Send | StreamPing | Sync | MemberEvent | UserEventHeard | QueryReported
