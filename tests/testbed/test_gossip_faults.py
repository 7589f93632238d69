"""Bad networks and hosts that stand still: nobody healthy is declared dead, and whoever is asked names the fault."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.testbed import control_groups, unix_http
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host

pytestmark = pytest.mark.slow

#: From a fault to its name in every node's `status`, and from its end to silence about it.
NAMED_SECONDS_MAX = 25.0
CLEARED_SECONDS_MAX = 45.0
LOSS_PERCENT = 30
DELAY_MS = 200.0
#: A lossy or slow network stays so for this long: several times the shortest suspicion.
HELD_SECONDS = 12.0
#: How long a host stands still. CI may shorten it (not below the grace of an agent, which it is to outlast).
PAUSE_SECONDS = float(os.environ.get("SWARMLET_TEST_PAUSE_SECONDS", "60"))
#: The agents' default; within it a stopped agent on a living host is not dead.
GRACE_SECONDS = 30.0
#: From SIGKILL to "agent down" everywhere.
AGENT_DOWN_SECONDS_MAX = 8.0
#: A paused host goes on within moments.
WAKE_SECONDS_MAX = 10.0
DIED = "member.died"


def _deaths(cluster: Cluster) -> list[str]:
    """Every line of an agent's log that declares somebody dead."""
    return [
        f"{host.name}: {line}"
        for host in cluster.testbed
        for line in cluster.agent_log(host).splitlines()
        if DIED in line
    ]


def _problems(cluster: Cluster, host: Host) -> dict[str, str]:
    """What a host's `status` complains about, by subject."""
    return {each["Subject"]: each["Problem"] for each in cluster.status(host).get("Problems", [])}


def _wait_named(cluster: Cluster, subject: str, words: str, asked: list[Host]) -> float:
    """Wait until every asked node names the fault; the seconds it took."""
    began = time.monotonic()
    cluster.wait_until(
        lambda: all(words in _problems(cluster, host).get(subject, "") for host in asked),
        NAMED_SECONDS_MAX,
        f"'{subject}: … {words} …' in the status of {[host.name for host in asked]}; "
        f"last: {[_problems(cluster, host) for host in asked]}",
    )
    return time.monotonic() - began


def _wait_clear(cluster: Cluster) -> None:
    cluster.wait_until(
        lambda: not any(_problems(cluster, host) for host in cluster.testbed),
        CLEARED_SECONDS_MAX,
        "nothing to complain about any more",
    )


def _states(cluster: Cluster, host: Host) -> dict[str, str]:
    """The members' states as a host sees them; empty while it does not answer."""
    try:
        found = cluster.api(host, "/v1/swarmlet/members")
    except (unix_http.NoAnswer, unix_http.Refused):
        return {}
    return {member["Name"]: member["State"] for member in found["Members"]}


@pytest.mark.parametrize("is_outward", [True, False], ids=["out", "in"])
def test_datagrams_cut_one_way_are_named_with_their_direction_at_every_node(
    cluster: Cluster, is_outward: bool
) -> None:
    bed = cluster.testbed
    for other in (1, 2):
        ends = (3, other) if is_outward else (other, 3)
        bed.network.drop_udp_one_way(*ends)
    subject = "h3 to h1, h2" if is_outward else "h1, h2 to h3"
    took = _wait_named(cluster, subject, "datagrams (UDP) do not arrive", list(bed))
    print(f"{subject}: named at all three nodes after {took:.1f} s")
    assert set(_states(cluster, bed[1]).values()) == {"alive"}
    assert _deaths(cluster) == []
    bed.network.heal()
    _wait_clear(cluster)


def test_connections_cut_alone_are_named_while_datagrams_keep_the_node_alive(cluster: Cluster) -> None:
    bed = cluster.testbed
    bed.network.drop_tcp(3)
    took = _wait_named(cluster, "h1, h2 to h3", "connections (TCP) fail", list(bed))
    print(f"a cut of TCP alone: named after {took:.1f} s")
    assert _states(cluster, bed[1])["h3"] == "alive"
    assert _deaths(cluster) == []
    bed.network.heal()
    _wait_clear(cluster)


def test_three_packets_in_ten_lost_are_named_and_kill_nobody(cluster: Cluster) -> None:
    bed = cluster.testbed
    bed.network.lose(LOSS_PERCENT)
    began = time.monotonic()
    cluster.wait_until(
        lambda: all("packets get lost" in " ".join(_problems(cluster, host).values()) for host in bed),
        NAMED_SECONDS_MAX,
        "losses in every node's status",
    )
    print(f"{LOSS_PERCENT} % loss: named at all three nodes after {time.monotonic() - began:.1f} s")
    time.sleep(max(0.0, HELD_SECONDS - (time.monotonic() - began)))
    assert _deaths(cluster) == []
    bed.network.heal()
    cluster.wait_until(
        lambda: all(set(_states(cluster, host).values()) == {"alive"} for host in bed),
        CLEARED_SECONDS_MAX,
        "three members alive",
    )
    assert _deaths(cluster) == []


def test_a_slow_network_is_named_with_its_round_trip_and_kills_nobody(cluster: Cluster) -> None:
    bed = cluster.testbed
    bed.network.delay(DELAY_MS)
    began = time.monotonic()
    cluster.wait_until(
        lambda: all("round trips take" in " ".join(_problems(cluster, host).values()) for host in bed),
        NAMED_SECONDS_MAX,
        "long round trips in every node's status",
    )
    print(f"{DELAY_MS:g} ms delay: named at all three nodes after {time.monotonic() - began:.1f} s")
    time.sleep(max(0.0, HELD_SECONDS - (time.monotonic() - began)))
    assert _deaths(cluster) == []
    bed.network.heal()
    cluster.wait_until(
        lambda: all(set(_states(cluster, host).values()) == {"alive"} for host in bed),
        CLEARED_SECONDS_MAX,
        "three members alive",
    )
    assert _deaths(cluster) == []


def test_a_host_that_stands_still_for_a_minute_harms_nobody_when_it_goes_on(cluster: Cluster) -> None:
    bed = cluster.testbed
    still = next(host for host in bed if host is not cluster.wait_leader())
    others = bed.others(still)
    with _paused(still):
        began = time.monotonic()
        cluster.wait_until(
            lambda: all(_states(cluster, host).get(still.name) == "agent down" for host in others),
            AGENT_DOWN_SECONDS_MAX,
            "the paused host's agent to count as down",
        )
        print(f"a paused host: agent down at both others after {time.monotonic() - began:.1f} s")
        _wait_named(cluster, still.name, "agent does not", others)
        while time.monotonic() < began + min(GRACE_SECONDS - 5.0, PAUSE_SECONDS):
            assert all(_states(cluster, host).get(still.name) == "agent down" for host in others)
            time.sleep(1.0)
        assert _deaths(cluster) == []
        time.sleep(max(0.0, began + PAUSE_SECONDS - time.monotonic()))
    cluster.wait_until(
        lambda: all(
            _states(cluster, host) and set(_states(cluster, host).values()) == {"alive"} for host in bed
        ),
        CLEARED_SECONDS_MAX,
        "three members alive again",
    )
    # Nobody but the one that stood still longer than its grace was declared dead, and not by that one.
    for line in _deaths(cluster):
        assert f'"name": "{still.name}"' in line, line
        assert not line.startswith(f"{still.name}:"), line


def test_a_killed_agent_on_a_living_host_is_down_and_not_dead_before_its_grace_is_over(
    cluster: Cluster,
) -> None:
    bed = cluster.testbed
    victim = next(host for host in bed if host is not cluster.wait_leader())
    others = bed.others(victim)
    cluster.kill_agent(victim)
    killed = time.monotonic()
    cluster.wait_until(
        lambda: all(_states(cluster, host).get(victim.name) == "agent down" for host in others),
        AGENT_DOWN_SECONDS_MAX,
        "agent down at both others",
    )
    print(f"a killed agent: down at both others after {time.monotonic() - killed:.1f} s")
    _wait_named(cluster, victim.name, "agent does not", others)
    while time.monotonic() < killed + GRACE_SECONDS / 2:
        assert all(_states(cluster, host).get(victim.name) == "agent down" for host in others)
        time.sleep(1.0)
    assert _deaths(cluster) == []
    cluster.start_agent(victim)
    cluster.wait_until(
        lambda: all(_states(cluster, host).get(victim.name) == "alive" for host in others),
        CLEARED_SECONDS_MAX,
        "the agent to be back",
    )
    _wait_clear(cluster)


@contextmanager
def _paused(host: Host) -> Iterator[None]:
    """SIGSTOP to all that runs on a host, its containers included; its kernel lives, as any paused machine's seems to."""
    pids = _processes(host)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        # `nsenter`, which started them, stops itself when its child stops: it may need to be woken more than once.
        deadline = time.monotonic() + WAKE_SECONDS_MAX
        while stopped := [pid for pid in pids if _is_stopped(pid)]:
            assert time.monotonic() < deadline, f"processes that stay stopped: {stopped}"
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            time.sleep(0.02)


def _is_stopped(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def _processes(host: Host) -> list[int]:
    """Every process of the host's control group, as numbered outside."""
    top = control_groups.ROOT / "pids" / host.group
    found = {int(line) for file in [top, *top.rglob("*")] for line in _lines(file / "cgroup.procs")}
    assert found, f"no process in {top}"
    return sorted(found)


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
