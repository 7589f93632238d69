"""What-if: the real scheduler on an invented cluster, its losses, and its waits."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.job import Job, JobType, Spread, UpdateStrategy
from swarmlet.model.node import Node
from swarmlet.scheduler.what_if import Standing, WhatIf, explained
from swarmlet.state.command import AllocationReport, UpdateAllocations
from tests.scheduler.builders import a_group, a_job, a_node

NOW = 1_000_000 * 10**9


def trial(nodes: Iterable[Node], *jobs: Job) -> WhatIf:
    made = WhatIf.invented(nodes, (), NOW)
    made.submit(jobs)
    made.settle()
    return made


def standing(what_if: WhatIf, group: str = "web", job: str = "shop") -> Standing:
    return what_if.standings()[Namespace("default"), JobId(job), group]


def zones(*names: str) -> list[Node]:
    return [replace(a_node(f"n{number}"), zone=zone) for number, zone in enumerate(names)]


def test_jobs_are_placed_and_what_does_not_fit_waits_with_its_reason() -> None:
    what_if = trial(zones("a", "b"), a_job(a_group(count=3, memory=5000)))
    found = standing(what_if)
    assert (found.wanted, [node for _, node in found.places], found.waiting) == (3, ["n0", "n1"], 1)
    assert found.failure is not None
    assert found.failure.dimension_exhausted == {"memory": 2}


def test_after_a_loss_what_has_room_moves_and_the_rest_survives_in_place() -> None:
    group = replace(a_group(count=4, memory=1000), spreads=(Spread(attribute="${node.zone}"),))
    what_if = trial(zones("a", "a", "b", "b"), a_job(group))
    before = standing(what_if)
    what_if.lose([NodeId("n0"), NodeId("n1")])
    what_if.settle()
    after = standing(what_if)
    assert len(set(before.places) & set(after.places)) == 2
    assert {node for _, node in after.places} == {"n2", "n3"}
    assert len(after.places) == 4


def test_a_new_version_is_rolled_out_to_its_end() -> None:
    what_if = trial(zones("a", "b", "c"), a_job(a_group(count=3)))
    what_if.submit([a_job(a_group(count=3, image="web:2"))])
    what_if.settle()
    rows = [each for each in what_if.view.allocations() if not each.is_terminal()]
    assert [each.job_version for each in rows] == [1, 1, 1]


def test_a_version_that_is_tried_on_canaries_is_promoted_and_rolled_out_to_its_end() -> None:
    update = UpdateStrategy(canary=2)
    what_if = trial(zones("a", "b", "c"), a_job(a_group(count=3, update=update)))
    what_if.submit([a_job(a_group(count=3, image="web:2", update=update))])
    what_if.settle()
    rows = [each for each in what_if.view.allocations() if not each.is_terminal()]
    assert [each.job_version for each in rows] == [1, 1, 1]
    assert standing(what_if).sentence == ""


def test_more_important_jobs_submitted_later_find_what_is_left() -> None:
    what_if = trial(zones("a"), a_job(a_group(memory=6000)), a_job(a_group(memory=6000), name="late"))
    assert (len(standing(what_if).places), len(standing(what_if, job="late").places)) == (1, 0)


def test_system_jobs_count_nodes() -> None:
    what_if = trial(zones("a", "b"), a_job(kind=JobType.SYSTEM))
    assert standing(what_if).wanted == 2
    what_if.add_nodes([a_node("fresh")])
    what_if.settle()
    assert {node for _, node in standing(what_if).places} == {"n0", "n1", "fresh"}


def test_an_allocation_is_explained_as_if_it_were_not_there() -> None:
    what_if = trial([a_node("n0", memory=1000)], a_job(a_group(memory=900)))
    view = what_if.view
    job = view.job(Namespace("default"), JobId("shop"))
    assert job is not None
    (row,) = view.allocations()
    assert explained(view, job, "web")[0].reason == "memory short by 800 MiB"
    assert explained(view, job, "web", row)[0].rank == 1


def test_a_service_that_ended_has_no_place_and_batch_work_that_ended_well_keeps_its_own() -> None:
    for kind, places in ((JobType.SERVICE, 1), (JobType.BATCH, 2)):
        what_if = trial(zones("a", "b"), a_job(a_group(count=2), kind=kind))
        ended = next(iter(what_if.view.allocations()))
        report = AllocationReport(id=ended.id, client_status=ClientStatus.COMPLETE)
        body = UpdateAllocations(node_id=ended.node_id, reports=(report,))
        what_if._submit(body, f"node:{ended.node_id}")
        assert len(standing(what_if).places) == places
