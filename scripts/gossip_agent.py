"""One gossip member as a process: the production core and shell, plain TCP instead of the mesh's TLS.

`scripts/bench_gossip.py --peer serf` starts many of these beside as many serf agents. Every membership event is one
line on standard output: kind, subject.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarmlet.errors import SwarmletError, Unavailable, WireError
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import Address, Member, MemberEvent, MemberState, StreamAnswer
from swarmlet.gossip.keyring import Keyring
from swarmlet.gossip.packet import SYNC_BYTES_MAX
from swarmlet.gossip.shell import Gossip
from swarmlet.ids import NodeId

PING, SYNC = b"p", b"s"
EXCHANGE_SECONDS = 10.0


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Four bytes of length, then as many. Raises WireError beyond the limit, EOFError at the end."""
    size = int.from_bytes(await reader.readexactly(4))
    if size > SYNC_BYTES_MAX:
        raise WireError(f"frame of {size} B exceeds {SYNC_BYTES_MAX} B")
    return await reader.readexactly(size)


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


class PlainStreams:
    """What gossip needs of streams, one connection each."""

    async def ping(self, address: Address, target: NodeId, timeout: float) -> StreamAnswer:  # noqa: ASYNC109 - gossip's protocol
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection(*address)
        except ConnectionRefusedError:
            return StreamAnswer.REFUSED
        except (OSError, TimeoutError):
            return StreamAnswer.SILENT
        try:
            async with asyncio.timeout(timeout):
                writer.write(frame(PING + target.encode()))
                answered = await read_frame(reader) == b"ack"
        except (TimeoutError, WireError):
            return StreamAnswer.STALLED
        except (OSError, EOFError):
            return StreamAnswer.REFUSED
        finally:
            writer.close()
        return StreamAnswer.ACK if answered else StreamAnswer.REFUSED

    async def check(self, address: Address, target: NodeId, timeout: float) -> StreamAnswer:  # noqa: ASYNC109 - gossip's protocol
        return await self.ping(address, target, timeout)

    async def sync(self, address: Address, target: NodeId, data: bytes) -> bytes:
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                reader, writer = await asyncio.open_connection(*address)
                try:
                    writer.write(frame(SYNC + data))
                    return await read_frame(reader)
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError) as error:
            raise Unavailable(f"{address[0]}:{address[1]} does not answer: {error}") from error


def tell(event: MemberEvent) -> None:
    print(event.kind.value, event.member.id, flush=True)


async def live(options: argparse.Namespace) -> None:
    """Listen and gossip until killed."""
    address = ("127.0.0.1", options.port)
    member = Member(
        id=NodeId(options.name), name=options.name, address=address, state=MemberState.ALIVE, incarnation=0
    )
    gossip = Gossip(
        member,
        GossipConfig(cluster_id="bench"),
        Keyring(bytes(range(32))),
        PlainStreams(),
        random.Random(secrets.randbits(64)),
        bind=address,
        random_bytes=secrets.token_bytes,
    )
    gossip.subscribe(tell)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, TimeoutError, SwarmletError):
            async with asyncio.timeout(EXCHANGE_SECONDS):
                request = await read_frame(reader)
                if request.startswith(SYNC):
                    reply = gossip.on_sync(request[1:], address)
                else:
                    reply = b"ack" if request[1:] == options.name.encode() else b"not me"
                writer.write(frame(reply))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, *address)
    async with server, asyncio.TaskGroup() as group:
        group.create_task(gossip.run())
        await gossip.wait_listening()
        if options.join:
            gossip.join([("127.0.0.1", options.join)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--join", type=int, help="port of a member")
    options = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        asyncio.run(live(options))
    else:
        uvloop.run(live(options))


if __name__ == "__main__":
    main()
