"""Certificates that last a minute: they are renewed while everything runs, and after a node was away for too long."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cryptography import x509

from tests.testbed import jobs
from tests.testbed.cluster import Cluster
from tests.testbed.conftest import shown_when_failed
from tests.testbed.host import Host
from tests.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

VALID_SECONDS = 72.0
WAIT_SECONDS = 90.0
CONFIGURATION = f"certificate_hours = {VALID_SECONDS / 3600}\n"


@pytest.fixture
def short_lived(testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes whose certificates end soon."""
    options = {}
    for host in testbed:
        path = host.root / "node.toml"
        path.write_text(CONFIGURATION)
        options[host.name] = ["--config", str(path)]
    with shown_when_failed(Cluster(testbed), request) as made:
        made.start(options)
        yield made


def certificate(host: Host) -> x509.Certificate:
    pem = (host.data / "node.pem").read_bytes()
    return x509.load_pem_x509_certificate(pem[: pem.index(b"-----BEGIN PRIVATE")])


def ends_at(host: Host) -> float:
    return certificate(host).not_valid_after_utc.timestamp()


def serials(cluster: Cluster) -> dict[str, int]:
    return {host.name: certificate(host).serial_number for host in cluster.testbed}


def test_certificates_are_renewed_while_the_cluster_runs_and_after_an_absence(short_lived: Cluster) -> None:
    cluster, bed = short_lived, short_lived.testbed
    cluster.wait_fault_tolerant()
    cluster.submit(bed[1], jobs.service("web", count=3))
    cluster.wait_healthy("web")
    before = cluster.container_ids("web")
    first = serials(cluster)
    last_end = max(ends_at(host) for host in bed)

    cluster.wait_until(
        lambda: time.time_ns() / 1e9 > last_end + 5,
        VALID_SECONDS + WAIT_SECONDS,
        "the first certificates' end",
    )
    renewed = serials(cluster)
    assert all(renewed[name] != first[name] for name in first)
    assert all(ends_at(host) > time.time_ns() / 1e9 for host in bed)
    assert cluster.ready_nodes(bed[2]) == ["h1", "h2", "h3"]
    assert cluster.container_ids("web") == before, "nothing was restarted"

    # New connections show the new certificates: an agent that is killed comes back over nothing but those.
    away = bed.others(cluster.wait_leader())[0]
    cluster.kill_agent(away)
    cluster.start_agent(away)
    cluster.wait_until(
        lambda: cluster.agent_runs(away) and cluster.ready_nodes(away) == ["h1", "h2", "h3"],
        WAIT_SECONDS,
        "its return",
    )

    # Away until its certificate has ended: it may do nothing but renew, and does.
    cluster.kill_agent(away)
    ended = ends_at(away)
    cluster.wait_until(lambda: time.time_ns() / 1e9 > ended + 2, VALID_SECONDS + 10, "its end")
    cluster.start_agent(away)
    cluster.wait_until(lambda: ends_at(away) > ended, WAIT_SECONDS, "its renewal")
    cluster.wait_until(lambda: cluster.ready_nodes(away) == ["h1", "h2", "h3"], WAIT_SECONDS, "its return")
    cluster.submit(bed[1], jobs.service("after", count=1))
    cluster.wait_running("after", 1)
