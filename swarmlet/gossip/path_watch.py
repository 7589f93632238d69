"""The watch over the ways between members: what this one finds is told to all, what all find is put together."""

from __future__ import annotations

from collections.abc import Callable

from swarmlet.gossip.accusation import Announce
from swarmlet.gossip.effect import EventKind, MemberState
from swarmlet.gossip.path import PathFault, Paths, sentence
from swarmlet.gossip.path_report import PathReports
from swarmlet.gossip.view import View
from swarmlet.ids import NodeId

#: The ways are looked at this often: a fault needs several probes to show, and may wait for the next look.
LOOK_SECONDS = 1.0

_GONE = (MemberState.DEAD, MemberState.LEFT)


class PathWatch:
    """One member's watch."""

    def __init__(
        self,
        me: NodeId,
        now: float,
        view: View,
        paths: Paths,
        reports: PathReports,
        announce: Announce,
        publish: Callable[[float, bytes], None],
    ) -> None:
        """`announce` tells the rest of this node, `publish` all members; `reports` is what they said."""
        #: When `look` has something to do; it need not be exact.
        self.next_look = now
        self._me = me
        self._view = view
        self._paths = paths
        self._announce = announce
        self._publish = publish
        self._reports = reports
        #: As the rest of the node was told last.
        self._faults: tuple[PathFault, ...] = ()

    def faults(self) -> dict[NodeId, tuple[PathFault, ...]]:
        """By the member that says so: which ways between members do not work as they should."""
        found = {}
        for observer, faults in self._reports.all(self._own()).items():
            current = tuple(fault for fault in faults if self._is_there(fault.source, fault.target, observer))
            if current:
                found[observer] = current
        return found

    def look(self, now: float) -> None:
        """Tell all members, and the rest of this node, what has changed about the ways to others."""
        self.next_look = now + LOOK_SECONDS
        self._reports.forget(now)
        faults = self._own()
        if not (faults or self._faults or self._reports.has_told):
            return
        before, after = {each.outline for each in self._faults}, {each.outline for each in faults}
        for fault in self._faults:
            if fault.outline not in after:
                self._tell(EventKind.PATH_CLEARED, fault)
        for fault in faults:
            if fault.outline not in before:
                self._tell(EventKind.PATH_WARNING, fault)
        self._faults = faults
        report = self._reports.to_tell(now, faults)
        if report is not None:
            self._publish(now, report)

    def _own(self) -> tuple[PathFault, ...]:
        """This member's, without those of members that are gone."""
        for node in self._paths.watched():
            record = self._view.get(node)
            if record is None or record.state in _GONE:
                self._paths.forget(node)
        return self._paths.faults()

    def _is_there(self, *nodes: str) -> bool:
        """Whether all of them are members whose agent runs: of the others, nobody can say how the ways to them are."""
        records = [self._view.get(NodeId(node)) for node in nodes]
        return all(record is not None and record.state < MemberState.AGENT_DOWN for record in records)

    def _tell(self, kind: EventKind, fault: PathFault) -> None:
        is_outward = fault.source == self._me
        record = self._view.get(NodeId(fault.target if is_outward else fault.source))
        if record is not None:
            way = "from here" if is_outward else "to here"
            self._announce(kind, record, f"{way}: {sentence(fault.problem, fault.value)}")
