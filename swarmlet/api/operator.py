"""Routes for operators: Raft's configuration, garbage."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import GET, Route, answer
from swarmlet.ids import PeerId, peer_id
from swarmlet.security.access import Capability


async def raft_configuration(request: web.Request) -> web.Response:
    """GET /v1/operator/raft/configuration."""
    context = request.app[CONTEXT]
    status = context.raft_status()
    view = context.replica.view
    by_peer = {peer_id(node.id): node for node in view.nodes()}
    config = status.config
    voters = {*config.voters, *config.voters_outgoing}
    servers = []
    for peer in sorted({*voters, *config.learners, *config.learners_next}):
        node = by_peer.get(PeerId(peer))
        progress = status.progress.get(PeerId(peer))
        servers.append(
            {
                "ID": node.id if node else str(peer),
                "Node": node.name if node else "(unknown)",
                "Address": node.address if node else "",
                "Leader": peer == status.leader,
                "Voter": peer in voters,
                "RaftProtocol": "1",
                "PeerID": str(peer),
                "Match": progress.match if progress else None,
                "Behind": max(0, status.commit - progress.match) if progress else None,
            }
        )
    return answer(
        {
            "Index": view.index,
            "Servers": servers,
            "Term": status.term,
            "Commit": status.commit,
            "Applied": status.applied,
            "Joint": bool(config.voters_outgoing),
        },
        view,
    )


ROUTES = (Route(GET, "/v1/operator/raft/configuration", Capability.OPERATOR_READ, raft_configuration),)
