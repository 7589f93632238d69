"""Connects to ports of this node's tasks: those that the allocation holds, and any in a task's own network namespace.

A task that shares the node's network may be reached on its own ports only: the others are the node's business.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from collections.abc import AsyncGenerator

from swarmlet.errors import Conflict, DriverError, InvalidInput, NotFound
from swarmlet.ids import AllocationId
from swarmlet.model.allocation import TaskStatus
from swarmlet.model.forward import ForwardTarget
from swarmlet.runtime.agent import Agent

CHUNK_BYTES = 65_536
#: To open the connection on the node itself.
CONNECT_SECONDS = 5.0
PORT_MAX = 65_535
_CLONE_NEWNET = 0x40000000
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Connection:
    """A connection to a task, each direction of which ends by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Made by `Forwarding.connect`."""
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Pass bytes on, as fast as the task takes them; none: no more will come. Raises Conflict."""
        try:
            if data:
                self._writer.write(data)
                await self._writer.drain()
            elif self._writer.can_write_eof():
                self._writer.write_eof()
        except OSError as error:
            raise Conflict(f"the task closed the connection: {error.strerror or error}") from error

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """What the task sends; once an empty one where it sends no more. Raises Conflict."""
        try:
            while data := await self._reader.read(CHUNK_BYTES):
                yield data
            yield b""
        except OSError as error:
            raise Conflict(f"the task closed the connection: {error.strerror or error}") from error

    def close(self) -> None:
        """Let go of it; what is still to be written goes out."""
        self._writer.close()


class Forwarding:
    """The ports of one agent's tasks."""

    def __init__(self, agent: Agent) -> None:
        """Nothing is opened."""
        self._agent = agent

    async def target(self, allocation: AllocationId, task: str, port: str) -> ForwardTarget:
        """Where `port` (a label or a number) is. Raises NotFound, InvalidInput, Conflict."""
        return (await self._resolve(allocation, task, port))[0]

    async def connect(self, allocation: AllocationId, task: str, port: str) -> Connection:
        """Connect to it. Raises NotFound, InvalidInput, Conflict (nobody listens)."""
        target, places = await self._resolve(allocation, task, port)
        reason = ""
        for place in places:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return Connection(*await _open(place, target.port))
            except TimeoutError:
                reason = f"no connection within {CONNECT_SECONDS:g} s"
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
        raise Conflict(f"{target.text} does not accept connections: {reason}")

    async def _resolve(
        self, allocation: AllocationId, task: str, port: str
    ) -> tuple[ForwardTarget, list[str | int]]:
        """The target, and where it is tried: addresses, or a process whose network it is in."""
        ports, host = self._agent.ports_of(allocation)
        for held in ports:
            if port in {held.label, str(held.value)}:
                address = held.host_ip or host
                text = f"{address}:{held.value} ({held.label})"
                return ForwardTarget(port=held.value, text=text), [address, "127.0.0.1"]
        if not port.isdigit():
            known = ", ".join(held.label for held in ports) or "none"
            raise NotFound(f"allocation {allocation[:8]} has no port {port[:64]!r}; it has: {known}")
        if not 0 < int(port) <= PORT_MAX:
            raise InvalidInput(f"port {port[:16]}: expected 1 to {PORT_MAX}, or a label")
        name, pid = await self._isolated(allocation, task)
        if not pid:
            known = ", ".join(f"{held.label} {held.value}" for held in ports) or "none"
            raise InvalidInput(
                f"port {port} is not one of allocation {allocation[:8]} (its ports: {known}), and its tasks share the "
                "node's network, whose other ports are not theirs"
            )
        return ForwardTarget(port=int(port), text=f"port {port} of task {name}"), [pid]

    async def _isolated(self, allocation: AllocationId, task: str) -> tuple[str, int]:
        """A running task that has a network of its own, and its process; ("", 0): there is none."""
        mine = os.stat("/proc/self/ns/net").st_ino
        for name, found in self._agent.tasks_of(allocation).items():
            handle = found.machine.record.handle
            if task not in {"", name} or handle is None:
                continue
            if found.machine.record.state.status is not TaskStatus.RUNNING:
                continue
            try:
                pid = await found.driver.first_pid(handle)
                if pid and os.stat(f"/proc/{pid}/ns/net").st_ino != mine:
                    return name, pid
            except (DriverError, OSError):
                continue
        return "", 0


async def _open(place: str | int, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError."""
    if isinstance(place, str):
        return await asyncio.open_connection(place, port)
    failure: OSError | None = None
    for family, address in LOOPBACKS:
        sock = await asyncio.to_thread(socket_in_network_of, place, family)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
            return await asyncio.open_connection(sock=sock)
        except OSError as error:
            sock.close()
            failure = failure or error
        except BaseException:
            sock.close()
            raise
    assert failure is not None, "there are families to try"
    raise failure


def socket_in_network_of(pid: int, family: socket.AddressFamily) -> socket.socket:
    """A socket in the network namespace of a process. Blocking, for a moment. Raises OSError."""
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        try:
            descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(descriptor, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(descriptor)
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            made.append(sock)
        except OSError as error:
            made.append(error)

    # A thread of its own: the namespace is the thread's, and ends with it.
    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    thread.join()
    (found,) = made
    if isinstance(found, OSError):
        raise found
    return found
