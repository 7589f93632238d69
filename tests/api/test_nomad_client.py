"""PyPI's python-nomad, a client written for Nomad, works unchanged."""

from __future__ import annotations

from typing import Any

import nomad
import pytest
from nomad.api.exceptions import BaseNomadException, URLNotFoundNomadException

from swarmlet import VERSION
from swarmlet.jobspec.document import parse_job
from swarmlet.jobspec.json_writing import job_to_json
from tests.agents.cluster import Node, raw_exec_job, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def client(node: Node) -> nomad.Nomad:
    return nomad.Nomad(host="127.0.0.1", port=node.api_port, token=node.admin_token(), timeout=10)


def as_json(name: str, **options: Any) -> dict[str, Any]:
    return {"Job": job_to_json(parse_job(raw_exec_job(name, **options)).job)}


def running(client: nomad.Nomad, job: str) -> list[dict[str, Any]]:
    return [
        item
        for item in client.job.get_allocations(job)
        if item["ClientStatus"] == "running" and item["DesiredStatus"] == "run"
    ]


def test_a_job_lives_its_whole_life(client: nomad.Nomad) -> None:
    made = client.jobs.register_job(as_json("life", count=2))
    assert made["EvalID"]
    assert "life" in client.jobs
    assert "life" in client.job
    assert client.job["life"]["TaskGroups"][0]["Count"] == 2
    wait_until(lambda: len(running(client, "life")) == 2)
    stub = next(item for item in client.jobs.get_jobs(prefix="li"))
    assert (stub["ID"], stub["Status"], stub["JobSummary"]["Summary"]["g"]["Running"]) == (
        "life",
        "running",
        2,
    )
    assert client.job.get_summary("life")["Summary"]["g"]["Running"] == 2
    assert client.evaluation[made["EvalID"]]["JobID"] == "life"
    assert made["EvalID"] in client.evaluation
    assert any(item["ID"] == made["EvalID"] for item in client.evaluations.get_evaluations())
    assert [item["ID"] for item in client.evaluation.get_allocations(made["EvalID"])]
    deployment = client.job.get_deployment("life")
    assert client.deployment[deployment["ID"]]["JobID"] == "life"
    assert len(client.deployment.get_deployment_allocations(deployment["ID"])) == 2
    assert deployment["ID"] in [item["ID"] for item in client.deployments.get_deployments()]
    wait_until(lambda: client.job.get_deployment("life")["Status"] == "successful")

    first = running(client, "life")[0]
    whole = client.allocation.get_allocation(first["ID"])
    assert whole["Job"]["ID"] == "life"
    assert whole["TaskStates"]["t"]["State"] == "running"
    assert first["ID"] in client.allocation
    assert first["ID"] in [item["ID"] for item in client.allocations.get_allocations()]
    assert client.allocation.stop_allocation(first["ID"])["EvalID"]
    wait_until(lambda: first["ID"] not in [item["ID"] for item in running(client, "life")])
    wait_until(lambda: len(running(client, "life")) == 2)

    client.job.register_job("life", as_json("life", count=1))
    wait_until(lambda: len(running(client, "life")) == 1)
    assert [item["Version"] for item in client.job.get_versions("life")["Versions"]] == [1, 0]
    assert client.job.revert_job("life", 0)["EvalID"]
    wait_until(lambda: len(running(client, "life")) == 2)
    assert client.job.evaluate_job("life")["EvalID"]
    assert client.job.get_evaluations("life")
    assert client.job.get_deployments("life")

    client.job.deregister_job("life")
    wait_until(lambda: not running(client, "life"))
    assert client.job["life"]["Status"] == "dead"
    client.job.deregister_job("life", purge=True)
    wait_until(lambda: "life" not in client.job)


def test_a_job_id_with_slashes_is_one_job(client: nomad.Nomad) -> None:
    client.jobs.register_job(as_json("team/batch/a"))
    assert client.job["team/batch/a"]["ID"] == "team/batch/a"
    wait_until(lambda: len(running(client, "team/batch/a")) == 1)
    client.job.deregister_job("team/batch/a", purge=True)


def test_nodes_are_read_drained_and_made_eligible(client: nomad.Nomad) -> None:
    stub = client.nodes.get_nodes()[0]
    assert stub["Name"] == "n1"
    assert client.nodes["n1"]["ID"] == stub["ID"]
    whole = client.node[stub["ID"]]
    assert whole["Attributes"]["kernel.name"] == "linux"
    assert whole["Drivers"]["raw_exec"]["Healthy"]
    client.node.drain_node_with_spec(stub["ID"], drain_spec={"Deadline": 60 * 10**9})
    wait_until(lambda: client.node[stub["ID"]]["SchedulingEligibility"] == "ineligible")
    client.node.drain_node_with_spec(stub["ID"], drain_spec=None, mark_eligible=True)
    wait_until(lambda: client.node[stub["ID"]]["SchedulingEligibility"] == "eligible")
    client.node.drain_node(stub["ID"], enable=True)
    wait_until(lambda: client.node[stub["ID"]]["SchedulingEligibility"] == "ineligible")
    client.node.drain_node(stub["ID"], enable=False)
    client.node.eligible_node(stub["ID"], eligible=True)
    assert client.node[stub["ID"]]["SchedulingEligibility"] == "eligible"
    assert isinstance(client.node.get_allocations(stub["ID"]), list)


def test_the_agent_and_the_cluster_tell_who_they_are(client: nomad.Nomad, node: Node) -> None:
    mesh = f"127.0.0.1:{node.mesh_port}"
    assert client.status.leader.get_leader() == mesh
    assert client.status.peers.get_peers() == [mesh]
    assert client.agent.get_servers() == [mesh]
    assert client.agent.get_agent()["config"]["Version"]["Version"] == VERSION
    assert [item["Name"] for item in client.agent.get_members()["Members"]] == ["n1"]
    assert client.regions.get_regions() == ["global"]
    assert client.operator.get_configuration()["Servers"][0]["Leader"] is True


def test_namespaces_are_made_and_forgotten(client: nomad.Nomad) -> None:
    client.namespace.create_namespace({"Name": "team-a", "Description": "first"})
    assert client.namespace.get_namespace("team-a")["Description"] == "first"
    client.namespace.update_namespace("team-a", {"Name": "team-a", "Description": "second"})
    assert {item["Name"] for item in client.namespaces.get_namespaces()} == {"default", "team-a"}
    client.namespace.delete_namespace("team-a")
    assert "team-a" not in client.namespace


def test_a_job_text_is_parsed_and_a_job_validated(client: nomad.Nomad) -> None:
    parsed = client.jobs.parse(raw_exec_job("parsed"))
    assert parsed["ID"] == "parsed"
    good = client.validate.validate_job({"Job": parsed}).json()
    assert good["ValidationErrors"] is None
    parsed["TaskGroups"][0]["Tasks"][0]["Config"] = {"command": ""}
    bad = client.validate.validate_job({"Job": parsed}).json()
    assert bad["ValidationErrors"]
    assert "command" in bad["Error"]


def test_what_does_not_exist_is_not_found(client: nomad.Nomad) -> None:
    with pytest.raises(URLNotFoundNomadException):
        client.job.get_job("none")
    with pytest.raises(URLNotFoundNomadException):
        client.allocation.get_allocation("ffffffff")
    assert "none" not in client.node


def test_a_job_that_is_not_valid_is_refused(client: nomad.Nomad) -> None:
    body = as_json("bad")
    body["Job"]["TaskGroups"][0]["Count"] = -1
    with pytest.raises(BaseNomadException) as caught:
        client.jobs.register_job(body)
    assert "count -1 is out of range" in caught.value.nomad_resp.text
    assert "bad" not in client.job
