"""Housekeeping for the whole cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agents.cluster import Cli, Node, raw_exec_job, wait_until

pytestmark = pytest.mark.slow


def test_what_has_ended_is_forgotten_when_asked_for_with_its_files(
    ask: Cli, node: Node, tmp_path: Path
) -> None:
    path = tmp_path / "ended.hcl"
    path.write_text(raw_exec_job("ended"))
    assert ask("job", "run", str(path)).code == 0
    [allocation] = node.api.get("/v1/job/ended/allocations")
    places = node.data.parent.glob(f"*/alloc/{allocation['ID']}")
    assert list(places)
    assert ask("job", "stop", "ended").code == 0
    wait_until(lambda: node.api.get("/v1/job/ended/allocations")[0]["ClientStatus"] == "complete")

    said = ask("system", "gc")

    assert (said.code, said.out) == (
        0,
        "what had ended is forgotten; nodes remove its files and containers\n",
    )
    assert ask("job", "status", "ended").code == 1
    wait_until(lambda: not list(node.data.parent.glob(f"*/alloc/{allocation['ID']}")))
    assert ask("system", "gc", "--json").json()["Index"] > 0
