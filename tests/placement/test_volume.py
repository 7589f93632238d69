"""Where a volume is made."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmlet.errors import Conflict
from swarmlet.ids import Namespace
from swarmlet.model.job import Constraint
from swarmlet.model.node import Eligibility, HostVolumeInfo
from swarmlet.placement.volume import choose_node
from tests.scheduler.builders import a_node

DEFAULT = Namespace("default")
INFO = HostVolumeInfo(path="/v")


def test_the_node_with_the_fewest_volumes_takes_it_then_the_largest_disk() -> None:
    nodes = [
        a_node("n1", volumes=("a",)),
        a_node("n2", disk=10),
        a_node("n3", disk=20),
        a_node("n4", disk=20),
    ]
    assert choose_node(nodes, DEFAULT, "db").id == "n3"


def test_a_node_has_a_name_once_per_namespace() -> None:
    nodes = [replace(a_node("n1"), volumes={"default/db": INFO}), a_node("n2", volumes=("db",))]
    with pytest.raises(Conflict, match="2 nodes: has a volume db already"):
        choose_node(nodes, DEFAULT, "db")
    assert choose_node(nodes, Namespace("team"), "db").id == "n1"


def test_constraints_pools_and_states_are_obeyed_and_named() -> None:
    ssd = Constraint(left="${meta.disk}", right="ssd")
    nodes = [
        a_node("n1", meta={"disk": "hdd"}),
        replace(a_node("n2", meta={"disk": "ssd"}), eligibility=Eligibility.INELIGIBLE),
        replace(a_node("n3", meta={"disk": "ssd"}), node_pool="gpu"),
    ]
    with pytest.raises(Conflict) as refused:
        choose_node(nodes, DEFAULT, "db", constraints=(ssd,), node_pool="default")
    assert str(refused.value) == (
        "no node can take volume db: 1 node: constraint ${meta.disk} = ssd; 1 node: node pool gpu is not default; "
        "1 node: not eligible"
    )
    assert choose_node(nodes, DEFAULT, "db", constraints=(ssd,)).id == "n3"


def test_a_cluster_without_nodes_says_so() -> None:
    with pytest.raises(Conflict, match="there are no nodes"):
        choose_node([], DEFAULT, "db")
