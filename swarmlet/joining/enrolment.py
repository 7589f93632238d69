"""The cluster's decision about applicants, made through the replicated state on the leader."""

from __future__ import annotations

from collections.abc import Callable

from swarmlet.errors import NoLeader, NotLeader
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.ids import NodeId, RequestId, derive
from swarmlet.joining.message import MemberAddress
from swarmlet.joining.server import Admission, Applicant
from swarmlet.model.node import NodeStatus
from swarmlet.replica.replica import Replica
from swarmlet.security.authority import Authority
from swarmlet.security.sealing import ClusterKey
from swarmlet.security.token import Terms, Verdict, judge, refusal
from swarmlet.state.command import UseJoinToken
from swarmlet.state.outcomes import removal_of
from swarmlet.state.view import View

CA_PURPOSE = "CA key"


class ReplicatedEnrolment:
    """`Enrolment` on top of the replica."""

    def __init__(
        self,
        *,
        replica: Replica,
        cluster_key: ClusterKey,
        gossip_keys: Callable[[], tuple[bytes, ...]],
        members: Callable[[], list[Member]],
        wall_ns: Callable[[], int],
    ) -> None:
        """`members` is gossip's list, for the newcomer's first contacts."""
        self._wall_ns = wall_ns
        self._replica = replica
        self._cluster_key = cluster_key
        self._gossip_keys = gossip_keys
        self._members = members

    async def check(self, token_hash: str) -> None:
        """Raise JoinRefused unless the token could be used now. Uses nothing up."""
        self._must_lead()
        view = await self._replica.barrier()
        wanted = token_hash.encode()
        found = next((token for token in view.join_tokens() if token.secret_hash == wanted), None)
        terms = None
        if found is not None:
            terms = Terms(
                expires_at=found.expires_at_ns / 1e9,
                uses_left=None if found.uses_left < 0 else found.uses_left,
                revoked=found.is_revoked,
            )
        verdict = judge(terms, max(view.time_ns, self._wall_ns()) / 1e9)
        if verdict is not Verdict.VALID:
            raise refusal(verdict)

    async def is_admitted(self, node: NodeId, request_id: RequestId) -> bool:
        """Whether a token was used by this applicant lately, and its node has not left or been removed since."""
        self._must_lead()
        view = await self._replica.barrier()
        used = view.outcome(_use_of(view, node, request_id))
        return used is not None and not used.error

    async def admit(self, applicant: Applicant) -> Admission:
        """Use the token once and take the name; the same key gets the same node again."""
        self._must_lead()
        view = await self._replica.barrier()
        settings = view.settings()
        if settings is None:
            raise NoLeader("the cluster is not initialised yet; try again in a second")
        node = applicant.node
        known = view.node(node)
        # The same machine asking twice is let in again; one that left needs a token like any other.
        if known is None or known.status is NodeStatus.LEFT:
            await self._replica.lead(
                UseJoinToken(
                    secret_hash=applicant.token_hash.encode(), node_id=node, node_name=applicant.name
                ),
                _use_of(view, node, applicant.request_id),
            )
        members = tuple(
            MemberAddress(node=item.id, name=item.name, host=item.address[0], port=item.address[1])
            for item in self._members()
            if item.state in {MemberState.ALIVE, MemberState.SUSPECT}
        )
        return Admission(
            node=node,
            cluster_key=self._cluster_key.key,
            gossip_keys=self._gossip_keys(),
            members=members,
            feature_level=settings.feature_level,
        )

    async def is_member(self, node: NodeId) -> bool:
        """Whether the cluster has that node, and it has not left."""
        self._must_lead()
        known = self._replica.view.node(node)
        return known is not None and known.status is not NodeStatus.LEFT

    async def authority(self) -> Authority:
        """The CA with its key, opened with the cluster key of this node's data directory."""
        settings = self._replica.view.settings()
        if settings is None:
            raise NoLeader("the cluster is not initialised yet; try again in a second")
        secret = self._cluster_key.open(CA_PURPOSE, settings.ca_key_sealed)
        return Authority.load(settings.cluster_id, settings.ca_certificate, secret)

    def _must_lead(self) -> None:
        if not self._replica.is_leader:
            raise NotLeader(self._replica.leader)


def _use_of(view: View, node: NodeId, request_id: RequestId) -> RequestId:
    """The id of an applicant's use of its token, should it use it now: a use that let it in before it left or was removed
    is not to let it in again.
    """
    known, removed = view.node(node), view.outcome(removal_of(node))
    if known is not None and known.status is NodeStatus.LEFT:
        return RequestId(derive("enrol again", request_id, str(known.modify_index)))
    if known is None and removed is not None:
        return RequestId(derive("enrol again", request_id, str(removed.index)))
    return request_id
