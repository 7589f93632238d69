"""The composition root: builds every part of a node and runs them in one TaskGroup.

Order of life: identity and lock, ports, state from disk, consensus, gossip, the leader's service, the agent,
the API. Order of a stop: the news goes out first (an announced restart, or leadership handed over), then
everything is cancelled; tasks run on under their own shims and engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from swarmlet import VERSION
from swarmlet.api.context import ApiContext
from swarmlet.api.server import ApiServer
from swarmlet.config import NodeConfig, parse_address
from swarmlet.errors import Overloaded, Refused, StorageError, SwarmletError, Unavailable
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import EventKind, Member, MemberEvent, MemberState
from swarmlet.gossip.keyring import fingerprint as key_fingerprint
from swarmlet.gossip.shell import Gossip
from swarmlet.ids import PeerId, RequestId, peer_id
from swarmlet.joining.enrolment import ReplicatedEnrolment
from swarmlet.joining.founding import new_join_token
from swarmlet.joining.gossip_keys import ANSWER_SECONDS, KEYRING_FILE, KEYS_METHOD, GossipKeys, load_keyring
from swarmlet.joining.gossip_streams import GossipDatagrams, MeshStreams
from swarmlet.joining.identity import DataDirectory, Identity, save, write_atomically
from swarmlet.joining.probe import MAGIC, Prober
from swarmlet.joining.remembered_members import MEMBERS_FILE, RememberedMembers
from swarmlet.joining.renewal import Renewal
from swarmlet.joining.replicated_settings import ReplicatedSettings
from swarmlet.joining.seeds import SEEDS_FILE, SEEDS_MAX, keep_seeds, load_seeds
from swarmlet.joining.server import JoinServer
from swarmlet.leader.operations import Operations
from swarmlet.leader.service import LeaderService
from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.job import Job
from swarmlet.model.level import DIGESTS, at_level
from swarmlet.model.node import DriverInfo, Node, NodeStatus
from swarmlet.network.address import advertised_address
from swarmlet.network.port import owner_of
from swarmlet.raft.bootstrap import bootstrap, complete
from swarmlet.raft.core import Raft
from swarmlet.raft.disk_log import BIRTH_MARK_SUFFIX, DiskLog
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import SnapshotMeta
from swarmlet.raft.options import RaftConfig
from swarmlet.replica.directory import NodeDirectory
from swarmlet.replica.entry_cache import release_old_entries
from swarmlet.replica.heap import keep_collections_short
from swarmlet.replica.memory_writer import MemoryWriter
from swarmlet.replica.node_message import ALLOCATIONS_METHOD, NODE_SUBMIT_METHOD, REPORT_METHOD
from swarmlet.replica.node_service import NodeService
from swarmlet.replica.replica import Replica
from swarmlet.replica.submission import RAFT_METHOD, SNAPSHOT_METHOD, SUBMIT_METHOD
from swarmlet.replica.variables import Variables
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.drivers.offered import offered
from swarmlet.runtime.drivers.offered import validate as validate_driver
from swarmlet.runtime.fingerprint import computed_class, fingerprint
from swarmlet.runtime.host_shutdown import HostShutdown
from swarmlet.runtime.remote import NodeClient
from swarmlet.runtime.replica_link import ReplicaReporter, ReplicaSource
from swarmlet.runtime.secrets_directory import MemorySecrets
from swarmlet.runtime.services import Services
from swarmlet.runtime.storage import Storage
from swarmlet.runtime.template_source import ReplicaTemplates
from swarmlet.security.access import ADMIN, identify
from swarmlet.security.access import Identity as Caller
from swarmlet.security.contexts import client_context, load_identity, server_context
from swarmlet.security.sealing import ClusterKey
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import FEATURE_LEVEL, CreateJoinToken, InitializeCluster, RegisterNode
from swarmlet.state.view import Table
from swarmlet.transport.client import SYNC_METHOD, MeshClient
from swarmlet.transport.frame import Purpose
from swarmlet.transport.peer import Address, Peer, text
from swarmlet.transport.server import Handlers, MeshServer

log = structlog.get_logger(__name__)

CONFIG_FILE, SOCKET_FILE = "node.json", "api.sock"
#: Drivers and disks are looked at again this often; a change is registered.
FINGERPRINT_SECONDS = 10.0
REGISTER_RETRY_SECONDS = 0.5
#: How often this node's agent is told that voters are in reach.
CONTACT_SECONDS = 0.5
#: A stopping leader waits this long for another one to take over.
HAND_OVER_SECONDS = 1.0
LEAVE_SECONDS = 15.0
#: Election and heartbeat: an election timeout is several heartbeats and far above a round trip in one site;
#: with it a lost leader is replaced in one to two times this long. Heartbeats are most of what an idle leader does.
ELECTION_SECONDS = 0.6
HEARTBEAT_SECONDS = 0.2
#: The longest that one thread holds the interpreter while the loop waits for it. The loop gives it up at every read and
#: write of a connection, so beside a busy thread it may wait this long for each of them.
SWITCH_INTERVAL_SECONDS = 0.0005


class SystemClock:
    """Time of this machine."""

    def boot_seconds(self) -> float:
        """CLOCK_BOOTTIME."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_ns(self) -> int:
        """Wall time."""
        return time.time_ns()


@dataclass(frozen=True, kw_only=True)
class Founding:
    """What the first agent of a new cluster submits once it leads."""

    settings: ClusterSettings
    join_token_ttl_ns: int


class Daemon:
    """One node. `run()` is its life."""

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        directory: DataDirectory,
        *,
        founding: Founding | None = None,
        seeds: list[Address] | None = None,
        on_ready: Callable[[Daemon], None] = lambda daemon: None,
    ) -> None:
        """`seeds`: where to find the cluster, beside what the data directory remembers."""
        self.config = config
        self.identity = identity
        self.directory = directory
        self.founding = founding
        self.on_ready = on_ready
        #: Shown once by `init`.
        self.first_token = ""
        self.clock = SystemClock()
        self.started_at = self.clock.boot_seconds()
        self._seeds = [*(seeds or []), *load_seeds(directory.path)]
        self._stop = asyncio.Event()
        self._failure: SwarmletError | None = None
        self._rng = random.Random(os.urandom(16))  # noqa: S311 (timing only; secrets use os.urandom)
        self._driver_info: dict[str, DriverInfo] = {}
        self._known_node: Node | None = None
        self.tasks_end_with_agent = False
        self._has_left = False

        data = directory.path
        context = (identity.authority, directory.pem_file, directory.pem_file)
        self._contexts = (client_context(*context), server_context(*context))
        self.mesh = MeshClient(self._contexts[0], identity.cluster, identity.node, rng=self._fork("mesh"))
        self.handlers = Handlers()
        self.server = MeshServer(
            self._contexts[1],
            (config.bind, config.mesh_port),
            self.handlers,
            cluster=identity.cluster,
            node=identity.node,
        )
        self._log, machine, start = self._open_log(data)
        self.address = advertised_address(config, self._seeds)
        self._build_gossip()
        self._build_replica(machine, start)
        self._build_runtime(data)
        self._build_joining()
        self._register_handlers()
        self.api = self._build_api(data)

    # Building.

    def _fork(self, label: str) -> random.Random:
        return random.Random(f"{label}:{self._rng.random()}")  # noqa: S311 (timing only)

    def _open_log(self, data: Path) -> tuple[DiskLog | MemoryLog, StateMachine, SnapshotMeta]:
        log_store: DiskLog | MemoryLog
        if self.config.ephemeral:
            log_store = MemoryLog()
        else:
            log_store = DiskLog.open(str(data / "raft"), self.identity.cluster)
        if self.founding is not None and not log_store.snapshot_meta().index:
            # The cluster begins as this one voter, with an empty state at index 1.
            bootstrap(log_store, (peer_id(self.identity.node),), b"".join(StateMachine().save()))
        complete(log_store)
        meta = log_store.snapshot_meta()
        if not meta.index:
            return log_store, StateMachine(), meta
        meta, saved = log_store.read_snapshot()
        machine = StateMachine.load([saved])
        # What was loaded lives long: a full collection over it would stall heartbeats.
        gc.collect()
        gc.freeze()
        return log_store, machine, meta

    def _build_gossip(self) -> None:
        me = Member(
            id=self.identity.node,
            name=self.identity.name,
            address=self.address,
            state=MemberState.ALIVE,
            incarnation=0,
            metadata=msgspec.msgpack.encode([1, VERSION, self.config.zone]),
        )
        self._datagrams = GossipDatagrams()
        self.prober = Prober(self._datagrams)
        self.gossip = Gossip(
            me,
            GossipConfig(
                cluster_id=self.identity.cluster,
                agent_restart_grace=self.config.agent_restart_grace_seconds,
            ),
            load_keyring(self.directory.path / KEYRING_FILE, self.identity.gossip_keys),
            MeshStreams(self.mesh),
            self._fork("gossip"),
            bind=(self.config.bind, self.config.mesh_port),
            random_bytes=os.urandom,
            clock=self.clock.boot_seconds,
            foreign=(MAGIC, self.prober.on_datagram),
        )
        self._datagrams.gossip = self.gossip
        self.remembered = RememberedMembers(
            self.directory.path / MEMBERS_FILE,
            self.identity.node,
            self.gossip.members,
            lambda: self.clock.wall_ns() / 1e9,
            self.gossip.core.config.reap_after,
        )
        self.gossip.core.queries.tags = {
            "name": self.identity.name,
            "version": VERSION,
            "datacenter": self.config.datacenter,
            "node_pool": self.config.node_pool,
            "zone": self.config.zone,
            **{f"meta.{key}": value for key, value in self.config.meta.items()},
        }
        self.gossip.answer_with("version", lambda payload: VERSION.encode())
        self.gossip.answer_with("members", lambda payload: _counted(self.gossip.members()).encode())
        self.gossip.answer_with(
            "keys", lambda payload: key_fingerprint(self.gossip.core.keyring.keys[0]).encode()
        )

    def _build_replica(self, machine: StateMachine, start: SnapshotMeta) -> None:
        self.places = NodeDirectory(self.gossip.members, lambda: self.replica.view)
        core = Raft(
            RaftConfig(
                peer=peer_id(self.identity.node),
                applied=start.index,
                election_seconds=ELECTION_SECONDS,
                heartbeat_seconds=HEARTBEAT_SECONDS,
            ),
            self._log,
            self._fork("raft"),
            self.clock.boot_seconds(),
        )
        if start.config.voters == (peer_id(self.identity.node),) and not start.config.voters_outgoing:
            core.campaign()
        self.replica = Replica(
            node_id=self.identity.node,
            cluster_id=self.identity.cluster,
            core=core,
            log_store=self._log,
            machine=machine,
            start=start,
            mesh=self.mesh,
            directory=self.places,
            clock=self.clock,
            mint=lambda: str(uuid.uuid4()),
            on_failure=self._on_disk_failure,
            make_writer=MemoryWriter if self.config.ephemeral else None,
        )
        self.variables = Variables(
            self.replica, ClusterKey(self.identity.cluster, self.identity.cluster_key), os.urandom
        )
        self.replica.watches.subscribe(self.places.on_changes)
        self.nodes = NodeService(self.replica)
        self.leader = LeaderService(
            replica=self.replica,
            members=self.members,
            clock=self.clock,
            gossip_clock=self.clock.boot_seconds,
            started_at=self.started_at,
        )
        self.operations = Operations(
            replica=self.replica,
            members=self.gossip.members,
            forward=self._forward_to_leader,
            health=self.leader.peer_health,
        )
        self.gossip.subscribe(self._on_member_event)

    def members(self) -> list[Member]:
        """Who is in the cluster, and who of them is alive."""
        return self.gossip.members()

    def _build_runtime(self, data: Path) -> None:
        templates = ReplicaTemplates(self.replica, self.variables)
        found = offered(self.config.drivers, self.identity.node, self.identity.cluster, data)
        self.drivers = found.drivers
        others = NodeClient(
            me=self.identity.node, view=lambda: self.replica.view, mesh=self.mesh, places=self.places
        )
        self.storage = Storage(data, others)
        self.shutdown = HostShutdown(
            self.replica, self.identity.node, data, self.config.drain_on_shutdown_seconds, self.clock.wall_ns
        )
        self.agent = Agent(
            node=self.known_node,
            cluster_id=self.identity.cluster,
            data_directory=data,
            drivers=self.drivers,
            source=ReplicaSource(self.replica),
            reporter=ReplicaReporter(self.replica, self.identity.node),
            templates=templates,
            secrets=MemorySecrets(self.identity.node[:8]),
            rng=self._fork("templates"),
            disks=self.storage.disks,
            made_volumes=self.storage.made_volumes,
        )
        self.services = Services(
            replica=self.replica,
            nodes=others,
            agent=self.agent,
            data=data,
            offered=found,
            templates=templates,
        )

    def _build_joining(self) -> None:
        cluster_key = ClusterKey(self.identity.cluster, self.identity.cluster_key)
        self.gossip_keys = GossipKeys(
            node=self.identity.node,
            keyring=self.gossip.core.keyring,
            cluster_key=cluster_key,
            settings=ReplicatedSettings(self.replica),
            members=self.gossip.members,
            ask=lambda member, body: self.mesh.request(
                member.address, member.id, KEYS_METHOD, body, timeout=ANSWER_SECONDS
            ),
            path=None if self.config.ephemeral else self.directory.path / KEYRING_FILE,
            random_bytes=os.urandom,
        )
        self.joining = JoinServer(
            cluster=self.identity.cluster,
            node=self.identity.node,
            name=self.identity.name,
            authority=self.identity.authority,
            enrolment=ReplicatedEnrolment(
                replica=self.replica,
                cluster_key=cluster_key,
                gossip_keys=self.gossip_keys.all,
                members=self.gossip.members,
                wall_ns=self.clock.wall_ns,
            ),
            forward=self._forward_to_leader,
            prober=self.prober,
            now=lambda: self.clock.wall_ns() / 1e9,
            feature_level=self._feature_level,
            certificate_hours=self.config.certificate_hours,
        )

        self.renewal = Renewal(
            self.identity,
            targets=self._renewal_targets,
            install=self._install_identity,
            now=lambda: self.clock.wall_ns() / 1e9,
            rng=self._fork("renewal"),
            host=self.address[0],
        )

    def _register_handlers(self) -> None:
        handlers, replica = self.handlers, self.replica
        handlers.register_deferred(SUBMIT_METHOD, replica.on_submission)
        handlers.register_stream(SNAPSHOT_METHOD, replica.on_snapshot_request)
        handlers.register_oneway(RAFT_METHOD, replica.on_packet)
        handlers.register_stream(ALLOCATIONS_METHOD, self.nodes.on_subscription)
        handlers.register(REPORT_METHOD, self.nodes.on_report)
        handlers.register(NODE_SUBMIT_METHOD, self.nodes.on_submission)
        handlers.register(SYNC_METHOD, self._on_sync, purpose=Purpose.GOSSIP)
        handlers.register(KEYS_METHOD, self.gossip_keys.serve)
        self.joining.register(handlers)
        self.operations.register(handlers)
        self.services.register(handlers)
        self.storage.register(handlers, self.agent)

    def _build_api(self, data: Path) -> ApiServer:
        context = ApiContext(
            replica=self.replica,
            node_id=self.identity.node,
            node_name=self.identity.name,
            cluster_id=self.identity.cluster,
            version=VERSION,
            datacenter=self.config.datacenter,
            wall_ns=self.clock.wall_ns,
            mint=lambda: str(uuid.uuid4()),
            members=self.gossip.members,
            gossip=self.gossip,
            gossip_keys=self.gossip_keys,
            raft_status=self.replica.consensus.core.status,
            variables=self.variables,
            logs=self.services.logs,
            job_logs=self.services.job_logs,
            reach=self.services.reach,
            copies=self.services.copies,
            volumes=self.storage.volumes,
            commands=self.services.commands,
            connections=self.services.connections,
            usage=self.services.usage,
            make_join_token=self._make_join_token,
            leave=self.leave,
            agent_facts=self._facts,
            identify=self._identify,
            check_driver=validate_driver,
            bind_images=self._bind_images,
            replacement_pause=self.leader.replacement_pause,
            operations=self.operations,
        )
        socket_path = self.config.api_socket or str(data / SOCKET_FILE)
        return ApiServer(
            context,
            bind=self.config.api_bind,
            port=self.config.api_port,
            socket_path=socket_path,
            owner_of=owner_of,
            socket_folder="" if self.config.api_socket else str(data),
        )

    async def _bind_images(self, job: Job, current: Job | None) -> tuple[Job, list[str]]:
        """While an older node would lose the digests, tags stay tags."""
        return (
            await self.services.image_digests.bound(job, current)
            if self._kept_level() >= DIGESTS
            else (job, [])
        )

    def _feature_level(self) -> int:
        settings = self.replica.view.settings()
        return settings.feature_level if settings is not None else FEATURE_LEVEL

    # Running.

    async def run(self) -> None:
        """Live until stopped by a signal, `leave` or a failure. Raises the failure."""
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        self.server.listen()
        try:
            await self.api.start()
        except BaseException:
            self.server.close_listener()
            raise
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            async with asyncio.TaskGroup() as group:
                parts = [
                    group.create_task(part)
                    for part in (
                        self.mesh.run(),
                        self.server.serve(),
                        self.gossip.run(),
                        self.replica.run(),
                        self.nodes.run(),
                        keep_collections_short(),
                        *([release_old_entries(self._log)] if isinstance(self._log, DiskLog) else []),
                        self.leader.run(),
                        self.agent.run(),
                        self.services.run(),
                        self.api.run(),
                        self._register_loop(),
                        self._contact_loop(),
                        self.renewal.run(),
                        self.gossip_keys.run(),
                        *([] if self.config.ephemeral else self._remember_members()),
                    )
                ]
                self._find_cluster()
                if self.founding is not None:
                    parts.append(group.create_task(self._found(self.founding)))
                else:
                    self.on_ready(self)
                await self._stop.wait()
                await self._say_goodbye()
                for part in parts:
                    part.cancel()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            self._log.close()
        if self._failure is not None:
            raise self._failure

    def _remember_members(self) -> list[Coroutine[None, None, None]]:
        """What keeps, on the disk, whom to look for after a restart."""
        seeds = keep_seeds(self.directory.path, self.identity.node, self.gossip.members)
        return [self.remembered.run(), seeds]

    def stop(self) -> None:
        """Begin an orderly stop."""
        self._stop.set()

    def _find_cluster(self) -> None:
        known = []
        for node in self.replica.view.nodes():
            if node.id != self.identity.node and node.address:
                with contextlib.suppress(SwarmletError):
                    known.append(parse_address(node.address, self.config.mesh_port))
        seeds = [address for address in dict.fromkeys([*self._seeds, *known]) if address != self.address]
        if seeds:
            self.gossip.join(seeds[:SEEDS_MAX])
        gone = {node.id for node in self.replica.view.nodes() if node.status is NodeStatus.LEFT}
        remembered = [member for member in self.remembered.load() if member.id not in gone]
        if remembered and not self.config.ephemeral:
            self.gossip.acquaint(remembered)

    async def _found(self, founding: Founding) -> None:
        """The first commands of a new cluster, then its first join token."""
        if self.replica.view.settings() is None:
            await self.replica.submit(
                InitializeCluster(settings=founding.settings),
                "local",
                request_id=RequestId(f"initialize:{self.identity.cluster}"),
                timeout_seconds=30.0,
            )
        token, record = self._make_join_token(founding.join_token_ttl_ns, -1, "made by init")
        await self.replica.submit(CreateJoinToken(token=record), "local", timeout_seconds=30.0)
        self.first_token = token
        self.on_ready(self)

    async def _say_goodbye(self) -> None:
        """Before a stop: hand leadership over and announce the restart, so that nobody suspects anything."""
        if self.tasks_end_with_agent:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10.0):
                    await self.agent.stop_all("the agent stops")
        if self._has_left:
            return  # who left does not come back as itself: an announced restart would call it alive again
        await self.shutdown.drain()
        with contextlib.suppress(SwarmletError):
            self.gossip.announce_restart(self.config.agent_restart_grace_seconds)
        await self._hand_over()

    async def _hand_over(self) -> None:
        core = self.replica.consensus.core
        if not self.replica.is_leader:
            return
        status = core.status()
        others = [peer for peer in status.config.voters if peer != peer_id(self.identity.node)]
        progress = [(status.progress[peer].match, peer) for peer in others if peer in status.progress]
        if not progress:
            return
        with contextlib.suppress(SwarmletError, TimeoutError):
            core.transfer(PeerId(max(progress)[1]))
            self.replica.consensus.pump()
            async with asyncio.timeout(HAND_OVER_SECONDS):
                while self.replica.is_leader:
                    await self.replica.wait_role_change(HAND_OVER_SECONDS)

    async def leave(self) -> None:
        """Leave the cluster for good: others take over the work, consensus forgets this node, tasks end."""
        others = [
            member
            for member in self.gossip.members()
            if member.state is MemberState.ALIVE and member.id != self.identity.node
        ]
        if not others:
            raise Refused(
                "this is the last live node of its cluster: there is nobody to leave to. "
                "Stop the agent and remove its data directory instead"
            )
        await self._hand_over()
        self._has_left = True
        await self.gossip.leave()
        me = peer_id(self.identity.node)
        deadline = self.clock.boot_seconds() + LEAVE_SECONDS
        while self.clock.boot_seconds() < deadline:
            config = self.replica.consensus.core.status().config
            if me not in config.voters and me not in config.learners:
                break
            await self.replica.watches.wait_changed(["nodes"], lambda: False, 0.2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.agent.stop_all("the node leaves the cluster")
        self._retire_data()
        log.info("node.left")
        asyncio.get_running_loop().call_later(0.2, self._stop.set)

    def _retire_data(self) -> None:
        """A node that left may not come back as itself; its files are kept under another name."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        retired = self.directory.path / f"left-{stamp}"
        # A full disk has no room for a directory, and renames all the same.
        with contextlib.suppress(OSError):
            retired.mkdir(mode=0o700)
        for name in (
            "identity",
            "node.pem",
            "raft",
            f"raft{BIRTH_MARK_SUFFIX}",
            SEEDS_FILE,
            KEYRING_FILE,
            MEMBERS_FILE,
        ):
            path = self.directory.path / name
            if path.exists():
                path.rename(retired / name if retired.is_dir() else path.with_name(f"{name}.left-{stamp}"))

    # This node's facts.

    def node(self) -> Node:
        """This machine as a node, as it is now."""
        node = fingerprint(self.config, self.identity.node, text(self.address), self._driver_info, VERSION)
        node = msgspec.structs.replace(
            node,
            name=self.identity.name,
            feature_level=FEATURE_LEVEL,
            attributes={
                **node.attributes,
                "unique.network.ip-address": self.address[0],
                "swarmlet.version": VERSION,
            },
        )
        node = at_level(node, self._kept_level())
        return msgspec.structs.replace(node, computed_class=computed_class(node))

    def known_node(self) -> Node:
        """The same as of the last look: looking at the machine takes a while, and every start of a task asks."""
        return self._known_node or self.node()

    def _kept_level(self) -> int:
        """What the cluster can keep, as far as this node knows."""
        settings = self.replica.view.settings()
        return settings.feature_level if settings is not None else 1

    async def _register_loop(self) -> None:
        """Tell the cluster what this node is and has, at the start and when it changes."""
        registered: Node | None = None
        while True:
            for name, driver in self.drivers.items():
                self._driver_info[name] = await driver.fingerprint()
            level = self._kept_level()
            self._known_node = node = self.node()
            if registered is not None:
                # A disk that fills and empties is no news; it counts when the agent starts.
                free = msgspec.structs.replace(node.resources, disk=registered.resources.disk)
                node = msgspec.structs.replace(node, resources=free)
            if registered != node:
                try:
                    await self.replica.submit(
                        RegisterNode(node=node), f"node:{self.identity.node}", timeout_seconds=10.0
                    )
                    await self.shutdown.end()
                except Unavailable as error:
                    log.info("node.not_registered", reason=str(error))
                    await asyncio.sleep(REGISTER_RETRY_SECONDS)
                    continue
                registered = node
                log.info("node.registered", node_id=node.id, name=node.name)
            # A cluster that can keep more is told more at once.
            try:
                await self.replica.watches.wait_changed(
                    [Table.SETTINGS], partial(self._is_level_past, level), FINGERPRINT_SECONDS
                )
            except Overloaded:
                await asyncio.sleep(FINGERPRINT_SECONDS)

    def _is_level_past(self, level: int) -> bool:
        return self._kept_level() > level

    async def _contact_loop(self) -> None:
        seen = 0.0
        while True:
            if self.replica.is_leader or self.replica.last_contact != seen:
                seen = self.replica.last_contact
                self.agent.contact()
            await asyncio.sleep(CONTACT_SECONDS)

    def _facts(self) -> dict[str, Any]:
        status = self.replica.consensus.core.status()
        return {
            "pid": os.getpid(),
            "raft": {
                "role": status.role.name.lower(),
                "term": status.term,
                "commit": status.commit,
                "applied": status.applied,
            },
            "mesh": {"address": text(self.address), "dropped": self.mesh.dropped},
            "uptime_seconds": round(self.clock.boot_seconds() - self.started_at, 1),
        }

    # Others.

    def _on_member_event(self, event: MemberEvent) -> None:
        self.places.on_member(event.member)
        if event.kind in {EventKind.DIED, EventKind.ALIVE_AGAIN}:
            self.mesh.renew(event.member.id)
        self.leader.on_member_event()
        name = f"member.{event.kind.value}"
        log.info(name, node_id=event.member.id, name=event.member.name, detail=event.detail)

    async def _on_sync(self, peer: Peer, body: bytes) -> bytes:
        return self.gossip.on_sync(body, peer.address)

    async def _forward_to_leader(self, method: str, body: bytes) -> bytes:
        leader = self.replica.leader
        address = self.places.address_of(leader) if leader else None
        if leader is None or address is None or leader == self.identity.node:
            raise Unavailable("the cluster has no leader right now; try again in a few seconds")
        return await self.mesh.request(address, leader, method, body, timeout=10.0)

    def _make_join_token(self, ttl_ns: int, uses: int, description: str) -> tuple[str, Any]:
        token, record = new_join_token(
            self.identity.authority,
            ttl_ns=ttl_ns,
            uses=uses,
            description=description,
            now_ns=self.clock.wall_ns(),
            random_bytes=os.urandom,
        )
        return f"{token.text()}@{_spoken(self.address)}", record

    def _identify(self, token: str, is_local: bool) -> Caller:
        """The Unix socket is root's and its group's; over TCP a token says who asks."""
        if is_local or self.config.ephemeral:
            return ADMIN
        settings = self.replica.view.settings()
        return identify(token, settings.admin_token_hash.decode() if settings else "")

    def _on_disk_failure(self, error: StorageError) -> None:
        log.error("storage.failed", reason=str(error))
        self._failure = error
        self._stop.set()

    # This node's certificate.

    def _renewal_targets(self) -> list[Address]:
        """Others first: where this node's certificate has ended, only they still reach the leader."""
        alive = [
            member.address
            for member in self.gossip.members()
            if member.state is MemberState.ALIVE and member.id != self.identity.node
        ]
        self._rng.shuffle(alive)
        return list(dict.fromkeys([*alive[:2], *self._seeds[:2], self.address]))

    def _install_identity(self, identity: Identity) -> None:
        """On disk first; then new connections show it. Those that are up go on."""
        save(self.directory.path, identity)
        self.identity = identity
        for context in self._contexts:
            load_identity(context, self.directory.pem_file, self.directory.pem_file)


def _counted(members: list[Member]) -> str:
    """How many members are in which state."""
    states = [state for state in MemberState if any(member.state is state for member in members)]
    return ", ".join(
        f"{sum(member.state is state for member in members)} {state.name.lower().replace('_', ' ')}"
        for state in states
    )


def _spoken(address: Address) -> str:
    """An address as a person types it: without the port where it is the usual one."""
    from swarmlet.config import MESH_PORT

    host, port = address
    return host if port == MESH_PORT and ":" not in host else text(address)


def run_forever(daemon: Callable[[], Daemon]) -> None:
    """Run a daemon on uvloop where it is available. Raises what ended it."""

    async def main() -> None:
        await daemon().run()

    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.run(main())
        return
    asyncio.run(main())


def write_config(directory: Path, config: NodeConfig) -> None:
    """Remember the configuration that init or join was given, for `swarmlet agent`."""
    write_atomically(directory / CONFIG_FILE, msgspec.json.format(msgspec.json.encode(config), indent=2))


def read_config(directory: Path) -> NodeConfig | None:
    """The configuration that init or join left, or None."""
    try:
        return msgspec.json.decode((directory / CONFIG_FILE).read_bytes(), type=NodeConfig)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StorageError(f"{directory / CONFIG_FILE} is damaged: {error}; pass --config") from error
