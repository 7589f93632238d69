"""Whether a stop of the agent is a stop of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmlet.runtime.host_shutdown import is_host_stopping


def _systemctl(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    program = folder / "systemctl"
    program.write_text(f"#!/bin/sh\necho {says}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_without_systemd_every_stop_counts(tmp_path: Path) -> None:
    assert is_host_stopping(tmp_path / "absent")


@pytest.mark.parametrize(("says", "stops"), [("stopping", True), ("running", False), ("degraded", False)])
def test_systemd_says_whether_the_machine_goes_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, stops: bool
) -> None:
    _systemctl(tmp_path, monkeypatch, says)
    assert is_host_stopping(tmp_path) is stops


def test_without_an_answer_only_the_agent_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_host_stopping(tmp_path)
