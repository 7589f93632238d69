"""Voters that lose power are replaced by those that are left, and the cluster survives the next loss."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.testbed.cluster import Cluster
from tests.testbed.conftest import shown_when_failed
from tests.testbed.host import Host
from tests.testbed.images import GoldenData
from tests.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

WAIT_SECONDS = 60.0


@pytest.fixture
def four(golden_data: GoldenData, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Four nodes, of which three vote: which ones depends on who was there when the voters were chosen."""
    with Testbed(hosts=4, golden=golden_data) as bed:
        options = {}
        for host, zone in zip(bed, ("a", "b", "c", "c"), strict=True):
            path = host.root / "node.toml"
            path.write_text(f'zone = "{zone}"\n')
            options[host.name] = ["--config", str(path), "--no-docker"]
        with shown_when_failed(Cluster(bed), request) as made:
            made.start(options)
            made.wait_until(lambda: len(voters(made, bed[1])) == 3, WAIT_SECONDS, "three voters")
            yield made


def voters(cluster: Cluster, asked: Host) -> list[str]:
    """Who votes, by the leader's word; empty while no leader answers."""
    done = cluster.cli(asked, "operator", "raft", "list-peers", "--json")
    if done.returncode:
        return []
    seen = cluster.json(asked, "operator", "raft", "list-peers")
    return sorted(item["Node"] for item in seen["Servers"] if item["Voter"]) if seen["FromLeader"] else []


def write(cluster: Cluster, asked: Host, name: str) -> None:
    """Raises when it is not acknowledged."""
    cluster.api(asked, "/v1/namespace", method="PUT", body={"Name": name}, seconds=15.0)


@pytest.mark.parametrize("is_leader", [False, True], ids=["follower", "leader"])
def test_a_voter_without_power_is_replaced_and_the_next_loss_is_survived(
    four: Cluster, is_leader: bool
) -> None:
    cluster, bed = four, four.testbed
    at_first = voters(cluster, bed[1])
    assert len(at_first) == 3
    leader = cluster.wait_leader()
    candidates = [host for host in bed if host.name in at_first and host is not leader]
    lost = leader if is_leader else candidates[0]
    spare = next(host for host in bed if host.name not in at_first)
    asked = next(host for host in bed if host not in (lost, leader))
    write(cluster, asked, "before")

    off_at = lost.power_off()
    wanted = sorted({*at_first, spare.name} - {lost.name})
    cluster.wait_until(lambda: voters(cluster, asked) == wanted, WAIT_SECONDS, f"{wanted} to vote")
    print(
        f"{spare.name} votes in the place of {lost.name} {time.monotonic() - off_at:.2f} s after the power went"
    )
    write(cluster, asked, "between")

    # Without the replacement two of three would be gone now.
    second = next(host for host in bed if host.name in wanted and host not in (asked, cluster.wait_leader()))
    second.power_off()
    cluster.wait_until(lambda: cluster.leader([asked]) is not None, WAIT_SECONDS, "a leader")
    write(cluster, asked, "after")

    # Who returns is a learner that takes a free place again: never fewer than three voters, and none lost.
    lost.power_on()
    cluster.start_agent(lost)
    cluster.wait_until(
        lambda: lost.name in voters(cluster, asked) and len(voters(cluster, asked)) == 3,
        WAIT_SECONDS,
        "its vote",
    )
    names = {item["Name"] for item in cluster.api(asked, "/v1/namespaces")}
    assert {"before", "between", "after"} <= names
