"""The testbed itself: what the tests of the product rely on must hold before they do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir

import pytest

from tests.testbed import control_groups
from tests.testbed.host import Host, HostOff, wait_for
from tests.testbed.images import IMAGE, GoldenData
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

# Prints what a TCP connect says: "connected", "refused" or "silent".
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.4).close()
    print("connected")
except ConnectionRefusedError:
    print("refused")
except OSError:
    print("silent")
"""
# Answers every UDP packet, and accepts every TCP connection, on one port.
SERVE = """
import socket, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE: a burst must not be lost here
udp.bind(("0.0.0.0", 7000))
tcp = socket.create_server(("0.0.0.0", 7000))
def answer():
    while True:
        data, source = udp.recvfrom(2000)
        udp.sendto(data, source)
threading.Thread(target=answer, daemon=True).start()
print("serving", flush=True)
while True:
    tcp.accept()[0].close()
"""
# Sends COUNT packets at once and prints how many come back, and the median round trip in ms.
ECHO = """
import socket, statistics, sys, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE: a burst must not be lost here
udp.settimeout(0.5)
count, trips, sent = int(sys.argv[2]), [], {}
for number in range(count):
    sent[number] = time.monotonic()
    udp.sendto(str(number).encode(), (sys.argv[1], 7000))
try:
    for _ in range(count):
        number = int(udp.recv(100))
        trips.append(time.monotonic() - sent[number])
except TimeoutError:
    pass
print(len(trips), 1000 * statistics.median(trips or [0]))
"""
# Receives everything from one connection and prints its size and digest.
DIGEST = """
import hashlib, socket
listener = socket.create_server(("0.0.0.0", 7001))
print("serving")
stream = listener.accept()[0].makefile("rb")
data = stream.read()
print(len(data), hashlib.sha256(data).hexdigest())
"""
# Sends 4 MiB and prints their digest.
SEND = """
import hashlib, random, socket, sys
data = random.Random(1).randbytes(1 << 22)
with socket.create_connection((sys.argv[1], 7001)) as stream:
    stream.sendall(data)
print(hashlib.sha256(data).hexdigest())
"""


@pytest.fixture(scope="module")
def shared(golden_data: GoldenData) -> Iterator[Testbed]:
    """Hosts for the tests that leave them as they were."""
    with Testbed(hosts=3, golden=golden_data) as bed:
        for host in bed:
            serve(host)
        yield bed


@pytest.fixture
def healthy(shared: Testbed) -> Iterator[Testbed]:
    """The shared hosts, healed afterwards."""
    yield shared
    shared.network.heal()


def serve(host: Host) -> None:
    process = host.spawn("python3", "-u", "-c", SERVE)
    wait_for(lambda: "serving" in process.output.read_text(), f"the server on {host.name}", 20.0)


def pings(source: Host, target: Host) -> bool:
    return source.run("busybox", "ping", "-c1", "-W1", target.address).returncode == 0


def connect(source: Host, target: Host, port: int = 7000) -> str:
    return source.python(CONNECT, target.address, str(port)).stdout.strip()


def echoes(source: Host, target: Host, count: int = 3) -> tuple[int, float]:
    """How many packets came back, and the median round trip in ms."""
    answered, median = source.python(ECHO, target.address, str(count)).stdout.split()
    return int(answered), float(median)


def test_every_host_reaches_every_other(healthy: Testbed) -> None:
    for host in healthy:
        for other in healthy.others(host):
            assert pings(host, other)
            assert connect(host, other) == "connected"


def test_a_container_runs_on_each_engine_with_its_own_identity(healthy: Testbed) -> None:
    for host in healthy:
        started = host.engine.run(IMAGE, "sleep", "100", name="sleeper")
        assert [container["Id"] for container in host.engine.containers()] == [started]
        host.engine.remove("sleeper")
    identities = {host.engine.request("GET", "/info")["ID"] for host in healthy}
    assert len(identities) == len(healthy)


def test_the_engine_is_also_where_programs_inside_look_for_it(healthy: Testbed) -> None:
    inside = healthy[1].run("test", "-S", "/var/run/docker.sock")
    assert inside.returncode == 0


def test_etc_belongs_to_one_host(healthy: Testbed) -> None:
    healthy[1].run("touch", "/etc/testbed-mark", check=True)
    assert healthy[1].run("test", "-e", "/etc/testbed-mark").returncode == 0
    assert healthy[2].run("test", "-e", "/etc/testbed-mark").returncode != 0
    assert not Path("/etc/testbed-mark").exists()


def test_the_default_data_directory_is_the_hosts_own(healthy: Testbed) -> None:
    healthy[1].run("touch", "/var/lib/swarmlet/testbed-mark", check=True)
    assert (healthy[1].data / "testbed-mark").exists()
    assert healthy[2].run("test", "-e", "/var/lib/swarmlet/testbed-mark").returncode != 0
    assert not Path("/var/lib/swarmlet/testbed-mark").exists()


def test_a_containers_memory_limit_is_enforced(healthy: Testbed) -> None:
    """The engine works with the control groups of this machine: an OOM kill is seen as one."""
    engine = healthy[1].engine
    limits = {"Memory": 8 << 20, "MemorySwap": 8 << 20}
    hog = engine.run(IMAGE, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", host_config=limits)
    wait_for(lambda: not engine.inspect(hog)["State"]["Running"], "the end of the container", 20.0)
    assert engine.inspect(hog)["State"]["OOMKilled"]
    engine.remove(hog)


def test_a_killed_process_inside_is_gone(healthy: Testbed) -> None:
    process = healthy[1].spawn("sleep", "1000")
    # Empty for a moment while it becomes another program.
    wait_for(lambda: "sleep" in Path(f"/proc/{process.pid}/cmdline").read_text(), "its command", 10.0)
    healthy[1].kill_agent(process.pid)
    assert process.wait() != 0
    assert not process.is_running()


def test_containers_outlive_their_engine(healthy: Testbed) -> None:
    host = healthy[3]
    container = host.engine.run(IMAGE, "sleep", "100")
    started = host.engine.inspect(container)["State"]["StartedAt"]
    host.kill_engine()
    host.begin_engine()
    host.finish_start()
    state = host.engine.inspect(container)["State"]
    assert state["Running"]
    assert state["StartedAt"] == started
    host.engine.remove(container)


def test_a_cut_host_is_silent_until_healed(healthy: Testbed) -> None:
    one, two, three = healthy
    healthy.network.cut(2)
    assert connect(one, two) == "silent"
    assert connect(two, three) == "silent"
    assert connect(one, three) == "connected"
    healthy.network.heal()
    wait_for(lambda: connect(one, two) == "connected", "the healed link", 10.0)


def test_a_cut_between_two_leaves_the_third_connected_to_both(healthy: Testbed) -> None:
    one, two, three = healthy
    healthy.network.cut_between(1, 2)
    assert [connect(one, two), connect(two, one)] == ["silent", "silent"]
    assert [connect(one, three), connect(two, three), connect(three, one)] == ["connected"] * 3


def test_a_one_way_cut_lets_the_other_direction_pass(healthy: Testbed) -> None:
    one, two, _ = healthy
    healthy.network.cut_one_way(1, 2)
    # UDP tells directions apart: what 2 sends reaches 1, whose kernel counts it; the answer is lost.
    before = received_datagrams(one), received_datagrams(two)
    assert echoes(two, one)[0] == 0
    assert received_datagrams(one) == before[0] + 3
    assert echoes(one, two)[0] == 0
    assert received_datagrams(two) == before[1]


def received_datagrams(host: Host) -> int:
    lines = [
        line.split()
        for line in host.run("cat", "/proc/net/snmp").stdout.splitlines()
        if line.startswith("Udp:")
    ]
    return int(dict(zip(*lines, strict=True))["InDatagrams"])


def test_udp_and_tcp_fail_separately(healthy: Testbed) -> None:
    one, two, _ = healthy
    healthy.network.drop_udp(2)
    assert connect(one, two) == "connected"
    assert echoes(one, two)[0] == 0
    healthy.network.heal()
    healthy.network.drop_tcp(2)
    assert connect(one, two) == "silent"
    assert echoes(one, two)[0] == 3
    assert pings(one, two)


def test_a_share_of_the_packets_is_lost(healthy: Testbed) -> None:
    one, two, three = healthy
    healthy.network.lose(30, 2)
    answered, _ = echoes(one, two, 400)
    assert 200 < answered < 360  # 280 expected; the bounds are eight standard deviations away
    assert echoes(one, three, 100)[0] == 100


def test_delay_holds_packets_both_ways_and_faults_still_apply(healthy: Testbed) -> None:
    one, two, three = healthy
    healthy.network.delay(40)
    answered, round_trip = echoes(one, two, 20)
    assert answered == 20
    assert round_trip >= 80
    assert connect(one, three) == "connected"
    healthy.network.cut_between(1, 2)
    assert connect(one, two) == "silent"
    healthy.network.heal()
    answered, round_trip = echoes(one, two, 20)
    assert answered == 20
    assert round_trip < 80


def test_large_transfers_pass_the_delay_unharmed(healthy: Testbed) -> None:
    """Segments larger than the wire's and unfinished checksums must come out as they went in."""
    one, two, _ = healthy
    healthy.network.delay(1, 1)
    listener = two.spawn("python3", "-u", "-c", DIGEST)
    wait_for(lambda: "serving" in listener.output.read_text(), "the listener", 20.0)
    sent = one.python(SEND, two.address)
    assert listener.wait() == 0
    assert listener.output.read_text().split()[1:] == ["4194304", sent.stdout.strip()]


def test_power_off_silences_a_host_and_power_on_brings_it_back(pair: Testbed) -> None:
    one, two = pair
    container = two.engine.run(IMAGE, "sleep", "100")
    (two.data / "kept").write_text("yes")
    serve(two)
    assert connect(one, two) == "connected"

    two.power_off()

    assert not two.is_on
    assert not pings(one, two)
    assert connect(one, two) == "silent"
    with pytest.raises(HostOff):
        two.run("true")

    two.power_on()

    assert pings(one, two)
    assert (two.data / "kept").read_text() == "yes"
    assert two.engine.images() == [IMAGE]
    assert not two.engine.inspect(container)["State"]["Running"]


def test_a_kernel_without_processes_still_answers(pair: Testbed) -> None:
    """A power-off differs from a crash of all programs: refusal shows a living kernel."""
    one, two = pair
    serve(two)
    two.kill_processes()
    assert pings(one, two)
    assert connect(one, two) == "refused"


def test_a_cut_holds_over_a_power_cycle(pair: Testbed) -> None:
    one, two = pair
    pair.network.cut(2)
    two.power_off()
    two.power_on()
    assert not pings(one, two)
    pair.network.heal()
    wait_for(lambda: pings(one, two), "the healed link", 10.0)


def test_two_testbeds_coexist_and_leave_nothing(golden_data: GoldenData) -> None:
    before = traces()
    with Testbed(hosts=1, golden=golden_data) as first, Testbed(hosts=2, golden=golden_data) as second:
        assert first[1].address != second[1].address
        for host in [*first, *second]:
            host.engine.run(IMAGE, "sleep", "100", name="same-name")
        inside = {name for host in [*first, *second] for name in namespaces(host.first_pid)} - namespaces(
            "self"
        )
        assert len(inside) == 3 * 5
        assert inhabitants(inside)
        assert traces() != before
    assert traces() == before
    assert inhabitants(inside) == []


def namespaces(pid: int | str) -> set[str]:
    """The namespaces that a process is in; empty if it has ended, or is not for us to look at (then not ours either)."""
    try:
        return {
            str((Path("/proc") / str(pid) / "ns" / kind).readlink())
            for kind in ("net", "mnt", "pid", "uts", "ipc")
        }
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()


def inhabitants(inside: set[str]) -> list[str]:
    """The processes of this machine that are in one of the namespaces."""
    return [
        path.name
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and namespaces(path.name) & inside
    ]


def traces() -> dict[str, list[str]]:
    """What a testbed of this process could leave on the machine, apart from processes (others start their own)."""
    prefix = f"swl-{os.getpid()}-"
    return {
        "children": sorted(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
        "control groups": [str(path) for path in control_groups.present(prefix)],
        "mounts": sorted(
            line for line in Path("/proc/self/mounts").read_text().splitlines() if prefix in line
        ),
        "folders": sorted(str(path) for path in Path(gettempdir()).glob(f"{prefix}*")),
        "descriptors": sorted(name for name in descriptors() if name.startswith("net:")),
    }


def descriptors() -> list[str]:
    """What this process holds open."""
    names = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one of this listing
            names.append(str(path.readlink()))
    return names
