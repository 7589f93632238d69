"""The whole loop, from a registered job to what runs, through failures: state, scheduler and leader together."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from swarmlet.ids import NodeId
from swarmlet.model.deployment import DeploymentStatus
from swarmlet.model.evaluation import EvaluationStatus
from swarmlet.model.job import UpdateStrategy
from swarmlet.model.node import NodeStatus
from swarmlet.model.resources import Port
from swarmlet.state import command as commands
from tests.leader.miniature import Miniature
from tests.scheduler.builders import a_group, a_job, a_node

HOSTS = ("n1", "n2", "n3")


def a_miniature(*names: str, volumes: tuple[str, ...] = (), memory: int = 8000) -> Miniature:
    world = Miniature(*(a_node(name, volumes=volumes, memory=memory) for name in names or HOSTS))
    world.tick(2)
    return world


def test_a_job_runs_and_its_deployment_succeeds() -> None:
    world = a_miniature()
    world.register(a_job(a_group(count=3)))
    world.tick(15)
    assert world.problems() == []
    assert sorted(node for _, node, _ in world.running()) == list(HOSTS)
    assert [each.status for each in world.view.deployments()] == [DeploymentStatus.SUCCESSFUL]
    assert world.job().is_stable


def test_a_cluster_at_rest_makes_no_plans() -> None:
    world = a_miniature()
    world.register(a_job(a_group(count=3)))
    world.tick(60)
    plans, index = world.plans, world.index
    world.tick(300)
    assert (world.plans, world.index) == (plans, index)


def test_a_dead_nodes_work_runs_elsewhere_within_two_looks_and_duplicates_end() -> None:
    world = a_miniature()
    world.register(a_job(a_group(count=6)))
    world.tick(30)
    world.cut("n2")
    world.tick(2)
    elsewhere = [index for index, node, _ in world.running() if node != "n2"]
    assert elsewhere == list(range(6))
    world.tick(30)
    world.heal("n2")
    world.tick(3)
    assert [index for index, _, _ in world.running()] == list(range(6))
    assert world.problems() == []


def test_a_short_absence_keeps_the_originals() -> None:
    world = a_miniature()
    world.register(a_job(a_group(count=3)))
    world.tick(30)
    before = world.running()
    world.cut("n2")
    world.tick(3)
    world.heal("n2")
    world.tick(5)
    assert world.running() == before


def test_data_waits_for_its_node() -> None:
    world = a_miniature(volumes=("data",))
    world.register(a_job(a_group(count=3, volume="data")))
    world.tick(30)
    before = world.running()
    world.cut("n2")
    world.tick(60)
    assert world.running() == before
    sentences = [each.waiting["web"] for each in world.view.evaluations() if each.waiting]
    assert "waits for node n2 (its data is there)" in sentences[-1]
    world.heal("n2")
    world.tick(5)
    assert world.problems() == []


def test_a_rollout_reaches_every_replica_and_never_lacks_one() -> None:
    world = a_miniature()
    world.register(a_job(a_group(count=3)))
    world.tick(30)
    world.register(a_job(a_group(count=3, image="web:2")))
    for _ in range(120):
        world.tick()
        assert len({index for index, _, _ in world.running()}) == 3
    assert world.problems() == []


def test_a_bad_version_is_reverted_by_itself() -> None:
    world = a_miniature()
    world.register(a_job(a_group(count=3)))
    world.tick(30)
    before = [(index, node) for index, node, _ in world.running()]
    world.broken_images.add("web:bad")
    world.register(a_job(a_group(count=3, image="web:bad")))
    world.tick(60)
    assert world.job().groups[0].tasks[0].config["image"] == "web:1"
    assert world.problems() == []
    assert [(index, node) for index, node, _ in world.running()] == before


def test_a_first_version_that_fails_is_tried_again_until_it_works() -> None:
    world = a_miniature()
    world.broken_images.add("web:1")
    world.register(a_job(a_group(count=1)))
    world.tick(20)
    assert world.running() == []
    world.broken_images.clear()
    world.tick(60)
    assert world.problems() == []


def test_work_that_does_not_fit_starts_when_a_node_comes() -> None:
    world = a_miniature("n1", memory=1000)
    world.register(a_job(a_group(count=3, memory=600)))
    world.tick(30)
    assert len(world.running()) == 1
    (blocked,) = world.view.open_evaluations()
    assert blocked.status is EvaluationStatus.BLOCKED
    for name in ("n2", "n3"):
        world.hosts[NodeId(name)] = type(world.hosts[NodeId("n1")])(a_node(name, memory=1000))
        world.do(commands.RegisterNode(node=a_node(name, memory=1000)))
    world.tick(30)
    assert world.problems() == []
    assert list(world.view.open_evaluations()) == []


def test_work_that_does_not_fit_starts_when_other_work_ends() -> None:
    world = a_miniature("n1", memory=1000)
    world.register(a_job(a_group(memory=900), name="first"))
    world.tick(15)
    world.register(a_job(a_group(memory=900)))
    world.tick(15)
    assert world.running() == []
    world.do(commands.DeregisterJob(namespace=world.job().namespace, job_id=world.job("first").id))
    world.tick(5)
    assert len(world.running()) == 1


def test_a_drained_node_is_empty_and_nothing_was_missing_meanwhile() -> None:
    world = a_miniature()
    world.register(a_job(a_group(count=6)))
    world.tick(30)
    world.drain("n1")
    for _ in range(90):
        world.tick()
        assert len({index for index, _, _ in world.running()}) == 6
    node = world.view.node(NodeId("n1"))
    assert node is not None
    assert node.drain is None
    assert {name for _, name, _ in world.running()} == {"n2", "n3"}
    assert world.problems() == []


def test_a_drain_moves_even_a_group_with_data() -> None:
    world = a_miniature(volumes=("data",))
    world.register(a_job(a_group(count=1, volume="data")))
    world.tick(30)
    home = world.running()[0][1]
    world.drain(home)
    world.tick(30)
    assert world.problems() == []
    assert world.running()[0][1] != home


def test_an_update_of_a_group_with_data_stays_on_its_node() -> None:
    world = a_miniature(volumes=("data",))
    world.register(a_job(a_group(count=2, volume="data")))
    world.tick(30)
    homes = [(index, node) for index, node, _ in world.running()]
    world.register(a_job(a_group(count=2, volume="data", image="web:2")))
    world.tick(60)
    assert world.problems() == []
    assert [(index, node) for index, node, _ in world.running()] == homes


def test_two_leaders_one_after_the_other_make_one_rollout() -> None:
    """The new leader has only the state: it goes on where the old one stopped."""
    world = a_miniature()
    world.register(a_job(a_group(count=3)))
    world.tick(30)
    world.register(a_job(a_group(count=3, image="web:2")))
    for _ in range(12):
        world.tick(5)
        world.change_leader()
    world.tick(30)
    assert world.problems() == []
    assert [each.status for each in world.view.deployments()] == [DeploymentStatus.SUCCESSFUL] * 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_after_any_troubles_the_cluster_heals(seed: int) -> None:
    """Jobs come and change, hosts are cut and drained, images break; then all is well again and stays so."""
    rng = random.Random(seed)
    world = a_miniature("n1", "n2", "n3", "n4", "n5", memory=20_000)
    for _ in range(25):
        _trouble(world, rng)
        world.tick(rng.choice((1, 2, 5, 15)))
    world.broken_images.clear()
    for name, host in world.hosts.items():
        host.is_reachable = True
        world.end_drain(name)
    world.tick(900)
    assert world.problems() == []
    assert [each.wait_until_ns for each in world.view.open_evaluations()] == []
    assert all(node.status is NodeStatus.READY for node in world.view.nodes())


def _trouble(world: Miniature, rng: random.Random) -> None:
    name = rng.choice(sorted(world.hosts))
    match rng.choice(
        ("job", "job", "job", "stop", "cut", "heal", "heal", "drain", "end", "break", "mend", "leader")
    ):
        case "job":
            job_name, static = rng.choice((("shop", 8080), ("blog", 8081)))
            group = a_group(
                count=rng.randint(0, 5),
                image=rng.choice(("web:1", "web:2", "web:3")),
                memory=rng.choice((100, 500, 1500)),
                update=UpdateStrategy(max_parallel=rng.choice((0, 1, 2))),
                ports=rng.choice(((), (Port(label="http"),), (Port(label="http", static=static),))),
            )
            world.register(replace(a_job(group, name=job_name), priority=rng.choice((40, 60))))
        case "stop":
            jobs = [job for job in world.view.jobs() if not job.is_stopped]
            if jobs:
                job = rng.choice(jobs)
                world.do(commands.DeregisterJob(namespace=job.namespace, job_id=job.id))
        case "cut":
            world.cut(name)
        case "heal":
            world.heal(name)
        case "drain":
            world.drain(name)
        case "end":
            world.end_drain(name)
        case "break":
            world.broken_images.add(rng.choice(("web:2", "web:3")))
        case "leader":
            world.change_leader()
        case "mend":
            world.broken_images.clear()
