"""An agent whose words reach nobody: it runs, and ends, as any other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from swarmlet.api.client import Client
from tests.agents.cluster import PROGRAM, clean_environment, free_port, local_cluster, wait_until

pytestmark = pytest.mark.slow

WHERE = ["/dev/full", "a closed pipe"]


@contextlib.contextmanager
def unheard(where: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that cannot write: its log's disk is full, or whoever read its pipe has gone, from its first word on."""
    if where == "/dev/full":
        out = os.open(where, os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    agent = subprocess.Popen([*PROGRAM, *arguments], stdout=out, stderr=out, env=clean_environment())
    os.close(out)
    try:
        yield agent
    finally:
        agent.kill()
        agent.wait()


def ends_well(agent: subprocess.Popen[bytes]) -> bool:
    """It is there, and ends when it is asked to."""
    assert agent.poll() is None
    agent.send_signal(signal.SIGINT)
    return agent.wait(60) == 0


@pytest.mark.parametrize("where", WHERE)
def test_an_agent_that_nobody_listens_to_runs_and_ends_well(where: str) -> None:
    with local_cluster() as cluster:
        node = cluster.nodes[0]
        node.kill()
        with unheard(where, "agent", "--data-dir", str(node.data)) as agent:
            wait_until(lambda: node.api.get("/v1/agent/self")["stats"]["pid"] == agent.pid)
            # The cluster's own state is there, not the agent's start alone.
            wait_until(lambda: node.node_names() == ["n1"])
            assert ends_well(agent)


@pytest.mark.parametrize("where", WHERE)
def test_a_cluster_in_memory_that_nobody_listens_to_runs_and_ends_well(where: str) -> None:
    ports = ("--api-port", str(free_port()), "--port", str(free_port()))
    api = Client(address=f"http://127.0.0.1:{ports[1]}")
    with unheard(where, "dev", "--no-docker", *ports) as agent:
        # The token is the last that it makes before it says that it is ready.
        wait_until(lambda: agent.poll() is not None or api.get("/v1/join-tokens"))
        wait_until(
            lambda: agent.poll() is not None or [each["Status"] for each in api.get("/v1/nodes")] == ["ready"]
        )
        assert ends_well(agent)
