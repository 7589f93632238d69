"""What the benchmarks share: what was measured on, and the form in which results are written."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """The commit that is measured; "+" when the tree has changes on top."""
    named = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return named.stdout.strip() or "unknown"


def machine() -> str:
    """What the numbers were measured on, and how busy it was."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    try:
        docker = subprocess.run(["dockerd", "--version"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        docker = "no Docker"
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Linux {platform.release()}, {docker.strip()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end"
    )


def case(
    name: str,
    metric: str,
    unit: str,
    values: Sequence[float],
    peer: tuple[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """One row of a report; `peer` is another program's name and its values."""
    return {
        "case": name,
        "metric": metric,
        "unit": unit,
        "n": len(values),
        "median": _rounded(statistics.median, values),
        "min": _rounded(min, values),
        "max": _rounded(max, values),
        "p99": None,
        "peer": {"name": peer[0], "median": _rounded(statistics.median, peer[1])}
        if peer and peer[1]
        else None,
    }


def report(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole report: the content of `--json FILE`."""
    return {"commit": commit(), "machine": machine(), "cases": cases}


def _rounded(of: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
    return round(of(values), 3) if values else None
