"""What is missing of a job, and everything else that is to be done about it: the reconciler's answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarmlet.ids import NodeId
from swarmlet.model.allocation import Allocation, ClientStatus, RescheduleEvent
from swarmlet.model.deployment import Deployment
from swarmlet.model.node import Node
from swarmlet.model.plan import DeploymentUpdate, InPlaceUpdate, Mark, Stop

#: Sentences kept per group.
WAITING_MAX = 10


@dataclass(frozen=True, slots=True)
class PlaceRequest:
    """One new allocation that is wanted."""

    index: int
    previous: Allocation | None = None
    reschedule_events: tuple[RescheduleEvent, ...] = ()
    #: Another node is better (it failed here).
    avoid: NodeId | None = None
    #: Nothing is placed unless it fits there (a move that is not needed).
    prefer: NodeId | None = None
    #: No other node will do (its data is there).
    only: NodeId | None = None
    #: Its data is there and follows it elsewhere: this node where it fits, else any.
    home: NodeId | None = None
    #: Runs until the new one is up; may be stopped first if its room or port is needed.
    replaces: Allocation | None = None
    #: Not empty: cannot be placed yet, whatever room there is.
    hold: str = ""
    #: Beside what holds the index.
    is_canary: bool = False
    #: An older version of the job, which goes on while a newer one is tried. None: the newest.
    version: int | None = None

    @property
    def is_particular(self) -> bool:
        """Whether it differs from others of its group in where it may go."""
        return any(node is not None for node in (self.only, self.avoid, self.prefer, self.home))


@dataclass
class Reconciliation:
    """The difference, before nodes are chosen. Requests are in the order in which they are to be placed."""

    requests: dict[str, list[PlaceRequest]] = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    updates: list[InPlaceUpdate] = field(default_factory=list)
    deployment: Deployment | None = None
    deployment_updates: list[DeploymentUpdate] = field(default_factory=list)
    #: Earliest time at which the job must be looked at again.
    look_again_ns: int | None = None
    #: Failed allocations whose replacement comes then.
    delayed: list[Allocation] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    #: Ids of allocations on their way out: they do not count against new ones on the same node.
    leaving: set[str] = field(default_factory=set)

    def look_again(self, at_ns: int) -> None:
        """Ask for a follow-up no later than `at_ns`."""
        self.look_again_ns = at_ns if self.look_again_ns is None else min(self.look_again_ns, at_ns)

    def stop(self, allocation: Allocation, why: str, client: ClientStatus | None = None) -> None:
        """Stop it; `client` LOST where nobody is left to say that it ended."""
        self.stops.append(Stop(allocation_id=allocation.id, description=why, client=client))
        self.leaving.add(allocation.id)

    def mark_unknown(self, allocation: Allocation, node: Node) -> None:
        """Nobody can say how it does."""
        if allocation.client_status is not ClientStatus.UNKNOWN:
            description = f"node {node.name} is down"
            self.marks.append(
                Mark(allocation_id=allocation.id, client=ClientStatus.UNKNOWN, description=description)
            )

    def wait(self, group: str, sentence: str) -> None:
        """Say why something is left alone."""
        earlier = self.waiting.get(group, "")
        if sentence in earlier or earlier.count("; ") >= WAITING_MAX - 1:
            return
        self.waiting[group] = f"{earlier}; {sentence}" if earlier else sentence
