"""One voter of the scale benchmark: a whole node as `swarmlet agent` runs it, with one difference and a watch on itself.

The difference: the nodes of the simulated fleet do not gossip, so each that has registered counts as alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from scripts.scale_watch import Watch
from swarmlet.cli.logging import configure
from swarmlet.config import NodeConfig
from swarmlet.daemon import Daemon, Founding
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.joining.identity import DataDirectory, load
from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.job import HOUR_NS
from swarmlet.raft.log import entry_bytes
from swarmlet.raft.message import Entry
from swarmlet.state.view import Table
from swarmlet.transport.connection import Connection

FLEET_POOL = "fleet"


class Voter(Daemon):
    """See above."""

    _fleet: tuple[int, list[Member]] = (-1, [])

    def members(self) -> list[Member]:
        """What gossip sees, and the fleet."""
        view = self.replica.view
        index = view.table_index(Table.NODES)
        if self._fleet[0] != index:
            fleet = [
                Member(id=node.id, name=node.name, address=("", 0), state=MemberState.ALIVE, incarnation=0)
                for node in view.nodes()
                if node.node_pool == FLEET_POOL
            ]
            self._fleet = (index, fleet)
        return [*super().members(), *self._fleet[1]]

    log_bytes = entries = 0

    def count_log(self) -> None:
        """Count the committed entries from now on: files tell nothing, as space in them is reserved ahead."""
        enqueue = self.replica.enqueue

        def counted(entries: tuple[Entry, ...]) -> None:
            self.entries += len(entries)
            self.log_bytes += sum(map(entry_bytes, entries))
            enqueue(entries)

        self.replica.enqueue = counted  # type: ignore[method-assign]

    def count_traffic(self, events: Counter[str]) -> None:
        """Count what comes and goes on the mesh, by connection and turn of the loop."""
        for name, what in (
            ("data_received", "reads"),
            ("_flush", "writes"),
            ("connection_made", "connections"),
        ):
            setattr(Connection, name, _counted(getattr(Connection, name), events, what))

    def facts(self) -> dict[str, object]:
        """Of this voter."""
        return {
            "is_leader": self.replica.is_leader,
            "entries": self.entries,
            "log_bytes": self.log_bytes,
        }


def _counted(method: Callable[..., None], events: Counter[str], what: str) -> Callable[..., None]:
    def counted(*arguments: object) -> None:
        events[what] += 1
        method(*arguments)

    return counted


async def _run(
    folder: Path, config: NodeConfig, seeds: list[tuple[str, int]], founding: Founding | None
) -> None:
    watch = Watch()
    with DataDirectory(Path(config.data_dir)) as directory:
        identity = load(directory.path)
        assert identity is not None, "the benchmark wrote it"
        voter = Voter(config, identity, directory, founding=founding, seeds=seeds)
        loop = asyncio.get_running_loop()

        def tell() -> None:
            facts = {**voter.facts(), **watch.facts(), "at_ns": time.time_ns()}
            (folder / "facts.new").write_text(json.dumps(facts))
            (folder / "facts.new").rename(folder / "facts.json")

        voter.count_log()
        voter.count_traffic(watch.events)

        def reset() -> None:
            watch.reset()
            voter.log_bytes = voter.entries = 0

        loop.add_signal_handler(signal.SIGUSR1, reset)
        loop.add_signal_handler(signal.SIGUSR2, tell)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            try:
                await voter.run()
            finally:
                watching.cancel()
                tell()


def main() -> int:
    """`scale_voter.py FOLDER`: the folder holds `voter.json` and the node's data directory."""
    folder = Path(sys.argv[1])
    told = json.loads((folder / "voter.json").read_text())
    configure("warning")
    founding = None
    if told["founding"]:
        settings = msgspec.msgpack.decode((folder / "founding").read_bytes(), type=ClusterSettings)
        founding = Founding(settings=settings, join_token_ttl_ns=HOUR_NS)
    config = msgspec.convert(told["config"], NodeConfig)
    seeds = [(host, port) for host, port in told["seeds"]]
    run = _run(folder, config, seeds, founding)
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.run(run)
        return 0
    asyncio.run(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
