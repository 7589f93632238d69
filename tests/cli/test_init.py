"""What `init` says of the address that it tells others."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmlet.cli import cluster
from swarmlet.config import NodeConfig
from tests.agents.cluster import Cli, free_port


@pytest.fixture(autouse=True)
def _without_route(monkeypatch: pytest.MonkeyPatch) -> None:
    def advertised(config: NodeConfig, seeds: list[tuple[str, int]]) -> tuple[str, int]:
        assert not seeds
        return config.advertise or "127.0.0.1", config.mesh_port

    def start(config: NodeConfig, **_: object) -> int:
        assert config.data_dir
        return 0

    monkeypatch.setattr("swarmlet.network.address.advertised_address", advertised)
    monkeypatch.setattr(cluster, "_start", start)


@pytest.mark.parametrize(
    ("more", "is_warned"),
    [((), True), (("--advertise", "10.0.0.1"), False), (("--bind", "127.0.0.1"), False)],
)
def test_a_machine_without_a_route_is_warned_that_no_other_reaches_it(
    cli: Cli, tmp_path: Path, more: tuple[str, ...], is_warned: bool
) -> None:
    """It said `ready on 127.0.0.1`, and every join from elsewhere found nobody there."""
    said = cli("init", "--data-dir", str(tmp_path / "n1"), "--port", str(free_port()), *more)
    assert said.code == 0, said
    assert ("no route to others" in said.err) == is_warned
    assert said.err.count("--advertise") == is_warned
