"""Why something is where it is, over HTTP and on the command line: every node, with its score or the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmlet.errors import InvalidInput, NotFound, Unauthorized
from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.job import Affinity, JobType
from swarmlet.model.node import Eligibility
from swarmlet.scheduler.what_if import WhatIf
from swarmlet.state.command import AllocationReport, UpdateAllocations, UpdateNodeEligibility
from tests.agents.cluster import Cli
from tests.api.trial import Served, served
from tests.scheduler.builders import a_group, a_job, a_node
from tests.scheduler.test_rebalancing import NOW

#: aiohttp would have another kind of key for what the server notes on a request.
pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Served]:
    """One allocation of a job that prefers n1; the other nodes are too small or not eligible."""
    nodes = [
        a_node("n1"),
        a_node("n2"),
        a_node("small", memory=100),
        a_node("away"),
    ]
    trial = WhatIf.invented(nodes, (), NOW)
    away = UpdateNodeEligibility(node_id=NodeId("away"), eligibility=Eligibility.INELIGIBLE)
    trial._submit(away)
    liking = Affinity(left="${node.unique.name}", right="n1", weight=80)
    trial.submit([replace(a_job(a_group(memory=200)), affinities=(liking,))])
    trial.settle()
    with served(trial, tmp_path) as made:
        yield made


def the_allocation(world: Served) -> str:
    (row,) = world.trial.view.allocations()
    return row.id


def the_evaluation(world: Served) -> str:
    return next(iter(world.trial.view.evaluations())).id


def test_an_allocation_is_explained_by_every_nodes_rank_scores_or_reason(world: Served) -> None:
    found = world.api.get(f"/v1/allocation/{the_allocation(world)}/explain")
    assert (found["ID"], found["NodeID"], found["Name"]) == (the_allocation(world), "n1", "shop.web[0]")
    by_node = {each["NodeName"]: each for each in found["Candidates"]}
    assert list(by_node)[:2] == ["n1", "n2"]
    assert [by_node[name]["Rank"] for name in ("n1", "n2")] == [1, 2]
    assert by_node["n1"]["Scores"].keys() == by_node["n2"]["Scores"].keys()
    assert by_node["n1"]["Scores"] != by_node["n2"]["Scores"]
    assert {name: by_node[name]["Rank"] for name in ("small", "away")} == {"small": 0, "away": 0}
    assert "memory" in by_node["small"]["Reason"]
    assert by_node["away"]["Reason"] == "not eligible"


def test_an_evaluation_is_explained_group_by_group(world: Served) -> None:
    found = world.api.get(f"/v1/evaluation/{the_evaluation(world)}/explain")
    assert found["JobID"] == "shop"
    assert [each["NodeName"] for each in found["Groups"]["web"] if each["Rank"]] == ["n1", "n2"]


def test_what_is_not_there_is_not_explained(world: Served) -> None:
    for path in (
        "/v1/allocation/8f3a12cd-0000-0000-0000-000000000000/explain",
        "/v1/evaluation/none/explain",
    ):
        with pytest.raises(NotFound):
            world.api.get(path)


def test_nobody_without_a_token_is_told_anything(world: Served) -> None:
    for path in (f"/v1/allocation/{the_allocation(world)}", f"/v1/evaluation/{the_evaluation(world)}"):
        with pytest.raises(Unauthorized):
            world.as_nobody().get(f"{path}/explain")


def test_a_simulation_is_refused_where_it_names_what_is_not_there(world: Served) -> None:
    with pytest.raises(InvalidInput, match="nobody"):
        world.api.put("/v1/operator/simulate", {"Jobs": [], "Lose": ["nobody"]})
    with pytest.raises(InvalidInput, match="expected 'Jobs'"):
        world.api.put("/v1/operator/simulate", {"Jobs": "web"})


def test_the_command_line_marks_the_node_that_was_taken(world: Served, cli: Cli) -> None:
    said = cli("alloc", "status", the_allocation(world), "--explain")
    assert said.code == 0
    ranked = [line.split() for line in said.out.splitlines() if line.split()[:1] in (["1"], ["2"])]
    assert [line[1:3] for line in ranked] == [["n1", "*"], ["n2", ranked[1][2]]]
    assert "  away: not eligible" in said.out.splitlines()
    assert any(line.startswith("  small: ") and "memory" in line for line in said.out.splitlines())


def test_the_beginning_of_an_id_is_enough_on_the_command_line(world: Served, cli: Cli) -> None:
    whole = the_allocation(world)
    said = cli("alloc", "status", whole[:8], "--explain", "--json")
    assert json.loads(said.out)["ID"] == whole


def test_a_plan_on_the_command_line_explains_before_anything_is_submitted(
    world: Served, cli: Cli, tmp_path: Path
) -> None:
    text = """
    job "new" {
      group "web" {
        task "main" {
          driver = "docker"
          config { image = "web:1" }
          resources {
            cpu    = 100
            memory = 200
          }
        }
      }
    }
    """
    file = tmp_path / "new.hcl"
    file.write_text(text)
    said = cli("job", "plan", str(file), "--explain")
    assert "away: not eligible" in said.out
    assert "RANK" in said.out
    assert [job.id for job in world.trial.view.jobs()] == ["shop"]


def test_a_system_job_wants_one_on_every_node_that_takes_it_not_its_count(tmp_path: Path) -> None:
    nodes = [a_node("n1"), a_node("n2"), a_node("small", memory=100)]
    trial = WhatIf.invented(nodes, (), NOW)
    trial.submit([a_job(a_group(memory=200), kind=JobType.SYSTEM)])
    trial.settle()
    with served(trial, tmp_path) as made:
        group = made.api.get("/v1/job/shop/explain")["Groups"]["web"]
    assert (len(group["Allocations"]), group["Count"]) == (2, 3)


def end(trial: WhatIf, allocation: Allocation, status: ClientStatus = ClientStatus.COMPLETE) -> None:
    """Its node says that it has ended."""
    report = AllocationReport(id=allocation.id, client_status=status)
    trial._submit(
        UpdateAllocations(node_id=allocation.node_id, reports=(report,)), f"node:{allocation.node_id}"
    )
    trial.settle()


def explained(made: Served, capsys: pytest.CaptureFixture[str]) -> list[str]:
    said = Cli(capsys)("--address", made.address, "explain", "shop")
    assert said.code == 0, said
    return said.out.splitlines()


@pytest.fixture
def batch(tmp_path: Path, kind: JobType) -> Iterator[Served]:
    """Two allocations of a job that ends, on two nodes."""
    trial = WhatIf.invented([a_node("n1"), a_node("n2")], (), NOW)
    trial.submit([a_job(a_group(count=2, memory=200), kind=kind)])
    trial.settle()
    with served(trial, tmp_path) as made:
        yield made


@pytest.mark.parametrize("kind", [JobType.BATCH, JobType.SYSBATCH], ids=str)
def test_work_that_has_ended_well_is_complete_and_not_missing(
    batch: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = batch.trial.view.allocations()
    assert "web: 2 of 2" in explained(batch, capsys)
    end(batch.trial, first)
    assert "web: 1 of 2, 1 complete" in explained(batch, capsys)
    end(batch.trial, second)
    assert "web: complete, 2 of 2 ended well" in explained(batch, capsys)


@pytest.mark.parametrize("kind", [JobType.BATCH], ids=str)
def test_what_an_earlier_definition_completed_does_not_count_for_the_new_one(
    batch: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    for item in list(batch.trial.view.allocations()):
        end(batch.trial, item)
    batch.trial.submit([a_job(a_group(count=2, memory=300), kind=JobType.BATCH)])
    batch.trial.settle()
    assert "web: 2 of 2" in explained(batch, capsys)
    batch.trial.stop(Namespace("default"), JobId("shop"))
    batch.trial.settle()
    assert "web: 0 of 0" in explained(batch, capsys)
