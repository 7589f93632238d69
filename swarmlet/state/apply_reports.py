"""ReportAllocations: what many nodes say of allocations that are kept in blocks, in one entry.

What most of them say, that they run (and are healthy), is kept as stamps; whatever else is said goes the way of a
single report.
"""

from __future__ import annotations

import msgspec

from swarmlet.errors import InvalidInput, Unauthorized
from swarmlet.ids import DeploymentId, JobId, Namespace, NodeId
from swarmlet.model.allocation import DeploymentHealth
from swarmlet.model.job import TASKS_MAX
from swarmlet.state.allocation_block import Reader
from swarmlet.state.apply_allocations import LEADERS, TEXT_CHARS_MAX, bounded, take_report
from swarmlet.state.apply_deployments import count_healthy
from swarmlet.state.block_report import KEPT, Stamp, states_at
from swarmlet.state.command import AllocationReport, NodeReport, ReportAllocations, ReportPattern
from swarmlet.state.step import Step


def report(step: Step, body: ReportAllocations) -> None:
    """Take what is said of allocations that are there and are the node's own; pass over the rest (`dropped`)."""
    if step.actor.partition(":")[0] not in {"replica", "leader"}:
        raise Unauthorized(f"{step.actor} may not report for other nodes")
    patterns = [_checked(pattern) for pattern in body.patterns]
    if any(not 0 <= each.pattern < len(patterns) for each in body.reports):
        raise InvalidInput("a report is of no pattern of its command")
    taken = _Reports(step)
    for each in body.reports:
        taken.take(each, patterns[each.pattern])
    taken.finish()


def _checked(pattern: ReportPattern) -> ReportPattern:
    if pattern.client_status in LEADERS:
        raise InvalidInput(f'a node does not report "{pattern.client_status}"')
    if len(pattern.task_states) > TASKS_MAX:
        raise InvalidInput(f"a report of {len(pattern.task_states)} tasks exceeds {TASKS_MAX}")
    return msgspec.structs.replace(
        pattern,
        client_description=pattern.client_description[:TEXT_CHARS_MAX],
        task_states=bounded(pattern.task_states),
    )


class _Reports:
    """The reports of one command: stamps are gathered per block, and put on each block once."""

    def __init__(self, step: Step) -> None:
        self.step, self.store = step, step.store
        self.spans: dict[bytes, tuple[Reader, list[tuple[int, int, Stamp]]]] = {}
        self.jobs: dict[tuple[Namespace, JobId], None] = {}
        self.nodes: dict[NodeId, None] = {}
        self.healthy: dict[tuple[DeploymentId, str], int] = {}
        self.dropped = 0

    def take(self, report: NodeReport, pattern: ReportPattern) -> None:
        index, now_ns = self.step.index, self.step.now_ns
        is_kept = pattern.client_status in KEPT and pattern.is_healthy is not False
        plain = judged = Stamp(pattern, report.at_ns, None, index, now_ns)
        if pattern.is_healthy:
            verdict = DeploymentHealth(is_healthy=True, at_ns=now_ns)
            judged = Stamp(pattern, report.at_ns, verdict, index, now_ns)
        node_id, spans = report.node_id, self.spans
        for run in report.runs:
            mark, start, count = run
            known = spans.get(mark)
            reader = known[0] if known is not None else self.store.block(int.from_bytes(mark, "big"))
            piece = reader.find(start) if reader is not None else None
            if (
                reader is None
                or piece is None
                or piece.node_id != node_id
                or start + count > piece.start + piece.count
            ):
                self.dropped += count
                continue
            if not is_kept or (known is None and not self.store.is_whole(reader.name)):
                self.finish()
                self._take_each(report, pattern, reader, range(start, start + count))
                continue
            if known is None:
                known = spans[mark] = (reader, [])
            stamp = judged if reader.block.template.deployment_id is not None else plain
            known[1].append((start, count, stamp))
        self.nodes[node_id] = None

    def _take_each(self, report: NodeReport, pattern: ReportPattern, reader: Reader, indexes: range) -> None:
        """As reports of single allocations."""
        states = states_at(pattern, report.at_ns)
        for index in indexes:
            row = self.store.allocation(reader.id_of(index))
            if row is None:
                self.dropped += 1
                continue
            single = AllocationReport(
                id=row.id,
                client_status=pattern.client_status,
                client_description=pattern.client_description,
                task_states=states,
                is_healthy=pattern.is_healthy,
            )
            take_report(self.step, row, single)

    def finish(self) -> None:
        """Put what was gathered on the blocks, and count it for their deployments."""
        told = self.store.tell(self.spans.values())
        for (reader, _), judged in zip(self.spans.values(), told, strict=True):
            template = reader.block.template
            self.jobs[(template.namespace, template.job_id)] = None
            if judged and template.deployment_id is not None:
                key = (template.deployment_id, template.group)
                self.healthy[key] = self.healthy.get(key, 0) + judged
        if self.spans:
            self.store.told(self.jobs, tuple(self.nodes))
        for (deployment_id, group), number in self.healthy.items():
            count_healthy(self.step, deployment_id, group, number)
        self.spans.clear()
        self.jobs, self.nodes, self.healthy = {}, {}, {}
        self.step.outcome = msgspec.structs.replace(self.step.outcome, dropped=self.dropped)
