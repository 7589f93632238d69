"""What a node keeps on disk."""

from __future__ import annotations

import fcntl
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from swarmlet.errors import Conflict, InvalidInput, StorageError
from swarmlet.ids import ClusterId, NodeId
from swarmlet.joining.identity import (
    IDENTITY_FILE,
    LOCK_FILE,
    PEM_FILE,
    DataDirectory,
    Identity,
    load,
    save,
    write_atomically,
)
from swarmlet.security.authority import Authority
from swarmlet.security.certificate import create_key, create_request, key_to_pem
from swarmlet.security.contexts import server_context

AUTHORITY = Authority.create(ClusterId("c1"), 1_800_000_000)
KEY = create_key()
IDENTITY = Identity(
    node=NodeId("n1"),
    name="one",
    cluster=ClusterId("c1"),
    certificate=AUTHORITY.sign(
        create_request(KEY, "one"), node=NodeId("n1"), name="one", addresses=(), now=1_800_000_000
    ),
    key=key_to_pem(KEY),
    authority=AUTHORITY.certificate,
    cluster_key=b"k" * 32,
    gossip_keys=(b"g" * 32,),
)


def test_an_identity_survives_the_disk_and_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    save(tmp_path, IDENTITY)
    assert load(tmp_path) == IDENTITY
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in (IDENTITY_FILE, PEM_FILE)} == {0o600}
    context = server_context(IDENTITY.authority, tmp_path / PEM_FILE, tmp_path / PEM_FILE)
    assert context.verify_mode == ssl.CERT_OPTIONAL
    assert "BEGIN" not in repr(IDENTITY)


def test_a_crash_between_the_two_files_is_mended(tmp_path: Path) -> None:
    save(tmp_path, IDENTITY)
    good = (tmp_path / PEM_FILE).read_bytes()
    for state in (None, b"old"):
        (tmp_path / PEM_FILE).unlink()
        if state is not None:
            (tmp_path / PEM_FILE).write_bytes(state)
        (tmp_path / (IDENTITY_FILE + ".new")).write_bytes(b"torn")
        assert load(tmp_path) == IDENTITY
        assert (tmp_path / PEM_FILE).read_bytes() == good
    save(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no identity"),
        (b"swarmlet identity 2\n...", "newer version"),
        (b"swarmlet identity 1\n...", "damaged"),
    ],
)
def test_a_damaged_identity_is_never_guessed(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / IDENTITY_FILE).write_bytes(data)
    with pytest.raises(StorageError, match=says):
        load(tmp_path)


def test_a_certificate_that_is_not_for_the_key_is_noticed(tmp_path: Path) -> None:
    other = Identity(
        **{field: getattr(IDENTITY, field) for field in Identity.__dataclass_fields__ if field != "key"},
        key=key_to_pem(create_key()),
    )
    save(tmp_path, other)
    with pytest.raises(StorageError, match="not for its key"):
        load(tmp_path)


def test_a_full_or_missing_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        write_atomically(tmp_path / "missing" / "file", b"")


def test_a_second_agent_is_told_which_process_has_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with DataDirectory(path):
        assert path.stat().st_mode & 0o777 == 0o700
        with pytest.raises(Conflict, match=f"agent with pid {os.getpid()}"), DataDirectory(path):
            pass
    with DataDirectory(path) as again:
        assert again.pem_file == path / PEM_FILE


def failing_in(path: Path) -> None:
    """A use of the directory that ends in an error."""
    with pytest.raises(InvalidInput), DataDirectory(path):
        raise InvalidInput("refused")


def test_a_use_that_fails_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    path = tmp_path / "data"
    failing_in(path)
    assert not path.exists()
    path.mkdir()
    failing_in(path)
    assert list(path.iterdir()) == []
    (path / "mine").write_text("")
    failing_in(path)
    assert [item.name for item in path.iterdir()] == ["mine"]


def test_a_use_that_fails_leaves_the_directory_of_a_node_as_it_was(tmp_path: Path) -> None:
    with DataDirectory(tmp_path):
        pass
    failing_in(tmp_path)
    assert (tmp_path / LOCK_FILE).exists()


def test_a_lock_file_that_was_taken_away_locks_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time: the first fails and takes its file away after the second has opened it, before it locks it."""
    before = fcntl.flock
    locks: list[int] = []

    def flock(lock: int, kind: int) -> None:
        if not locks:
            (tmp_path / LOCK_FILE).unlink()
        locks.append(lock)
        before(lock, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with DataDirectory(tmp_path):
        assert len(locks) == 2
        with pytest.raises(Conflict), DataDirectory(tmp_path):
            pass


@pytest.mark.slow
def test_the_lock_ends_with_its_process_even_when_killed(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path; from swarmlet.joining.identity import DataDirectory\n"
        "DataDirectory(Path(sys.argv[1])).__enter__(); print(os.getpid(), flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip()
        with pytest.raises(Conflict, match=f"pid {pid}:"), DataDirectory(tmp_path):
            pass
        process.kill()
    with DataDirectory(tmp_path):
        pass
