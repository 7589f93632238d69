"""The log shows where something failed, never the values that were in hand: they may be secrets."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from swarmlet.cli.logging import configure

SECRET = "swl1-very-secret"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Disk(io.StringIO):
    """Has room or not."""

    is_full = False

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def _fail() -> None:
    token = SECRET
    raise ValueError(f"a token of {len(token)} characters")


def _logged(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, standard: bool) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    configure("info")
    try:
        _fail()
    except ValueError:
        if standard:
            logging.getLogger("asyncio").exception("task failed")
        else:
            structlog.get_logger().exception("task.failed", allocation_id="a1")
    return stream.getvalue()


@pytest.mark.parametrize("standard", [False, True], ids=["structlog", "logging"])
@pytest.mark.parametrize("stream", [io.StringIO, _Terminal], ids=["file", "terminal"])
def test_a_traceback_shows_no_local_variables(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], standard: bool
) -> None:
    text = _logged(monkeypatch, stream(), standard=standard)
    assert "ValueError: a token of 16 characters" in text
    assert "_fail" in text
    assert SECRET not in text


@pytest.mark.parametrize("standard", [False, True], ids=["structlog", "logging"])
def test_a_file_gets_one_json_object_per_event(monkeypatch: pytest.MonkeyPatch, standard: bool) -> None:
    text = _logged(monkeypatch, io.StringIO(), standard=standard)
    event = json.loads(text)
    assert event["level"] == "error"
    assert event["timestamp"].endswith("Z")
    assert event["event"] == ("task failed" if standard else "task.failed")
    assert "Traceback" in event["exception"]


def test_what_is_below_the_level_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure("warning")
    structlog.get_logger().info("member.joined")
    logging.getLogger("asyncio").info("selector")
    structlog.get_logger().warning("disk.slow")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["disk.slow"]


def test_a_log_on_a_full_disk_raises_nothing_and_says_later_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = _Disk()
    monkeypatch.setattr("sys.stderr", disk)
    configure("info")
    disk.is_full = True
    structlog.get_logger().warning("raft.disk_full")
    logging.getLogger("asyncio").error("task failed")
    disk.is_full = False
    structlog.get_logger().warning("raft.disk_has_room")
    structlog.get_logger().info("member.joined")
    said = [json.loads(line) for line in disk.getvalue().splitlines()]
    assert [line["event"] for line in said] == ["raft.disk_has_room", "member.joined"]
    assert [line.get("lines_lost_before") for line in said] == [2, None]


def test_a_log_whose_reader_has_gone_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure("info")
    stream.close()
    structlog.get_logger().warning("raft.disk_full")
    logging.getLogger("asyncio").error("task failed")
