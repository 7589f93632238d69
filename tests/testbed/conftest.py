"""Fixtures of the testbed: real hosts as namespaces, skipped with the reason where they cannot be started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.images import GoldenData
from tests.testbed.testbed import Testbed, why_not

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below this folder, and skip it all where the machine lacks something."""
    reason = why_not()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.testbed)
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
