"""Directories of secrets: in memory with root and without, bounded, and gone with their allocation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmlet.runtime import secrets_directory
from swarmlet.runtime.secrets_directory import MemorySecrets, PlainSecrets, mounts_below


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a task's secrets directory is: ALLOCATION/TASK/secrets."""
    found = tmp_path / "a1b2" / "task" / "secrets"
    found.parent.mkdir(parents=True)
    return found


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemorySecrets]:
    """As an ordinary user has it, whoever runs the test."""
    monkeypatch.setattr(MemorySecrets, "_mounted", lambda self, path: False)
    made = MemorySecrets(f"test-{os.getpid()}")
    yield made
    made.release(tmp_path / "a1b2")
    shutil.rmtree(made._shared, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_root_gets_a_tmpfs_of_its_own_bounded_and_unmounted_at_the_end(tmp_path: Path, path: Path) -> None:
    secrets = MemorySecrets("test")
    assert secrets.make(path)
    try:
        assert mounts_below(tmp_path) == [str(path)]
        assert path.stat().st_mode & 0o7777 == 0o1777
        (path / "key").write_text("x")
        assert secrets.make(path)
        assert (path / "key").read_text() == "x"
        size = os.statvfs(path)
        assert size.f_blocks * size.f_frsize == secrets_directory.TMPFS_MIB * 1024 * 1024
        with pytest.raises(OSError, match="No space"):
            (path / "large").write_bytes(bytes(5 * 1024 * 1024))
    finally:
        secrets.release(tmp_path / "a1b2")
    assert mounts_below(tmp_path) == []
    assert list(path.iterdir()) == []


def test_without_root_it_is_a_link_into_shared_memory(
    tmp_path: Path, path: Path, linked: MemorySecrets
) -> None:
    assert linked.make(path)
    assert path.is_symlink()
    (path / "key").write_text("x")
    assert linked.make(path)
    assert (path / "key").read_text() == "x"
    assert path.resolve().is_relative_to(secrets_directory.SHARED_MEMORY)
    assert linked._shared.stat().st_mode & 0o777 == 0o700
    linked.release(tmp_path / "a1b2")
    assert not path.exists()
    # A task that starts again gets an empty one.
    assert linked.make(path)
    assert list(path.iterdir()) == []


def test_a_directory_of_somebody_else_in_shared_memory_is_not_used(path: Path, linked: MemorySecrets) -> None:
    linked._shared.mkdir(mode=0o777)
    linked._shared.chmod(0o777)
    assert not linked.make(path)
    assert path.is_dir()
    assert not path.is_symlink()


def test_files_that_are_there_already_are_not_hidden(path: Path, linked: MemorySecrets) -> None:
    path.mkdir()
    (path / "key").write_text("x")
    assert not linked.make(path)
    assert (path / "key").read_text() == "x"


def test_a_plain_one_is_for_its_owner(tmp_path: Path, path: Path) -> None:
    assert not PlainSecrets().make(path)
    assert path.stat().st_mode & 0o777 == 0o700
    PlainSecrets().release(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to become")
@pytest.mark.slow
def test_an_ordinary_user_keeps_its_secrets_in_memory() -> None:
    """The whole path once, without any pretending."""
    script = (
        "import os, pathlib, sys; from swarmlet.runtime.secrets_directory import MemorySecrets;"
        "os.setgid(65534); os.setuid(65534);"
        "root = pathlib.Path(sys.argv[1]); path = root / 'a' / 't' / 'secrets'; path.parent.mkdir(parents=True);"
        "secrets = MemorySecrets('test'); assert secrets.make(path); assert path.resolve().is_relative_to('/dev/shm');"
        "secrets.release(root / 'a'); secrets._shared.rmdir()"
    )
    # Not below pytest's own directory: other runs close that to everybody but root as they begin.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        done = subprocess.run([sys.executable, "-c", script, name], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
