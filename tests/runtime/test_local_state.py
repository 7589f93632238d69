"""What a node remembers of its allocations."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from swarmlet.errors import StorageError
from swarmlet.runtime.local_state import VERSION, LocalAllocation, LocalState
from swarmlet.runtime.task_machine import TaskRecord
from tests.runtime.world import allocation_of, fake_task, job_of

JOB = job_of(fake_task())


def state_of(index: int) -> LocalAllocation:
    return LocalAllocation(
        version=VERSION,
        boot_id="b",
        allocation=allocation_of(JOB, index),
        job=JOB,
        tasks=(TaskRecord(name="server"),),
    )


def test_what_is_saved_is_loaded_until_it_is_removed(tmp_path: Path) -> None:
    kept = LocalState(tmp_path / "client")
    for index in (0, 1):
        kept.save(state_of(index))
    again = LocalState(tmp_path / "client")
    assert {state.allocation.index: state for state in again.load()} == {0: state_of(0), 1: state_of(1)}
    again.remove(state_of(0).allocation.id)
    assert again.load() == [state_of(1)]


def test_a_torn_file_is_the_same_as_none(tmp_path: Path) -> None:
    kept = LocalState(tmp_path)
    kept.save(state_of(0))
    kept.save(state_of(1))
    torn = tmp_path / f"{state_of(0).allocation.id}.state"
    torn.write_bytes(torn.read_bytes()[:40])
    assert kept.load() == [state_of(1)]


def test_what_the_disk_does_not_give_now_is_kept_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = LocalState(tmp_path)
    state.save(state_of(0))

    def fail(_: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        assert state.load() == []
    assert state.load() == [state_of(0)]


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    kept = LocalState(tmp_path / "client")
    (tmp_path / "client").rmdir()
    with pytest.raises(StorageError, match="client"):
        kept.save(state_of(0))


def test_the_last_contact_counts_in_its_own_boot_only(tmp_path: Path) -> None:
    kept = LocalState(tmp_path)
    kept.save_contact("boot-1", 12.5)
    assert (kept.load_contact("boot-1"), kept.load_contact("boot-2")) == (12.5, None)
