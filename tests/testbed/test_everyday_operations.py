"""What an operator does on an ordinary day, on real engines: drain, roll out, stop, restart, leave."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.testbed import jobs
from tests.testbed.cluster import JOB_LABEL, Cluster
from tests.testbed.host import Host
from tests.testbed.watch import RunningWatch

pytestmark = pytest.mark.slow

WAIT_SECONDS = 40.0


def _by_name(cluster: Cluster, host: Host, job: str) -> dict[str, dict[str, Any]]:
    return {each["Name"]: each for each in cluster.allocations(host, job)}


def _task_events(allocation: dict[str, Any]) -> list[str]:
    """Its history; empty until its node has reported."""
    events = allocation["TaskStates"].get("main", {}).get("Events", [])
    return [f"{each['Type']}: {each['DisplayMessage']}" for each in events]


def test_a_drain_starts_the_replacement_first_and_leaves_no_gap(cluster: Cluster) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=3))
    cluster.wait_healthy("web")
    drained = cluster.testbed.others(cluster.wait_leader())[0]
    others = bed.others(drained)
    [original] = cluster.container_ids("web")[drained.name]

    fewest = 3
    with RunningWatch([host.engine for host in bed], f"{JOB_LABEL}=web") as watch:

        def is_moved(running: list[set[str]]) -> bool:
            nonlocal fewest
            fewest = min(fewest, sum(map(len, running)))
            return original in watch.ended

        began = time.monotonic()
        done = cluster.cli(others[0], "node", "drain", drained.name, check=True)
        watch.wait(is_moved, WAIT_SECONDS)
        print(f"drained in {time.monotonic() - began:.1f} s: {done.stdout}")
        assert watch.ended == {original}
    assert fewest == 3
    assert cluster.container_ids("web")[drained.name] == []
    cluster.wait_running("web", 3)
    [node] = [each for each in cluster.api(others[0], "/v1/nodes") if each["Name"] == drained.name]
    assert (node["SchedulingEligibility"], node["Drain"]) == ("ineligible", False)


def test_an_update_replaces_three_replicas_one_after_the_other(cluster: Cluster) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=3, meta="one"))
    cluster.wait_healthy("web")
    before = cluster.container_ids("web")

    fewest, most = 3, 3
    with RunningWatch([host.engine for host in bed], f"{JOB_LABEL}=web") as watch:

        def is_over(running: list[set[str]]) -> bool:
            nonlocal fewest, most
            count = sum(map(len, running))
            fewest, most = min(fewest, count), max(most, count)
            return len(watch.ended) >= 3 and count == 3

        began = time.monotonic()
        cluster.submit(bed[2], jobs.service("web", count=3, meta="two", script=f"true; {jobs.SLEEPER}"))
        watch.wait(is_over, WAIT_SECONDS)
        print(f"three replicas replaced in {time.monotonic() - began:.1f} s; {fewest} to {most} ran")
        cluster.wait_healthy("web", version=1)
        assert watch.ended == {each for ids in before.values() for each in ids}
    assert (fewest, most) == (3, 4)
    assert {each["JobVersion"] for each in cluster.allocations(bed[3], "web")} == {1}


def test_stop_and_restart_of_one_allocation_do_just_that(cluster: Cluster) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=3))
    cluster.wait_healthy("web")
    before = _by_name(cluster, bed[1], "web")

    stopped = before["web.web[0]"]["ID"]
    cluster.cli(bed[2], "alloc", "stop", stopped[:8], check=True)
    cluster.wait_until(
        lambda: _by_name(cluster, bed[1], "web")["web.web[0]"]["ID"] != stopped,
        WAIT_SECONDS,
        "its replacement",
    )
    cluster.wait_running("web", 3)

    restarted = before["web.web[1]"]
    began = restarted["TaskStates"]["main"]["StartedAt"]
    cluster.cli(bed[3], "alloc", "restart", restarted["ID"][:8], check=True)
    cluster.wait_until(
        lambda: _by_name(cluster, bed[1], "web")["web.web[1]"]["TaskStates"]["main"]["StartedAt"] > began,
        WAIT_SECONDS,
        "the task to be restarted",
    )
    cluster.wait_running("web", 3)
    after = _by_name(cluster, bed[1], "web")
    assert after["web.web[1]"]["ID"] == restarted["ID"]
    assert after["web.web[2]"]["TaskStates"] == before["web.web[2]"]["TaskStates"]
    assert any("asked for a restart" in each for each in _task_events(after["web.web[1]"]))


def test_a_task_that_takes_too_much_memory_is_reported_as_out_of_memory(cluster: Cluster) -> None:
    bed = cluster.testbed
    hungry = "tail /dev/zero"
    cluster.submit(bed[1], jobs.service("hungry", script=hungry, memory=12))

    def is_told() -> bool:
        return any(
            "out of memory at its limit of 12 MiB" in event
            for each in cluster.allocations(bed[2], "hungry", every=True)
            for event in _task_events(each)
        )

    cluster.wait_until(is_told, WAIT_SECONDS, "the task's history to say why it died")
    cluster.wait_until(
        lambda: "out of memory" in cluster.cli(bed[3], "explain", "hungry", check=True).stdout,
        WAIT_SECONDS,
        "explain to name the reason",
    )


def test_a_node_that_leaves_hands_its_work_over_and_is_forgotten_by_consensus(cluster: Cluster) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=3))
    cluster.wait_healthy("web")
    leaving = cluster.wait_leader()
    others = bed.others(leaving)

    began = time.monotonic()
    cluster.cli(leaving, "leave", check=True)
    print(f"the leader left in {time.monotonic() - began:.1f} s")
    assert cluster.containers(leaving, "web") == []
    cluster.wait_until(
        lambda: sum(len(cluster.containers(host, "web")) for host in others) == 3,
        WAIT_SECONDS,
        "its work elsewhere",
    )
    cluster.wait_until(
        lambda: cluster.ready_nodes(others[0]) == [host.name for host in others], WAIT_SECONDS, "two nodes"
    )
    peers = cluster.json(others[0], "operator", "raft", "list-peers")
    assert leaving.name not in str(peers)
    cluster.wait_until(lambda: not cluster.agent_runs(leaving), WAIT_SECONDS, "its agent to end")

    # It may come again, as a new node of the same name.
    cluster.join(leaving, others[0])
    cluster.wait_until(
        lambda: cluster.ready_nodes(leaving) == [host.name for host in bed], WAIT_SECONDS, "it to be back"
    )
    cluster.wait_fault_tolerant()
    cluster.wait_running("web", 3)


def test_work_that_found_no_room_starts_when_room_comes(cluster: Cluster) -> None:
    bed = cluster.testbed
    [node] = [each for each in cluster.api(bed[1], "/v1/nodes") if each["Name"] == "h1"]
    detail = cluster.api(bed[1], f"/v1/node/{node['ID']}")
    room = detail["NodeResources"]["Cpu"]["CpuShares"] - detail["ReservedResources"]["Cpu"]["CpuShares"]
    # More than half of a node each: one per node.
    large = room * 6 // 10
    cluster.submit(bed[1], jobs.service("first", count=3, cpu=large))
    cluster.wait_healthy("first")
    cluster.submit(bed[1], jobs.service("second", cpu=large))
    cluster.wait_until(
        lambda: "cpu" in cluster.cli(bed[2], "explain", "second", check=True).stdout.lower(),
        WAIT_SECONDS,
        "the reason to be told",
    )
    explained = cluster.cli(bed[2], "explain", "second", check=True).stdout
    print(explained)
    assert cluster.allocations(bed[1], "second") == []
    began = time.monotonic()
    cluster.cli(bed[3], "job", "stop", "first", check=True)
    cluster.wait_running("second", 1)
    print(f"the blocked job ran {time.monotonic() - began:.1f} s after room came")


def test_a_rollout_and_a_drain_go_on_when_the_leader_is_killed_in_their_midst(cluster: Cluster) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=6, meta="one"))
    cluster.wait_healthy("web")
    before = {each for ids in cluster.container_ids("web").values() for each in ids}
    leader = cluster.wait_leader()
    drained, asked = bed.others(leader)

    fewest = 6
    with RunningWatch([host.engine for host in bed], f"{JOB_LABEL}=web") as watch:

        def has_begun(running: list[set[str]]) -> bool:
            nonlocal fewest
            fewest = min(fewest, sum(map(len, running)))
            return bool(watch.ended)

        def is_over(running: list[set[str]]) -> bool:
            nonlocal fewest
            fewest = min(fewest, sum(map(len, running)))
            on_drained = running[list(bed).index(drained)]
            return before <= watch.ended and not on_drained and sum(map(len, running)) == 6

        cluster.submit(asked, jobs.service("web", count=6, meta="two", script=f"true; {jobs.SLEEPER}"))
        cluster.cli(asked, "node", "drain", "--detach", drained.name, check=True)
        watch.wait(has_begun, WAIT_SECONDS)
        killed_at = time.monotonic()
        cluster.kill_agent(leader)
        cluster.wait_until(
            lambda: cluster.leader([asked, drained]) not in {None, leader}, WAIT_SECONDS, "a leader"
        )
        cluster.start_agent(leader)
        watch.wait(is_over, 2 * WAIT_SECONDS)
        print(f"done {time.monotonic() - killed_at:.1f} s after the leader was killed; at least {fewest} ran")
    assert fewest == 6
    cluster.wait_running("web", 6)
    assert {each["JobVersion"] for each in cluster.allocations(asked, "web")} == {1}
