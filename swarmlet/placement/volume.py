"""Which node a volume is made on. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from swarmlet.errors import Conflict
from swarmlet.ids import Namespace
from swarmlet.model.job import Constraint
from swarmlet.model.node import Node
from swarmlet.placement.constraint import compile_constraint
from swarmlet.placement.feasibility import ANY_POOL, unready

#: Reasons named in a refusal; nodes mostly share them.
REASONS_MAX = 5


def choose_node(
    nodes: Iterable[Node],
    namespace: Namespace,
    name: str,
    *,
    constraints: tuple[Constraint, ...] = (),
    node_pool: str = ANY_POOL,
) -> Node:
    """The node with the fewest volumes that may take one of this name; of several the one with the largest disk.

    Raises InvalidJob for a constraint that cannot be evaluated, Conflict with every reason when no node may.
    """
    compiled = [compile_constraint(each) for each in constraints]
    reasons: dict[str, int] = {}
    fitting: list[Node] = []
    for node in nodes:
        reason = unready(node)
        if not reason and node_pool not in {node.node_pool, ANY_POOL}:
            reason = f"node pool {node.node_pool} is not {node_pool}"
        if not reason and node.volume(namespace, name) is not None:
            reason = f"has a volume {name} already"
        if not reason:
            reason = next((each.reason for each in compiled if not each.holds(node)), "")
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
        else:
            fitting.append(node)
    if not fitting:
        told = sorted(reasons.items(), key=lambda each: (-each[1], each[0]))[:REASONS_MAX]
        why = "; ".join(f"{count} {'node' if count == 1 else 'nodes'}: {reason}" for reason, count in told)
        raise Conflict(f"no node can take volume {name}: {why or 'there are no nodes'}")
    return min(
        fitting,
        key=lambda node: (len(node.volumes) + len(node.host_volumes), -node.available().disk, node.id),
    )
