"""Load for `bench_raft.py`: N writers (or readers), each with one request outstanding.

Over HTTP by wrk with a script, the same for both contenders: one thread, one connection per writer. Over the mesh
protocol by this module run as a process: one connection of a member's certificate, on which each writer has one
request outstanding, as they have where a node forwards its users' commands.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import raft_members
from scripts.raft_members import Call, Members
from swarmlet.ids import DEFAULT_NAMESPACE, ClusterId, NodeId, RequestId
from swarmlet.joining.identity import DataDirectory, load
from swarmlet.replica.submission import SUBMIT_METHOD, Submission, submission_codec
from swarmlet.security.contexts import client_context
from swarmlet.state.command import Applied, Body, PutVariable, applied_codec
from swarmlet.transport.client import ClientConnection
from swarmlet.transport.frame import PROTOCOL_VERSION, Frame, Hello, Kind, Purpose
from swarmlet.transport.limits import Limits

VALUE_BYTES = 256
#: Keys that are written in turn: more than writers, so that they never wait for each other's.
KEYS = 512
#: Different requests, which come round: each writes another value than the one before to its key.
REQUESTS = 3 * KEYS
#: The keyring's first key, which the first write through HTTP makes.
KEY_ID = 1
#: What sealing adds to a value: a version, a salt, a tag, and the item's name.
SEALING_BYTES = 50
#: A run's first moments (connections, caches) are not counted.
WARM_UP_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a run of load gave: answers per second, and how long they took."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failures: int
    #: CPU time of the three members together, per answer, in microseconds: says more than the rate on a busy machine.
    cpu_us: float = 0.0


def key_of(number: int) -> str:
    """The name of a key."""
    return f"bench-{number % KEYS:04d}"


def value_of(number: int) -> bytes:
    """A value that says little: text of random letters, 256 bytes."""
    return bytes(random.Random(number).choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=VALUE_BYTES))


#: Requests are made once and sent in turn, so that the generator costs next to nothing.
_SCRIPT = """
local requests = {}
local count = 0
function init(args)
  for line in io.lines(args[1]) do
    local method, path, headers, body = line:match("^(%S+) (%S+) (%S*) (.*)$")
    local fields = {["Content-Type"] = "application/json"}
    for name, value in headers:gmatch("([^=;]+)=([^;]+)") do fields[name] = value end
    count = count + 1
    requests[count] = wrk.format(method, path, fields, body ~= "" and body or nil)
  end
end
local next = 0
function request()
  next = next % count + 1
  return requests[next]
end
function done(summary, latency, requests)
  io.write(string.format(
    "RESULT {\\"requests\\": %d, \\"seconds\\": %.6f, \\"p50\\": %.3f, \\"p99\\": %.3f, \\"failures\\": %d}\\n",
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
      + summary.errors.timeout))
end
"""


def http_load(port: int, calls: list[Call], writers: int, seconds: float) -> Load:
    """`calls` in turn from `writers` connections."""
    with tempfile.TemporaryDirectory() as folder:
        script, requests = Path(folder) / "load.lua", Path(folder) / "requests"
        script.write_text(_SCRIPT)
        requests.write_text("".join(map(_line, calls)))
        command = ["wrk", "-t1", f"-c{writers}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
        where = [f"http://127.0.0.1:{port}/", "--", str(requests)]
        said = subprocess.run(
            [*command, "-s", str(script), *where], capture_output=True, text=True, check=False
        )
    if said.returncode or "RESULT " not in said.stdout:
        raise SystemExit(f"wrk failed: {said.stdout}{said.stderr}")
    result = json.loads(said.stdout.rpartition("RESULT ")[2])
    answered = result["requests"] - result["failures"]
    return Load(
        per_second=answered / result["seconds"],
        p50_ms=result["p50"],
        p99_ms=result["p99"],
        failures=result["failures"],
    )


def _line(call: Call) -> str:
    headers = ";".join(f"{name}={value}" for name, value in call.headers.items())
    return f"{call.method} {call.path} {headers} {call.body.decode()}\n"


def http_writes(members: Members, port: int, writers: int, seconds: float) -> Load:
    """256 B to keys in turn."""
    calls = [members.put(key_of(number), value_of(number)) for number in range(REQUESTS)]
    return metered(members, lambda: http_load(port, calls, writers, seconds), seconds)


def http_reads(members: Members, port: int, readers: int, seconds: float) -> Load:
    """Linearizable reads of the keys that were written."""
    calls = [members.get(key_of(number)) for number in range(KEYS)]
    return metered(members, lambda: http_load(port, calls, readers, seconds), seconds)


def metered(members: Members, run: Callable[[], Load], seconds: float) -> Load:
    """A run of load, with the CPU time that it cost the members."""
    before = raft_members.cpu_seconds(members)
    load_ = run()
    used = [end - begin for begin, end in zip(before, raft_members.cpu_seconds(members), strict=True)]
    answers = max(1.0, load_.per_second * seconds)
    return replace(load_, cpu_us=1e6 * sum(used) / answers)


def mesh_writes(port: int, data: Path, writers: int, seconds: float) -> Load:
    """As `http_writes`, over the mesh port of the leader, with the certificate of the member in `data`."""
    arguments = [
        "--port",
        str(port),
        "--data",
        str(data),
        "--writers",
        str(writers),
        "--seconds",
        str(seconds),
    ]
    said = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if said.returncode:
        raise SystemExit(f"the mesh load failed: {said.stderr}")
    return Load(**json.loads(said.stdout))


def body_of(number: int) -> Body:
    """The command that writes a variable: sealed, as it is where a node forwards it. Any bytes will do for that."""
    sealed = random.Random(number).randbytes(VALUE_BYTES + SEALING_BYTES)
    return PutVariable(
        namespace=DEFAULT_NAMESPACE, path=f"mesh-{number % KEYS:04d}", key_id=KEY_ID, sealed=sealed
    )


class _Writers(ClientConnection):
    """A connection of the mesh protocol on which `writers` writers wait for one answer each."""

    def __init__(self, hello: Hello, actor: str, writers: int) -> None:
        super().__init__(Limits(requests_per_connection_max=writers), hello)
        self.failures = 0
        self.latencies: list[float] = []
        self._actor = actor
        self._life = random.Random().getrandbits(64)
        self._bodies = [body_of(number) for number in range(REQUESTS)]
        self._sent: dict[int, float] = {}
        self._next = 0

    def write(self) -> None:
        """Some writer's next write."""
        self._next = number = self._next + 1
        submission = Submission(
            request_id=RequestId(f"{self._life:016x}-{number}"),
            actor=self._actor,
            body=self._bodies[number % REQUESTS],
        )
        self._sent[number] = time.perf_counter()
        body = submission_codec.encode(submission)
        self.send(Frame(kind=Kind.REQUEST, id=number, method=SUBMIT_METHOD, body=body))

    def receive(self, frame: Frame) -> None:
        if frame.kind not in {Kind.REPLY, Kind.ERROR} or frame.id == 0:
            super().receive(frame)
            return
        applied: Applied | None = applied_codec.decode(frame.body) if frame.kind == Kind.REPLY else None
        if applied is not None and not applied.error:
            self.latencies.append(time.perf_counter() - self._sent.pop(frame.id))
        else:
            self.failures += 1
        self.write()


async def _mesh_load(port: int, data: Path, writers: int, seconds: float) -> Load:
    identity, pem = load(data), DataDirectory(data).pem_file
    assert identity is not None, f"{data} is no member's data directory"
    hello = Hello(version=PROTOCOL_VERSION, cluster=ClusterId(identity.cluster), purpose=Purpose.RPC)
    loop = asyncio.get_running_loop()
    _, made = await loop.create_connection(
        lambda: _Writers(hello, f"node:{NodeId(identity.node)}", writers),
        "127.0.0.1",
        port,
        ssl=client_context(identity.authority, pem, pem),
        server_hostname="",
    )
    connection: _Writers = made
    await connection.welcome
    for _ in range(writers):
        connection.write()
    await asyncio.sleep(WARM_UP_SECONDS)
    connection.latencies.clear()
    connection.failures = 0
    begin = time.perf_counter()
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - begin
    latencies = sorted(connection.latencies)
    failures = connection.failures
    connection.abort(None)
    if not latencies:
        raise SystemExit(f"no write was answered; {failures} failed: {connection.failure}")
    return Load(
        per_second=len(latencies) / elapsed,
        p50_ms=1e3 * latencies[len(latencies) // 2],
        p99_ms=1e3 * latencies[int(len(latencies) * 0.99)],
        failures=failures,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--writers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load_ = runner.run(_mesh_load(options.port, options.data, options.writers, options.seconds))
    print(json.dumps(load_.__dict__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
