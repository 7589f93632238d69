"""The reference page of what Raft has to get right names tests that exist, transcripts that run, defects that are planted."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from swarmlet.simulation.planted import DEFECTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reference/raft-checklist.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| .*? \| (.*) \|$", PAGE, re.MULTILINE)


def test_every_point_is_there_once() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 46))


@pytest.mark.parametrize(("number", "shown"), ROWS, ids=[number for number, _ in ROWS])
def test_what_a_point_names_exists(number: str, shown: str) -> None:
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown)
    for path, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), (
            f"{path}::{name}"
        )
    planted = {item.name for item in DEFECTS}
    if "planted" in shown:
        names = set(re.findall(r"`([a-z-]+)`", shown.split("planted")[1]))
        assert names
        assert names <= planted
    data = os.environ.get("SWARMLET_CONFORMANCE_DATA")
    transcripts = re.findall(r"`(\w+\.txt)`", shown)
    if data:
        for name in transcripts:
            assert (Path(data) / "etcd-raft-transcripts/raft" / name).exists(), name
    assert tests or transcripts or number == "31"
