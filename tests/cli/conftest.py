"""One cluster for all tests of the command line."""

from collections.abc import Iterator

import pytest

from tests.agents.cluster import Cli, LocalCluster, Node, local_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as made:
        yield made


@pytest.fixture
def node(cluster: LocalCluster) -> Node:
    return cluster.nodes[0]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in this process, which knows of no cluster by itself."""
    for name in ("ADDR", "TOKEN", "NAMESPACE", "DATA_DIR"):
        monkeypatch.delenv(f"SWARMLET_{name}", raising=False)
        monkeypatch.delenv(f"NOMAD_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return Cli(capsys)


@pytest.fixture
def ask(cli: Cli, node: Node, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, asking the cluster's first node."""
    monkeypatch.setenv("SWARMLET_DATA_DIR", str(node.data))
    return cli
