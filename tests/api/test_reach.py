"""Reaching into allocations from a node that does not have them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import nomad
import pytest

from swarmlet.errors import Conflict, InvalidInput, NotFound, Refused
from tests.agents.cluster import Cli, LocalCluster, Node, raw_exec_job, two_nodes, wait_until
from tests.api.conftest import Http

pytestmark = pytest.mark.slow

SCRIPT = (
    "trap 'echo caught > $NOMAD_TASK_DIR/hup' HUP; echo shh > $NOMAD_SECRETS_DIR/key; "
    "echo hello > $NOMAD_TASK_DIR/greeting; while :; do sleep 0.1; done"
)
CHECKS = """
    service {
      name = "web"
      check {
        name     = "greeted"
        type     = "script"
        task     = "t"
        command  = "/bin/cat"
        args     = ["${NOMAD_TASK_DIR}/greeting"]
        interval = "1s"
        timeout  = "5s"
      }
    }
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two nodes: what one has, the other is asked for."""
    with two_nodes() as made:
        yield made


@pytest.fixture(scope="module")
def reached(cluster: LocalCluster) -> dict[str, Any]:
    """A running allocation whose checks pass."""
    api = cluster.nodes[0].api
    cluster.submit(raw_exec_job("reached", SCRIPT, more=CHECKS))

    def healthy() -> Any:
        found = api.get("/v1/job/reached/allocations")
        return [item for item in found if (item["DeploymentStatus"] or {}).get("Healthy")]

    made: dict[str, Any] = wait_until(healthy)[0]
    return made


@pytest.fixture
def elsewhere(cluster: LocalCluster, reached: dict[str, Any]) -> Node:
    """A node that does not run it."""
    return cluster.around(reached)[0]


@pytest.fixture
def here(cluster: LocalCluster, reached: dict[str, Any]) -> Node:
    return cluster.around(reached)[-1]


def test_checks_are_told_in_nomads_shape_by_any_node(
    elsewhere: Node, here: Node, reached: dict[str, Any]
) -> None:
    for path in ("client/allocation", "allocation"):
        (found,) = elsewhere.api.get(f"/v1/{path}/{reached['ID']}/checks").values()
        told = {key: found[key] for key in ("Check", "Service", "Task", "Group", "Status", "Output", "Mode")}
        assert told == {
            "Check": "greeted",
            "Service": "web",
            "Task": "t",
            "Group": "g",
            "Status": "success",
            "Output": "hello\n",
            "Mode": "healthiness",
        }
    assert list(here.api.get(f"/v1/client/allocation/{reached['ID']}/checks")) == [found["ID"]]


def test_a_signal_reaches_its_task_from_any_node(elsewhere: Node, reached: dict[str, Any]) -> None:
    id_ = reached["ID"]

    def sent() -> list[str]:
        events = elsewhere.api.get(f"/v1/allocation/{id_}")["TaskStates"]["t"]["Events"]
        return [event["Type"] for event in events if "SIGHUP" in event["DisplayMessage"]]

    elsewhere.api.put(f"/v1/client/allocation/{id_}/signal", {"Signal": "SIGHUP", "TaskName": "t"})
    path = {"path": "t/local/hup"}
    assert wait_until(lambda: b"".join(elsewhere.api.stream(f"/v1/client/fs/cat/{id_}", path))) == b"caught\n"
    assert wait_until(sent) == ["Signaling"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"Signal": "SIGNOTHING"}, InvalidInput),
        ({"Signal": ""}, InvalidInput),
        ({"Signal": "SIGHUP", "TaskName": "nobody"}, NotFound),
    ],
)
def test_a_signal_that_cannot_be_is_refused(
    elsewhere: Node, reached: dict[str, Any], body: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        elsewhere.api.put(f"/v1/client/allocation/{reached['ID']}/signal", body)


def test_files_are_listed_and_read_from_any_node(
    elsewhere: Node, here: Node, reached: dict[str, Any]
) -> None:
    id_ = reached["ID"]
    for node in (elsewhere, here):
        listed = node.api.get(f"/v1/client/fs/ls/{id_}", {"path": "/t"})
        assert [(item["Name"], item["IsDir"]) for item in listed] == [("local", True), ("tmp", True)]
        told = node.api.get(f"/v1/client/fs/stat/{id_}", {"path": "/t/local/greeting"})
        assert (told["Name"], told["Size"], told["IsDir"]) == ("greeting", 6, False)
        read = node.api.stream(
            f"/v1/client/fs/readat/{id_}", {"path": "/t/local/greeting", "offset": 1, "limit": 3}
        )
        assert b"".join(read) == b"ell"


@pytest.mark.parametrize(
    ("path", "error"),
    [("t/secrets/key", Refused), ("nowhere", NotFound), ("t", InvalidInput), ("", InvalidInput)],
)
def test_files_that_are_not_shown_are_errors_with_a_status(
    elsewhere: Node, here: Node, reached: dict[str, Any], path: str, error: type[Exception]
) -> None:
    for node in (elsewhere, here):
        with pytest.raises(error):
            list(node.api.stream(f"/v1/client/fs/cat/{reached['ID']}", {"path": path}))


def test_usage_is_told_by_any_node(elsewhere: Node, reached: dict[str, Any]) -> None:
    told = elsewhere.api.get(f"/v1/client/allocation/{reached['ID']}/stats")
    usage = told["Tasks"]["t"]["ResourceUsage"]
    if os.geteuid() == 0:
        # Without root there are no control groups of its own, and nothing is claimed to be measured.
        assert usage["MemoryStats"]["Usage"] > 0
        assert usage["CpuStats"]["TotalNanoseconds"] > 0
    else:
        assert usage["MemoryStats"]["Measured"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/client/allocation/x/checks"),
        ("GET", "/v1/client/allocation/x/stats"),
        ("PUT", "/v1/client/allocation/x/signal"),
        ("GET", "/v1/client/fs/ls/x"),
        ("GET", "/v1/client/fs/cat/x"),
        ("GET", "/v1/swarmlet/job/x/logs"),
        ("GET", "/v1/swarmlet/allocation/x/file"),
        ("GET", "/v1/swarmlet/allocation/x/archive"),
        ("PUT", "/v1/swarmlet/allocation/x/archive"),
        ("GET", "/v1/swarmlet/allocation/x/forward"),
        ("GET", "/v1/swarmlet/usage"),
        ("GET", "/v1/client/stats"),
    ],
)
def test_each_of_these_needs_a_token(http_: Http, method: str, path: str) -> None:
    assert http_.tcp(method, path).status == 403


def test_an_ended_allocation_takes_no_signal(cluster: LocalCluster) -> None:
    api = cluster.nodes[0].api
    text = raw_exec_job("ended", "true").replace('group "g"', 'type = "batch"\n  group "g"')
    text = text.replace('update {\n      min_healthy_time = "0s"\n    }', "")
    cluster.submit(text)
    found = wait_until(
        lambda: [item for item in api.get("/v1/job/ended/allocations") if item["ClientStatus"] == "complete"]
    )[0]
    with pytest.raises(Conflict):
        api.put(f"/v1/client/allocation/{found['ID']}/signal", {"Signal": "SIGHUP"})


def test_a_client_written_for_nomad_reads_files_and_usage(
    cluster: LocalCluster, elsewhere: Node, reached: dict[str, Any]
) -> None:
    # The first node wrote the token; all of them take it.
    token = cluster.nodes[0].admin_token()
    client = nomad.Nomad(host="127.0.0.1", port=elsewhere.api_port, token=token, timeout=10)
    id_ = reached["ID"]
    assert {item["Name"] for item in client.client.ls.list_files(id_, "/t/local")} >= {"greeting"}
    assert client.client.cat.read_file(id_, "/t/local/greeting") == "hello\n"
    assert client.client.read_at.read_file_offset(id_, offset=0, limit=2, path="/t/local/greeting") == "he"
    assert client.client.stat.stat_file(id_, "/t/local/greeting")["Size"] == 6
    assert "t" in client.client.allocation.read_allocation_stats(id_)["Tasks"]


def test_a_rollout_whose_checks_fail_fails_and_says_which(cluster: LocalCluster) -> None:
    api = cluster.nodes[0].api
    text = raw_exec_job("sick", more=CHECKS.replace("/bin/cat", "/bin/ls").replace("/greeting", "/nowhere"))
    text = text.replace(
        'min_healthy_time = "0s"',
        'min_healthy_time = "0s"\nhealthy_deadline = "1s"\nprogress_deadline = "2s"\nauto_revert = false',
    )
    cluster.submit(text)
    wait_until(lambda: (api.get("/v1/job/sick/deployment") or {}).get("Status") == "failed")
    (stub,) = api.get("/v1/job/sick/allocations")

    def is_judged() -> bool:
        found = api.get(f"/v1/allocation/{stub['ID']}")["DeploymentStatus"]
        return found is not None and found["Healthy"] is False

    wait_until(is_judged)

    def told() -> list[str]:
        events = api.get(f"/v1/allocation/{stub['ID']}")["TaskStates"]["t"]["Events"]
        return [event["DisplayMessage"] for event in events if event["Type"] == "Alloc Unhealthy"]

    assert "check 'greeted' does not pass" in wait_until(told)[0]


def test_the_command_line_shows_all_of_it(
    elsewhere: Node, reached: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ask = Cli(capsys)
    address = ("--address", elsewhere.api.address)
    id_ = reached["ID"][:8]
    assert "check greeted of web  success" in ask(*address, "alloc", "status", id_).out
    assert "greeting" in ask(*address, "alloc", "fs", id_, "t/local").out
    assert "SIZE" in ask(*address, "alloc", "fs", "-stat", id_, "t/local/greeting").out
    assert "CPU TIME" in ask(*address, "alloc", "stats", id_).out
    assert json.loads(ask(*address, "alloc", "stats", "-json", id_).out)["Tasks"]["t"]
    assert ask(*address, "alloc", "signal", "-s", "cont", id_).code == 0
    assert ask(*address, "alloc", "signal", "-s", "nope", id_).code == 1
