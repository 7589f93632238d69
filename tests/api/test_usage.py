"""Whose usage is told: of those who may answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from swarmlet.errors import SwarmletError
from swarmlet.ids import NodeId
from swarmlet.model.node import NodeStatus
from swarmlet.model.usage import NodeReport, NodeUsage
from swarmlet.scheduler.what_if import WhatIf
from swarmlet.state.command import UpdateNodeStatus
from tests.api.trial import served
from tests.scheduler.builders import a_node
from tests.scheduler.test_rebalancing import NOW

#: aiohttp would have another kind of key for what the server notes on a request.
pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")


class Idle:
    """Every node that is asked does nothing."""

    async def here(self) -> NodeReport:
        return NodeReport(node=NodeUsage())

    async def of(self, nodes: Sequence[NodeId]) -> list[NodeReport | SwarmletError]:
        return [await self.here() for _ in nodes]


def test_nodes_that_are_down_or_have_left_are_not_asked(tmp_path: Path) -> None:
    trial = WhatIf.invented([a_node(f"n{number}") for number in range(4)], (), NOW)
    for name, status in (
        ("n1", NodeStatus.DISCONNECTED),
        ("n2", NodeStatus.DOWN),
        ("n3", NodeStatus.LEFT),
    ):
        trial._submit(UpdateNodeStatus(node_id=NodeId(name), status=status, description="said by the test"))
    with served(trial, tmp_path, usage=Idle()) as made:
        found = made.api.get("/v1/swarmlet/usage")
    assert [node["Name"] for node in found["Nodes"]] == ["n0", "n1"]
    assert found["LeftOut"] == 0
