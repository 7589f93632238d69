"""The benchmark of a million allocations, with some hundreds: real processes, certificates, sockets and logs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
METRICS = {"seconds", "allocations_per_second", "leader_rss_mib", "log_mib", "longest_loop_stall_ms"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["service", "batch"])
def test_every_allocation_is_placed_told_to_its_node_and_acknowledged(kind: str, tmp_path: Path) -> None:
    told = tmp_path / "report.json"
    run = subprocess.run(
        [
            sys.executable,
            "scripts/bench_scale.py",
            *("--allocations", "610", "--jobs", "2", "--nodes", "12", "--type", kind),
            *("--directory", str(tmp_path), "--json", str(told), "--verify"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all 610 allocations of 2 jobs run" in run.stdout
    rows = json.loads(told.read_text())["cases"]
    assert {row["metric"] for row in rows if row["case"] == "c1m"} == METRICS
