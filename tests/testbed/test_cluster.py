"""How a cluster is driven on the testbed, shown on a program that only pretends to be one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.testbed.cluster import Cluster, CommandRefused
from tests.testbed.host import wait_for
from tests.testbed.images import IMAGE
from tests.testbed.testbed import Testbed
from tests.testbed.watch import RunningWatch

pytestmark = pytest.mark.slow

FAKE = (sys.executable, str(Path(__file__).with_name("fake_swarmlet.py")))


def test_a_cluster_starts_loses_an_agent_and_gets_it_back(testbed: Testbed) -> None:
    cluster = Cluster(testbed, program=FAKE)
    cluster.start()
    one, two, _ = testbed

    assert cluster.leader() is one
    assert cluster.ready_nodes(two) == ["h1", "h2", "h3"]
    assert cluster.json(two, "status") == {"nodes": 3, "arguments": ["--json"]}
    with pytest.raises(CommandRefused, match="asked to"):
        cluster.cli(two, "fail", check=True)

    before = cluster.agent_pid(two)
    cluster.kill_agent(two)
    assert not Path(f"/proc/{before}").exists()
    assert cluster.ready_nodes(two) == []
    cluster.start_agent(two)
    wait_for(lambda: cluster.ready_nodes(two), "the agent to be back", 20.0)
    assert cluster.agent_pid(two) != before

    one.power_off()
    assert cluster.leader() is None
    one.power_on()
    cluster.start_agent(one)
    wait_for(cluster.leader, "the leader to be back", 20.0)
    cluster.stop()


def test_a_cluster_that_cannot_start_says_what_its_first_agent_said(pair: Testbed) -> None:
    cluster = Cluster(pair, program=(sys.executable, "-c", "raise SystemExit('no port is free')"))
    with pytest.raises(CommandRefused, match="no port is free"):
        cluster.start()


def test_a_join_that_fails_ends_the_start_with_its_words(pair: Testbed) -> None:
    (pair[2].data / "refuse").touch()
    with pytest.raises(CommandRefused, match=r"(?s)h2 .*expired"):
        Cluster(pair, program=FAKE).start()


def test_a_watch_sees_starts_and_ends_on_several_engines(pair: Testbed) -> None:
    one, two = pair
    labelled = {"Image": IMAGE, "Cmd": ["sleep", "100"], "Labels": {"kind": "watched"}}
    ids = [host.engine.request("POST", "/containers/create", labelled)["Id"] for host in (one, two)]
    one.engine.request("POST", f"/containers/{ids[0]}/start")
    one.engine.run(IMAGE, "sleep", "100")
    with RunningWatch([one.engine, two.engine], "kind=watched") as watch:
        watch.wait(lambda running: running == [{ids[0]}, set()], 0.0)
        two.engine.request("POST", f"/containers/{ids[1]}/start")
        seen = watch.wait(lambda running: running == [{ids[0]}, {ids[1]}], 20.0)
        assert seen <= time.monotonic()
        one.engine.kill(ids[0])
        watch.wait(lambda running: running == [set(), {ids[1]}] and watch.ended == {ids[0]}, 20.0)
        two.power_off()
        watch.wait(lambda running: running == [set(), set()], 20.0)
        with pytest.raises(TimeoutError, match=r"\[0, 0\]"):
            watch.wait(any, 0.0)
