"""Whole cores over HTTP, in Nomad's shape, and on the command line: which a node has, and which a task holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from swarmlet.errors import SwarmletError
from swarmlet.jobspec import job_to_json
from swarmlet.scheduler.what_if import WhatIf
from tests.agents.cluster import Cli
from tests.api.trial import Served, served
from tests.scheduler.builders import a_group, a_job, a_node
from tests.scheduler.test_cores import asking, with_cores
from tests.scheduler.test_rebalancing import NOW

#: aiohttp would have another kind of key for what the server notes on a request.
pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Served]:
    node = replace(with_cores("n1", 8), cores=(1, 2, 3, 5), attributes={"cpu.numcores": "8"})
    trial = WhatIf.invented([node, a_node("n2")], (), NOW)
    trial.submit([a_job(asking(3)), a_job(a_group(), name="plain")])
    trial.settle()
    trial.submit([a_job(asking(2), name="late")])
    trial.settle()
    with served(trial, tmp_path) as made:
        yield made


def test_a_node_shows_its_cores_and_which_are_taken(world: Served) -> None:
    found = world.api.get("/v1/node/n1")
    assert found["NodeResources"]["Cpu"] == {
        "CpuShares": 8_000,
        "TotalCpuCores": 8,
        "ReservableCpuCores": [1, 2, 3, 5],
    }
    assert found["Cores"] == {"Reservable": "1-3,5", "Taken": "1-3", "MHz": 1_000}
    assert world.api.get("/v1/node/n2")["Cores"] == {"Reservable": "", "Taken": "", "MHz": 0}


def test_an_allocation_shows_the_cores_that_each_task_holds(world: Served) -> None:
    rows: dict[str, Any] = {
        row.job_id: world.api.get(f"/v1/allocation/{row.id}") for row in world.trial.view.allocations()
    }
    held = rows["shop"]
    assert held["AllocatedResources"]["Tasks"]["main"]["Cpu"] == {
        "CpuShares": 3_000,
        "ReservedCores": [1, 2, 3],
    }
    assert (held["Resources"]["CPU"], held["Resources"]["Cores"]) == (3_000, 3)
    assert rows["plain"]["AllocatedResources"]["Tasks"]["main"]["Cpu"] == {
        "CpuShares": 100,
        "ReservedCores": None,
    }


def test_what_waits_for_cores_says_so(world: Served, cli: Cli) -> None:
    (blocked,) = [each for each in world.api.get("/v1/evaluations") if each["Status"] == "blocked"]
    failure = blocked["FailedTGAllocs"]["web"]
    assert failure["DimensionExhausted"] == {"cores": 2}
    assert (failure["Shortage"], failure["Demand"]["Cores"]) == ({"cores": 1}, 2)
    lines = cli("explain", "late").out
    assert "cores short by 1" in lines


def test_the_command_line_shows_them_too(world: Served, cli: Cli) -> None:
    lines = cli("node", "status", "n1").out.splitlines()
    assert "cores     1-3,5 may be reserved, 1000 MHz each; taken are 1-3" in lines
    (row,) = (row for row in world.trial.view.allocations() if row.job_id == "shop")
    assert "cores      main: 1-3" in cli("alloc", "status", row.id).out.splitlines()


def test_a_job_with_both_cpu_and_cores_is_refused_by_name(world: Served) -> None:
    body = job_to_json(a_job(asking(2), name="both"))
    body["TaskGroups"][0]["Tasks"][0]["Resources"]["CPU"] = 500
    with pytest.raises(SwarmletError, match="CPU = 500 and Cores = 2 are both set"):
        world.api.put("/v1/jobs", {"Job": body})
