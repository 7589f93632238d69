"""An agent whose words reach nobody: it runs, and ends, as any other."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.agents.cluster import PROGRAM, clean_environment, local_cluster, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("where", ["/dev/full", "a closed pipe"])
def test_an_agent_that_nobody_listens_to_runs_and_ends_well(where: str) -> None:
    """Its log's disk is full, or whoever read its pipe has gone: from its first word on."""
    with local_cluster() as cluster:
        node = cluster.nodes[0]
        node.kill()
        if where == "/dev/full":
            out = os.open(where, os.O_WRONLY)
        else:
            reader, out = os.pipe()
            os.close(reader)
        agent = subprocess.Popen(
            [*PROGRAM, "agent", "--data-dir", str(node.data)], stdout=out, stderr=out, env=clean_environment()
        )
        os.close(out)
        try:
            wait_until(lambda: node.api.get("/v1/agent/self")["stats"]["pid"] == agent.pid)
            # The cluster's own state is there, not the agent's start alone.
            wait_until(lambda: node.node_names() == ["n1"])
            assert agent.poll() is None
            agent.send_signal(signal.SIGINT)
            assert agent.wait(60) == 0
        finally:
            agent.kill()
            agent.wait()
