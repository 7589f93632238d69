"""Simulated nodes of the scale benchmark: each has its own certificate and its own connection to a voter, registers,
follows its allocations and reports them, as a node without a replica does. Only the containers are made up: they run as
soon as they are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import re
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from scripts.scale_voter import FLEET_POOL
from swarmlet.errors import SwarmletError
from swarmlet.ids import ClusterId, NodeId, uuid_text
from swarmlet.model.allocation import ClientStatus, TaskEvent, TaskState, TaskStatus
from swarmlet.model.node import DriverInfo, Node
from swarmlet.model.resources import Quantity
from swarmlet.replica.node_link import NodeLink
from swarmlet.replica.node_message import (
    VERSION,
    BlockHead,
    NodeDelta,
    NodeSays,
    head_codec,
    job_codec,
    pattern_codec,
)
from swarmlet.runtime.fingerprint import computed_class
from swarmlet.security.authority import Authority
from swarmlet.security.certificate import create_key, create_request, key_to_pem, to_pem
from swarmlet.security.contexts import client_context
from swarmlet.state.command import FEATURE_LEVEL, RegisterNode, ReportPattern
from swarmlet.transport.client import MeshClient
from swarmlet.transport.limits import Limits
from swarmlet.transport.peer import Address

#: Nodes that register at the same time.
AT_ONCE = 24
TELL_SECONDS = 0.25
#: A verdict on health that is due waits this long for another report to travel with.
HEALTHY_SECONDS = 3.0
DRIVER = "raw_exec"
#: Of what is told of a failure.
REASON_CHARS_MAX = 80


@dataclass
class Counts:
    """Of all nodes of this process."""

    registered: int = 0
    placed: int = 0
    acknowledged: int = 0
    healthy: int = 0
    deltas: int = 0
    reports: int = 0
    twice: int = 0
    #: Requests and streams that failed, after which a node turns to another voter.
    failures: Counter[str] = field(default_factory=Counter)

    def told(self) -> dict[str, int]:
        """All of them, flat."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return plain | dict(self.failures)


class FleetMesh(MeshClient):
    """Counts what fails."""

    counts: Counts

    async def request(
        self, address: Address, node: NodeId | None, method: str, body: bytes, **options: Any
    ) -> bytes:
        """See `MeshClient`."""
        with self._counting():
            return await super().request(address, node, method, body, **options)

    async def stream(
        self, address: Address, node: NodeId | None, method: str, body: bytes, **options: Any
    ) -> AsyncGenerator[bytes, None]:
        """See `MeshClient`."""
        with self._counting():
            async with contextlib.aclosing(super().stream(address, node, method, body, **options)) as items:
                async for item in items:
                    yield item

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        try:
            yield
        except SwarmletError as error:
            reason = re.sub(r"[0-9][0-9.:]*", "N", str(error))
            self.counts.failures[f"failed: {reason[:REASON_CHARS_MAX]}"] += 1
            raise


@dataclass
class Definitions:
    """Heads and jobs that were decoded: each once per process, as all its nodes see the same bytes."""

    heads: dict[bytes, BlockHead] = field(default_factory=dict)
    jobs: dict[bytes, Any] = field(default_factory=dict)

    def head(self, data: bytes) -> BlockHead:
        found = self.heads.get(data)
        if found is None:
            found = self.heads[data] = head_codec.decode(data)
        return found

    def job(self, data: bytes) -> Any:
        found = self.jobs.get(data)
        if found is None:
            found = self.jobs[data] = job_codec.decode(data)
        return found


def pattern(*, is_healthy: bool | None) -> bytes:
    """What a simulated node says of allocations that it has started."""
    events = (
        TaskEvent(kind="Received", at_ns=0, message="Task received by client"),
        TaskEvent(kind="Started", at_ns=0, message="Task started by client"),
    )
    state = TaskState(status=TaskStatus.RUNNING, started_at_ns=0, events=events)
    return pattern_codec.encode(
        ReportPattern(
            client_status=ClientStatus.RUNNING,
            client_description="Tasks are running",
            task_states={"task": state},
            is_healthy=is_healthy,
        )
    )


RUNNING, HEALTHY = pattern(is_healthy=None), pattern(is_healthy=True)

Runs = list[tuple[bytes, int, int]]


class SimulatedNode:
    """One node."""

    def __init__(
        self,
        number: int,
        node_id: NodeId,
        link: NodeLink,
        resources: Quantity,
        counts: Counts,
        definitions: Definitions,
    ) -> None:
        self.resources = resources
        self.number, self.node_id, self.link = number, node_id, link
        self.counts, self.definitions = counts, definitions
        #: What runs here: (block, index).
        self.running: set[tuple[bytes, int]] = set()
        #: Started and in a deployment: healthy at that time (loop time).
        self.ripening: list[tuple[float, Runs]] = []
        self.stir = asyncio.Event()

    def node(self) -> Node:
        """As it registers."""
        node = Node(
            id=self.node_id,
            name=f"fleet-{self.number:05}",
            address="",
            node_pool=FLEET_POOL,
            zone=f"zone-{self.number % 5}",
            attributes={"kernel.name": "linux", "unique.hostname": f"fleet-{self.number:05}"},
            resources=self.resources,
            drivers={DRIVER: DriverInfo(is_detected=True, is_healthy=True)},
            boot_id=f"boot-{self.number}",
            feature_level=FEATURE_LEVEL,
            is_voter_allowed=False,
        )
        return msgspec.structs.replace(node, computed_class=computed_class(node))

    async def register(self) -> None:
        await self.link.submit(RegisterNode(node=self.node()), 300.0)
        self.counts.registered += 1

    async def follow(self, group: asyncio.TaskGroup) -> None:
        """Take what comes, start it, say so."""
        group.create_task(self._say_healthy())
        async with contextlib.aclosing(self.link.deltas()) as deltas:
            async for delta in deltas:
                runs = self._start(delta)
                if runs:
                    await self._say(runs)
                    self.counts.acknowledged += sum(count for _, _, count in runs)

    def _start(self, delta: NodeDelta) -> Runs:
        self.counts.deltas += 1
        runs: Runs = []
        for run in delta.runs:
            head, job = self.definitions.head(run.head), self.definitions.job(run.job)
            assert head.template.job_id == job.id
            fresh = []
            for start, count in run.spans:
                for index in range(start, start + count):
                    key = (head.mark, index)
                    if key in self.running:
                        self.counts.twice += not delta.is_whole
                        continue
                    self.running.add(key)
                    fresh.append((head.mark, index, 1))
            merged = _merged(fresh)
            runs += merged
            self.counts.placed += len(fresh)
            if head.template.deployment_id is not None and merged:
                update = job.group(head.template.group).update or job.update
                wait = update.min_healthy_ns / 1e9 if update is not None else 10.0
                self.ripening.append((asyncio.get_running_loop().time() + wait, merged))
                self.stir.set()
        return runs

    async def _say(self, runs: Runs) -> None:
        """Report what runs now, and with it what has become healthy since."""
        ripe = self._ripe()
        said = ((0, tuple(runs)), (1, tuple(ripe))) if ripe else ((0, tuple(runs)),)
        says = NodeSays(version=VERSION, at_ns=time.time_ns(), patterns=(RUNNING, HEALTHY), said=said)
        await self.link.report(says, 300.0)
        self.counts.reports += 1
        self.counts.healthy += sum(count for _, _, count in ripe)

    def _ripe(self) -> Runs:
        now = asyncio.get_running_loop().time()
        ripe = [runs for due, runs in self.ripening if due <= now]
        self.ripening = self.ripening[len(ripe) :]
        return [run for runs in ripe for run in runs]

    async def _say_healthy(self) -> None:
        """What has run for long enough is healthy; it is said with the next report, or soon by itself."""
        loop = asyncio.get_running_loop()
        while True:
            self.stir.clear()
            if not self.ripening:
                await self.stir.wait()
            due = self.ripening[0][0]
            await asyncio.sleep(max(0.0, due - loop.time()) + HEALTHY_SECONDS)
            if self.ripening and self.ripening[0][0] <= due:
                await self._say([])


def _merged(runs: Runs) -> Runs:
    """Neighbours as one run."""
    merged: Runs = []
    for mark, index, count in runs:
        if merged and merged[-1][0] == mark and merged[-1][1] + merged[-1][2] == index:
            merged[-1] = (mark, merged[-1][1], merged[-1][2] + count)
        else:
            merged.append((mark, index, count))
    return merged


def make_nodes(told: dict[str, Any], counts: Counts) -> list[SimulatedNode]:
    """Nodes with certificates of their own. They share a key, which saves nothing but the time to make them."""
    authority = Authority.load(
        ClusterId(told["cluster"]), bytes.fromhex(told["authority"]), bytes.fromhex(told["secret"])
    )
    key, now = create_key(), time.time_ns() / 1e9
    request, pem_key = create_request(key, "fleet"), key_to_pem(key)
    voters: list[tuple[NodeId, Address]] = [
        (NodeId(node), (host, port)) for node, host, port in told["voters"]
    ]
    rng = random.Random(told["first"])
    definitions = Definitions()
    cpu, memory, disk = told["resources"]
    resources = Quantity(cpu=cpu, memory=memory, disk=disk)
    # Keepalive is rarer than in a node: half a second of everybody's time at this size.
    limits = Limits(keepalive_seconds=30.0)
    nodes = []
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder) / "node.pem"
        for number in range(told["first"], told["first"] + told["count"]):
            node_id = NodeId(uuid_text(number.to_bytes(16, "big")))
            name = f"fleet-{number:05}"
            certificate = authority.sign(request, node=node_id, name=name, addresses=(), now=now)
            pem.write_bytes(to_pem(certificate) + pem_key)
            context = client_context(authority.certificate, pem, pem)
            mesh = FleetMesh(context, authority.cluster, node_id, rng=rng, limits=limits)
            mesh.counts = counts
            turn = number % len(voters)
            link = NodeLink(node_id, mesh, voters[turn:] + voters[:turn], lambda: str(uuid.uuid4()))
            nodes.append(SimulatedNode(number, node_id, link, resources, counts, definitions))
    return nodes


async def _run(told: dict[str, Any]) -> None:
    counts = Counts()
    nodes = make_nodes(told, counts)
    gate = asyncio.Semaphore(AT_ONCE)

    async def register(node: SimulatedNode) -> None:
        async with gate:
            await node.register()

    async def tell() -> None:
        while True:
            print(json.dumps(counts.told()), flush=True)
            await asyncio.sleep(TELL_SECONDS)

    async with asyncio.TaskGroup() as group:
        group.create_task(tell())
        async with asyncio.TaskGroup() as registering:
            for node in nodes:
                registering.create_task(register(node))
        gc.collect()
        gc.freeze()
        for node in nodes:
            group.create_task(node.follow(group))


def main() -> int:
    """`scale_fleet.py FILE`."""
    told = json.loads(Path(sys.argv[1]).read_text())
    os.nice(told["nice"])
    run = _run(told)
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.run(run)
        return 0
    asyncio.run(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
