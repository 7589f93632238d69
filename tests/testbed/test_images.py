"""Images without a registry: one that a single host has runs on all."""

from __future__ import annotations

import pytest

from tests.testbed import jobs
from tests.testbed.cluster import Cluster
from tests.testbed.images import IMAGE, busybox_root

pytestmark = pytest.mark.slow
NAME = "only-here"


def test_an_image_of_one_host_is_copied_to_those_that_run_it(cluster: Cluster) -> None:
    bed = cluster.testbed
    bed[1].engine.request(
        "POST",
        "/images/create",
        busybox_root(),
        fromSrc="-",
        repo=NAME,
        tag="1",
        changes='LABEL made="here"',
    )
    cluster.submit(bed[1], jobs.service("web", count=3).replace(IMAGE, f"{NAME}:1"))
    cluster.wait_running("web", 3, 60.0)
    made = {
        host.name: host.engine.inspect(found["Id"])["Config"]["Labels"]["made"]
        for host in bed
        for found in cluster.containers(host, "web")
    }
    assert made == {host.name: "here" for host in bed}
    told = [
        event["DisplayMessage"]
        for each in cluster.allocations(bed[1], "web")
        for event in each["TaskStates"]["main"]["Events"]
    ]
    assert sum(message.startswith(f"Copying image {NAME}:1 from another node") for message in told) == 2
