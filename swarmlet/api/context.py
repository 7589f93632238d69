"""What the routes need of the node they run on; the daemon hands it in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from swarmlet.gossip.effect import Member
from swarmlet.ids import AllocationId, ClusterId, NodeId
from swarmlet.raft.options import Status
from swarmlet.replica.replica import Replica
from swarmlet.security.access import Identity


class TaskLogs(Protocol):
    """Reads a task's log wherever it runs."""

    def read(
        self, allocation_id: AllocationId, task: str, stream: str, *, tail_lines: int | None, follow: bool
    ) -> AsyncIterator[bytes]:
        """The log's bytes as they come. Raises NotFound, Unavailable."""


@dataclass(kw_only=True)
class ApiContext:
    """One node, as its API sees it."""

    replica: Replica
    node_id: NodeId
    node_name: str
    cluster_id: ClusterId
    version: str
    datacenter: str
    wall_ns: Callable[[], int]
    mint: Callable[[], str]
    members: Callable[[], list[Member]]
    raft_status: Callable[[], Status]
    logs: TaskLogs
    #: Makes a join token: (ttl_ns, uses, description) -> (the text to show once, the record to keep).
    make_join_token: Callable[[int, int, str], tuple[str, Any]]
    #: Announces to gossip and Raft that this node leaves for good, then stops the agent.
    leave: Callable[[], Any]
    #: Facts about this agent for `/v1/agent/self`.
    agent_facts: Callable[[], dict[str, Any]]
    identify: Callable[[web.Request], Identity]
    #: Where this node leads and holds replacement back because too much died at once: the sentence for people.
    replacement_pause: Callable[[], str] = lambda: ""


CONTEXT: web.AppKey[ApiContext] = web.AppKey("swarmlet", ApiContext)
