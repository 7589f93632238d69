"""Whole cores through everything: a job file, the agreed state, a real process, and what the command line shows."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.agents.cluster import local_cluster, raw_exec_job, wait_until

pytestmark = pytest.mark.slow
SCRIPT = "echo $NOMAD_CPU_CORES $NOMAD_CPU_LIMIT $(nproc); exec sleep 1000"


def with_cores(name: str, cores: int) -> str:
    return raw_exec_job(name, SCRIPT).replace("cpu    = 10", f"cores = {cores}")


def test_a_process_has_its_cores_alone_and_the_next_waits_for_them() -> None:
    mine = sorted(os.sched_getaffinity(0))
    with local_cluster() as cluster:
        api = cluster.nodes[0].api
        [row] = cluster.run("first", with_cores("first", 1))
        node: dict[str, Any] = api.get("/v1/node/n1")
        mhz, cpu = node["Cores"]["MHz"], api.get(f"/v1/allocation/{row['ID']}")
        assert node["NodeResources"]["Cpu"]["ReservableCpuCores"] == mine
        assert cpu["AllocatedResources"]["Tasks"]["t"]["Cpu"] == {
            "CpuShares": mhz,
            "ReservedCores": mine[:1],
        }
        query = {"task": "t", "type": "stdout", "plain": "true"}
        said = wait_until(lambda: b"".join(api.stream(f"/v1/client/fs/logs/{row['ID']}", query)))
        assert said.split() == [str(mine[0]).encode(), str(mhz).encode(), b"1"]
        cluster.submit(with_cores("late", len(mine)))
        blocked = wait_until(
            lambda: [each for each in api.get("/v1/evaluations") if each["Status"] == "blocked"]
        )
        assert blocked[0]["FailedTGAllocs"]["g"]["DimensionExhausted"]["cores"] == 1
        api.delete("/v1/job/first")
        wait_until(
            lambda: [
                item for item in api.get("/v1/job/late/allocations") if item["ClientStatus"] == "running"
            ]
        )


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores, to leave one of them")
def test_a_process_without_cores_makes_way_and_gets_them_back() -> None:
    """What runs already, and what starts meanwhile."""
    mine = sorted(os.sched_getaffinity(0))
    with local_cluster() as cluster:
        api = cluster.nodes[0].api

        def allowed(allocation: str) -> list[int]:
            query = {"task": "t", "type": "stdout", "plain": "true"}
            said = b"".join(api.stream(f"/v1/client/fs/logs/{allocation}", query)).split()
            return sorted(os.sched_getaffinity(int(said[0]))) if said else []

        [plain] = cluster.run("plain", raw_exec_job("plain", "echo $$; exec sleep 1000"))
        wait_until(lambda: allowed(plain["ID"]) == mine)
        cluster.run("holder", with_cores("holder", 1))
        wait_until(lambda: allowed(plain["ID"]) == mine[1:])
        [late] = cluster.run("late", raw_exec_job("late", "echo $$; exec sleep 1000"))
        wait_until(lambda: allowed(late["ID"]) == mine[1:])
        api.delete("/v1/job/holder")
        wait_until(lambda: (allowed(plain["ID"]), allowed(late["ID"])) == (mine, mine))
