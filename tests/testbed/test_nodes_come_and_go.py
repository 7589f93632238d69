"""Machines that die and come back, and clusters too small to survive that."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.testbed import jobs
from tests.testbed.cluster import Cluster
from tests.testbed.conftest import shown_when_failed
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

WAIT_SECONDS = 40.0
#: When a returned host's duplicates must be gone.
DUPLICATES_SECONDS_MAX = 5.0


@pytest.mark.parametrize("is_leader", [False, True], ids=["follower", "leader"])
def test_the_work_of_a_host_without_power_moves_and_nothing_runs_twice_after_its_return(
    cluster: Cluster, is_leader: bool
) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=6))
    cluster.wait_healthy("web")
    leader = cluster.wait_leader()
    lost = leader if is_leader else bed.others(leader)[0]
    others = bed.others(lost)
    before = cluster.container_ids("web")
    stayed = {each for host in others for each in before[host.name]}

    off_at = lost.power_off()
    cluster.wait_until(
        lambda: sum(len(cluster.containers(host, "web")) for host in others) == 6,
        WAIT_SECONDS,
        "six elsewhere",
    )
    print(f"six of six run elsewhere {time.monotonic() - off_at:.2f} s after the power went")

    lost.power_on()
    cluster.start_agent(lost)
    cluster.wait_until(lambda: cluster.ready_nodes(lost) == ["h1", "h2", "h3"], WAIT_SECONDS, "its return")
    time.sleep(DUPLICATES_SECONDS_MAX)
    running = cluster.container_ids("web")
    assert sum(map(len, running.values())) == 6
    assert stayed <= {each for ids in running.values() for each in ids}, "what was not concerned did not move"
    cluster.wait_running("web", 6)


@pytest.fixture
def couple(pair: Testbed, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of two nodes."""
    with shown_when_failed(Cluster(pair), request) as made:
        made.start()
        yield made


def test_two_nodes_have_one_voter_and_say_that_they_are_not_fault_tolerant(couple: Cluster) -> None:
    bed = couple.testbed
    assert "NOT FAULT TOLERANT" in couple.cli(bed[2], "status", check=True).stdout
    time.sleep(3.0)
    status = couple.status(bed[2])
    assert [node["Name"] for node in status["Nodes"] if node["Voter"]] == ["h1"]
    couple.submit(bed[2], jobs.service("web", count=2))
    couple.wait_healthy("web")

    # The learner's machine may go: its work moves. It comes back as what it was.
    bed[2].power_off()
    couple.wait_until(lambda: len(couple.containers(bed[1], "web")) == 2, WAIT_SECONDS, "both on the voter")
    bed[2].power_on()
    couple.start_agent(bed[2])
    couple.wait_until(lambda: couple.ready_nodes(bed[2]) == ["h1", "h2"], WAIT_SECONDS, "its return")
    time.sleep(DUPLICATES_SECONDS_MAX)
    assert sum(map(len, couple.container_ids("web").values())) == 2

    # Without the only voter nothing can be agreed on, and nothing that runs is touched.
    couple.kill_agent(bed[1])
    done = couple.cli(bed[2], "job", "stop", "web")
    assert done.returncode != 0
    assert "leader" in done.stderr, done.stderr
    assert sum(map(len, couple.container_ids("web").values())) == 2
    couple.start_agent(bed[1])
    couple.wait_until(lambda: couple.ready_nodes(bed[2]) == ["h1", "h2"], WAIT_SECONDS, "the voter's return")
    couple.wait_running("web", 2)
