"""An agent that dies on a living host and comes back: nothing that runs notices."""

from __future__ import annotations

import time

import pytest

from tests.testbed import jobs
from tests.testbed.cluster import JOB_LABEL, Cluster
from tests.testbed.host import Host
from tests.testbed.watch import RunningWatch

pytestmark = pytest.mark.slow

#: Longer than any suspicion, shorter than the promise.
AWAY_SECONDS = 6.0
#: What would be replaced or stopped by mistake is, this long after the return.
AFTERMATH_SECONDS = 4.0


def _placements(cluster: Cluster, host: Host, job: str) -> list[tuple[str, str, str]]:
    return [
        (each["Name"], each["ID"], each["NodeName"]) for each in cluster.allocations(host, job, every=True)
    ]


@pytest.mark.parametrize("is_leader", [False, True], ids=["follower", "leader"])
def test_no_container_restarts_or_moves_when_an_agent_is_killed_and_returns(
    cluster: Cluster, is_leader: bool
) -> None:
    cluster.submit(cluster.testbed[1], jobs.service("web", count=6))
    cluster.wait_running("web", 6)
    leader = cluster.wait_leader()
    victim = leader if is_leader else cluster.testbed.others(leader)[0]
    witness = cluster.testbed.others(victim)[0]
    containers = cluster.container_ids()
    placements = _placements(cluster, witness, "web")
    assert len(containers[victim.name]) == 2

    with RunningWatch([host.engine for host in cluster.testbed], JOB_LABEL) as watch:
        killed_at = time.monotonic()
        cluster.kill_agent(victim)
        time.sleep(AWAY_SECONDS)
        assert _placements(cluster, witness, "web") == placements
        cluster.start_agent(victim)
        cluster.wait_until(
            lambda: len(cluster.ready_nodes(victim)) == 3, 30.0, "the agent to see every node ready"
        )
        print(
            f"the agent ({'leader' if is_leader else 'follower'}) was away for {time.monotonic() - killed_at:.1f} s"
        )
        time.sleep(AFTERMATH_SECONDS)

        assert watch.ended == set()
    assert cluster.container_ids() == containers
    assert _placements(cluster, witness, "web") == placements
    for each in cluster.allocations(victim, "web"):
        assert each["ClientStatus"] == "running"
        assert each["TaskStates"]["main"]["Restarts"] == 0


def test_a_task_that_ends_while_its_agent_is_away_is_restarted_by_the_next_agent(cluster: Cluster) -> None:
    cluster.submit(cluster.testbed[1], jobs.service("web", count=3))
    cluster.wait_running("web", 3)
    victim = cluster.testbed.others(cluster.wait_leader())[0]
    [container] = cluster.container_ids()[victim.name]
    [before] = [
        each for each in cluster.allocations(cluster.testbed[1], "web") if each["NodeName"] == victim.name
    ]

    cluster.kill_agent(victim)
    victim.engine.kill(container)
    cluster.start_agent(victim)
    cluster.wait_running("web", 3)

    [after] = [
        each for each in cluster.allocations(cluster.testbed[1], "web") if each["NodeName"] == victim.name
    ]
    assert after["ID"] == before["ID"]
    assert after["TaskStates"]["main"]["Restarts"] == 1
