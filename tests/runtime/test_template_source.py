"""What a task's templates see of the replicated state: its own variables, and services of its namespace."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmlet.errors import InvalidInput
from swarmlet.ids import JobId, Namespace
from swarmlet.model.allocation import Canary, ClientStatus
from swarmlet.model.job import Job, Service, Task, UpdateStrategy
from swarmlet.model.resources import Port
from swarmlet.model.variable import Variable, VariableKey
from swarmlet.runtime.template_source import Reader, ReplicaLookups, instances_of, readable
from swarmlet.state import command as commands
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node
from tests.state.replica import DEFAULT, Replica, group, job, node

OTHER = Namespace("other")
READER = Reader(namespace=DEFAULT, job=JobId("shop"), group="web", task="main")


def opened(variable: Variable) -> dict[str, str]:
    return {"at": variable.path}


@pytest.fixture
def replica() -> Replica:
    made = Replica("a", "b")
    made.ok(commands.AddVariableKey(key=VariableKey(id=1, sealed=b"")))
    made.ok(commands.UpsertNamespace(name=OTHER))
    return made


def put(replica: Replica, *paths: str, namespace: Namespace = DEFAULT) -> None:
    for path in paths:
        replica.ok(commands.PutVariable(namespace=namespace, path=path, key_id=1, sealed=b"x"))


def lookups(replica: Replica, reader: Reader = READER) -> ReplicaLookups:
    return ReplicaLookups(replica.state, reader, {"A": "1"}, opened)


def test_a_task_sees_its_jobs_variables_and_no_others(replica: Replica) -> None:
    two = replace(group("web"), tasks=(*group("web").tasks, Task(name="side", driver="docker")))
    replica.ok(commands.RegisterJob(job=job("shop", two, group("db"))))
    replica.ok(commands.RegisterJob(job=job("shop/deep")))
    mine = (
        "nomad/jobs",
        "nomad/jobs/shop",
        "nomad/jobs/shop/runtime",
        "nomad/jobs/shop/web",
        "nomad/jobs/shop/web/main",
    )
    others = (
        "nomad/jobs/shop/db",
        "nomad/jobs/shop/web/side",
        "nomad/jobs/shop/deep",
        "nomad/jobs/shop/deep/x",
        "nomad/jobs/shopping",
        "elsewhere",
    )
    put(replica, *mine, *others)
    put(replica, "nomad/jobs/shop", namespace=OTHER)
    assert [row.path for row in readable(replica.state, READER)] == list(mine)
    seen = lookups(replica)
    assert seen.variable_paths("nomad/jobs/shop/") == list(mine[2:])
    assert seen.variable("nomad/jobs/shop/runtime") == {"at": "nomad/jobs/shop/runtime"}
    for path in others:
        with pytest.raises(
            InvalidInput, match=f"task main may not read variable {path}; it may read nomad/jobs"
        ):
            seen.variable(path)
    assert seen.variable("nomad/jobs/shop/later") is None
    assert [path for path, _ in seen.variables_seen] == list(mine)


def test_a_write_wakes_the_watches_of_the_job_that_may_read_it(replica: Replica) -> None:
    woken: list[list[str]] = []
    for path in ("nomad/jobs/shop/web/main", "nomad/jobs"):
        put(replica, path)
        woken.append([scope for change in replica.changes for scope in change.scopes])
    assert woken == [
        ["variable:default/nomad/jobs/shop/web/main", "variables:default/shop"],
        ["variable:default/nomad/jobs"],
    ]


def test_services_are_what_runs_in_the_namespace(replica: Replica) -> None:
    service = Service(name="http", port_label="web", tags=("t",))
    web = replace(group("web", 2, ports=(Port(label="web"),)), services=(service,))
    wanted = job("shop", web)
    for name in ("a", "b"):
        replica.ok(commands.RegisterNode(node=replace(node(name), address="10.0.0.1:4747")))
    rows = replica.running(wanted, ("a", 1), ("b", 1))
    assert len(rows) == 2
    seen = lookups(replica)
    asked = [seen.has_asked_for_services]
    found = seen.services("http")
    assert [*asked, seen.has_asked_for_services] == [False, True]
    assert sorted((item["AllocID"], item["Address"], item["Port"]) for item in found) == sorted(
        (row.id, "10.0.0.1", row.ports[0].value) for row in rows
    )
    assert found[0]["Tags"] == ["t"]
    assert seen.services("none") == []
    assert seen.service_names() == [{"Name": "http", "Tags": ["t"]}]
    replica.report(rows[0], ClientStatus.FAILED)
    assert [item["AllocID"] for item in lookups(replica).services("http")] == [rows[1].id]
    elsewhere = Reader(namespace=OTHER, job=JobId("shop"), group="web", task="main")
    assert lookups(replica, elsewhere).services("http") == []


def test_a_service_of_a_canary_has_tags_of_its_own_until_it_is_promoted() -> None:
    view = a_cluster(a_node("a"), a_node("b"))

    def version(image: str, *tags: str) -> Job:
        service = Service(name="http", port_label="80", tags=tags, canary_tags=("new",))
        web = a_group(image=image, update=UpdateStrategy(canary=1))
        return a_job(replace(web, services=(service,)))

    def tags() -> list[list[str]]:
        return sorted(item["Tags"] for item in instances_of(view, DEFAULT, "http"))

    view.settle(view.register(version("web:1", "one")))
    view.evaluate(view.register(version("web:2", "two")))
    view.run_all(healthy=True)
    assert tags() == [["new"], ["one"]]
    (canary,) = [each for each in view.wanted() if each.is_canary]
    view.change_allocation(canary, canary=Canary.PROMOTED)
    assert tags() == [["one"], ["two"]]
