"""Three hosts that have Python and the one file: nothing was installed there, and nothing is fetched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.one_file import built
from tests.testbed import jobs
from tests.testbed.cluster import Cluster
from tests.testbed.conftest import shown_when_failed
from tests.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROGRAM = "/usr/local/bin/swarmlet"


@pytest.fixture
def cluster(testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Each host has its own copy, and its own unpacked content: an empty /var/cache."""
    for host in testbed:
        shutil.copy(built.one_file(), host.root / "swarmlet-file")
        for command in (
            ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/cache"],
            ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/usr/local/bin"],
            ["cp", str(host.root / "swarmlet-file"), PROGRAM],
        ):
            host.run(*command, check=True)
    with shown_when_failed(Cluster(testbed, program=(PROGRAM,)), request) as made:
        made.start()
        made.wait_fault_tolerant()
        yield made


def test_a_cluster_of_the_one_file_runs_containers_and_survives_its_agent(cluster: Cluster) -> None:
    one, two, _ = cluster.testbed
    assert "3/3 nodes, survives the loss of 1" in cluster.cli(two, "status", check=True).stdout
    cluster.submit(one, jobs.service("web", count=3))
    cluster.wait_running("web", 3)
    before = cluster.container_ids()

    cluster.kill_agent(two)
    # An upgrade: the next file in one step in the place of the last, and the agent anew.
    two.run("cp", str(two.root / "swarmlet-file"), f"{PROGRAM}.new", check=True)
    two.run("mv", f"{PROGRAM}.new", PROGRAM, check=True)
    cluster.start_agent(two)

    cluster.wait_until(lambda: len(cluster.ready_nodes(two)) == 3, 30.0, "the agent to see every node ready")
    cluster.wait_running("web", 3)
    assert cluster.container_ids() == before
    listed = two.run("ls", "/var/cache/swarmlet", check=True).stdout.split()
    assert len(listed) == 1
