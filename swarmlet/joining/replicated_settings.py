"""The cluster's settings in the replicated state, for what follows and changes them."""

from __future__ import annotations

from collections.abc import Callable

from swarmlet.model.cluster import ClusterSettings
from swarmlet.replica.replica import Replica
from swarmlet.state.command import UpdateSettings
from swarmlet.state.view import Table


class ReplicatedSettings:
    """`gossip_keys.Settings` on top of the replica."""

    def __init__(self, replica: Replica) -> None:
        """This node's copy of the state."""
        self._replica = replica

    def current(self) -> ClusterSettings | None:
        """As this node has them."""
        return self._replica.view.settings()

    async def confirmed(self) -> ClusterSettings | None:
        """With everything acknowledged so far. Raises Unavailable."""
        return (await self._replica.barrier()).settings()

    async def change_gossip_keys(self, sealed: bytes, actor: str) -> None:
        """Replace the sealed gossip keys. Raises Unavailable and its kin."""
        await self._replica.submit(UpdateSettings(gossip_keys_sealed=sealed), actor)

    async def wait_changed(self, is_ready: Callable[[], bool], seconds: float) -> None:
        """Return when `is_ready` after a change, or after `seconds`."""
        await self._replica.watches.wait_changed((Table.SETTINGS,), is_ready, seconds)
