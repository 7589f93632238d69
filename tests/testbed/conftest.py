"""Fixtures of the testbed: real hosts as namespaces, skipped with the reason where they cannot be started."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.testbed.cluster import Cluster
from tests.testbed.images import GoldenData
from tests.testbed.testbed import Testbed, why_not

HERE = Path(__file__).parent
#: A minute of silence, and what comes before and after it, on a machine that is busy with something else.
TEST_SECONDS_MAX = 300
#: What a failed test shows of each agent's log.
LOG_CHARACTERS = 6000
failed = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below this folder, and skip it all where the machine lacks something."""
    reason = why_not()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.testbed)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_SECONDS_MAX))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def golden_data() -> Iterator[GoldenData]:
    """The engine data that every host starts from, made once."""
    golden = GoldenData()
    yield golden
    golden.close()


@pytest.fixture
def testbed(golden_data: GoldenData) -> Iterator[Testbed]:
    """Three hosts, fresh for this test."""
    with Testbed(hosts=3, golden=golden_data) as bed:
        yield bed


@pytest.fixture
def pair(golden_data: GoldenData) -> Iterator[Testbed]:
    """Two hosts, fresh for this test, where a third would only cost time."""
    with Testbed(hosts=2, golden=golden_data) as bed:
        yield bed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note which tests failed, for the fixtures that then show what they have seen."""
    report = yield
    if report.when == "call":
        item.stash[failed] = report.failed
    return report


@contextlib.contextmanager
def shown_when_failed(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Stop the cluster in the end; print the ends of its agents' logs when the test failed."""
    try:
        yield cluster
    finally:
        cluster.stop()
        if request.node.stash.get(failed, True):
            for host in cluster.testbed:
                print(f"--- the agent's log on {host.name}:\n{cluster.agent_log(host)[-LOG_CHARACTERS:]}")


@pytest.fixture
def cluster(testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of three nodes that survives the loss of one, fresh for this test."""
    with shown_when_failed(Cluster(testbed), request) as made:
        made.start()
        made.wait_fault_tolerant()
        yield made
