"""Links that lose packets and networks that fall apart: nothing is moved for a rumour, and one side goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.testbed import jobs, unix_http
from tests.testbed.cluster import JOB_LABEL, Cluster
from tests.testbed.conftest import shown_when_failed
from tests.testbed.images import GoldenData
from tests.testbed.testbed import Testbed
from tests.testbed.watch import RunningWatch

pytestmark = pytest.mark.slow

WAIT_SECONDS = 40.0
LOSSY_SECONDS = 20.0
LOSS_PERCENT = 10
PARTED_SECONDS = 12.0


def _all(cluster: Cluster) -> list[str]:
    return [each for ids in cluster.container_ids().values() for each in ids]


def test_a_network_that_loses_a_tenth_of_all_packets_moves_nothing(cluster: Cluster) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=6))
    cluster.wait_healthy("web")
    containers = cluster.container_ids()
    with RunningWatch([host.engine for host in bed], JOB_LABEL) as watch:
        bed.network.lose(LOSS_PERCENT)
        time.sleep(LOSSY_SECONDS)
        cluster.submit(bed[2], jobs.service("later"))
        bed.network.heal()
        cluster.wait_running("later", 1)
        assert watch.ended == set()
    for name, ids in containers.items():
        assert set(ids) <= set(cluster.container_ids()[name])


def test_a_follower_that_cannot_reach_the_leader_alone_still_gets_and_tells_its_work(
    cluster: Cluster,
) -> None:
    bed = cluster.testbed
    leader = cluster.wait_leader()
    apart, between = bed.others(leader)
    bed.network.cut_between(leader.number, apart.number)
    time.sleep(3.0)
    began = time.monotonic()
    cluster.submit(between, jobs.service("web", count=3))
    cluster.wait_until(
        lambda: sum(map(len, cluster.container_ids("web").values())) == 3, WAIT_SECONDS, "three replicas"
    )
    cluster.wait_running("web", 3)
    print(f"three replicas ran {time.monotonic() - began:.1f} s after the job, with one link cut")
    bed.network.heal()
    cluster.wait_running("web", 3)


@pytest.fixture
def five(golden_data: GoldenData, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of five nodes."""
    with (
        Testbed(hosts=5, golden=golden_data) as bed,
        shown_when_failed(Cluster(bed), request) as made,
    ):
        made.start()
        made.wait_fault_tolerant()
        yield made


def test_when_two_of_five_are_parted_with_the_leader_the_three_go_on_and_replace_nothing_in_haste(
    five: Cluster,
) -> None:
    bed = five.testbed
    five.submit(bed[1], jobs.service("web", count=5))
    five.wait_healthy("web")
    leader = five.wait_leader()
    voters = [node["Name"] for node in five.status(leader)["Nodes"] if node["Voter"]]
    other = next(host for host in bed.others(leader) if host.name not in voters)
    minority = [leader, other]
    majority = bed.others(*minority)

    with RunningWatch([host.engine for host in bed], JOB_LABEL) as watch:
        parted_at = time.monotonic()
        for one in minority:
            for another in majority:
                bed.network.cut_between(one.number, another.number)
        five.wait_until(lambda: five.leader(majority) in majority, WAIT_SECONDS, "a leader of three")
        print(f"a new leader after {time.monotonic() - parted_at:.2f} s")
        with pytest.raises(unix_http.Refused):
            five.submit(other, jobs.service("unheard"))
        time.sleep(PARTED_SECONDS)
        # Two of five dead at once is not two dead machines: replacement waits a minute, and status says so.
        now_leads = five.leader(majority)
        assert now_leads is not None
        status = five.cli(now_leads, "status").stdout
        print(status)
        assert "nothing is replaced yet" in status
        # They fall silent one after the other, and the first waits for what becomes of the second. Only where the second
        # is not even suspected by then is one replaced, never both.
        for host in majority:
            said = {each["Subject"]: each["Problem"] for each in five.status(host)["Problems"]}
            assert {each.name for each in minority} <= set(said)
            assert any("silent" in said[each.name] for each in minority)
        bed.network.heal()
        five.wait_until(
            lambda: all(len(five.ready_nodes(host)) == 5 for host in bed), WAIT_SECONDS, "five nodes again"
        )
        five.wait_running("web", 5)
        time.sleep(3.0)
        assert len(watch.started) <= 1, "at most the first was replaced"
        assert len(watch.ended) == len(watch.started), "what was started too much is all that ended"
    assert len(_all(five)) == 5
