"""A command that takes long says so each second, and one that answers in JSON does not."""

from __future__ import annotations

import threading

import pytest

from swarmlet.cli import progress


def test_it_says_what_it_does_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    heard = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.001)
    monkeypatch.setattr(progress, "say_now", say)
    with progress.working("verifying", quiet=False):
        assert heard.wait(10.0)
    count = len(said)
    assert said[0] == "verifying · 0 s"
    assert threading.active_count() == 1 or all(each.name != "progress" for each in threading.enumerate())
    assert len(said) == count


def test_it_is_quiet_where_a_program_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(progress, "say_now", pytest.fail)
    with progress.working("verifying", quiet=True):
        pass
