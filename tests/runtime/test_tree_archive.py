"""Trees of files survive an archive as they are, and no archive writes outside of its directory."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest

from swarmlet.errors import InvalidInput
from swarmlet.runtime import tree_archive
from swarmlet.runtime.tree_archive import Tally, archive_tree, measure, unpack_tree


def archived(*parts: tuple[str, Path]) -> tuple[bytes, Tally]:
    tally = Tally()
    return b"".join(archive_tree(parts, tally)), tally


def described(root: Path) -> list[tuple[object, ...]]:
    """Everything below `root` with what must survive."""
    found: list[tuple[object, ...]] = []
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        mode = None if path.is_symlink() else stat.S_IMODE(info.st_mode)
        found.append((str(path.relative_to(root)), mode, content, info.st_uid, info.st_nlink))
    return found


def make_tree(root: Path) -> None:
    (root / "base" / "1").mkdir(parents=True)
    (root / "base").chmod(0o700)
    (root / "base" / "1" / "rows").write_bytes(bytes(range(256)) * 2_000)
    (root / "base" / "1" / "rows").chmod(0o640)
    os.link(root / "base" / "1" / "rows", root / "base" / "same rows")
    (root / "empty").touch()
    (root / "link").symlink_to("/etc/passwd")
    (root / "folder link").symlink_to("base")
    (root / ("long" * 40)).mkdir()
    (root / ("long" * 40) / ("name" * 40)).write_text("pax")
    (root / b"\xff\xfe".decode(errors="surrogateescape")).write_text("no UTF-8")
    os.mkfifo(root / "pipe", 0o600)
    (root / "sealed").mkdir()
    (root / "sealed" / "in").write_text("kept")
    (root / "sealed").chmod(0o500)


def test_a_tree_comes_back_with_its_modes_links_and_contents(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    make_tree(source)
    data, tally = archived(("", source))
    unpacked = unpack_tree(io.BytesIO(data), target)
    assert described(target) == described(source)
    assert (tally.left_out, tally.changed) == (0, 0)
    assert (unpacked.entries, unpacked.size) == (tally.entries, tally.size)
    assert int((target / "empty").stat().st_mtime) == int((source / "empty").stat().st_mtime)
    assert len(data) % tarfile.BLOCKSIZE == 0


def test_any_tar_program_reads_the_archive(tmp_path: Path) -> None:
    make_tree(tmp_path)
    data, _ = archived(("disk", tmp_path))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert "disk/base/1/rows" in names
        rows = archive.extractfile("disk/base/1/rows")
        assert rows is not None
        assert rows.read() == (tmp_path / "base" / "1" / "rows").read_bytes()


def test_the_same_tree_gives_the_same_archive(tmp_path: Path) -> None:
    make_tree(tmp_path)
    assert archived(("", tmp_path))[0] == archived(("", tmp_path))[0]


def test_several_directories_keep_their_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    data, _ = archived(("alloc/data", tmp_path / "one"), ("main/local", tmp_path / "two"))
    target = tmp_path / "target"
    target.mkdir()
    unpack_tree(io.BytesIO(data), target)
    assert (target / "alloc" / "data" / "file").read_text() == "one"
    assert (target / "main" / "local" / "file").read_text() == "two"


def test_a_file_that_changes_under_the_reader_keeps_the_archive_whole(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"x" * (3 * tree_archive.CHUNK_BYTES))
    tally = Tally()
    chunks = archive_tree([("", tmp_path)], tally)
    data = next(chunks)
    os.truncate(file, 10)
    data += b"".join(chunks)
    assert tally.changed == 1
    target = tmp_path / "target"
    target.mkdir()
    unpack_tree(io.BytesIO(data), target)
    assert (target / "log").stat().st_size == 3 * tree_archive.CHUNK_BYTES


def test_sockets_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "sock"))
        _, tally = archived(("", folder))
    assert (tally.entries, tally.left_out) == (2, 1)


def test_files_lose_what_would_give_rights_away(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "tool").touch()
    (source / "tool").chmod(0o6755)
    unpack_tree(io.BytesIO(archived(("", source))[0]), target)
    assert stat.S_IMODE((target / "tool").stat().st_mode) == 0o755


def hostile(*members: tuple[str, bytes, str]) -> io.BytesIO:
    """An archive of (name, type, link's target)."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    memory.seek(0)
    return memory


@pytest.mark.parametrize(
    "archive",
    [
        hostile(("../out", tarfile.REGTYPE, "")),
        hostile(("/out", tarfile.REGTYPE, "")),
        hostile(("link", tarfile.SYMTYPE, ".."), ("link/out", tarfile.REGTYPE, "")),
        hostile(("hard", tarfile.LNKTYPE, "../secret")),
        hostile(("link", tarfile.SYMTYPE, ".."), ("hard", tarfile.LNKTYPE, "link/secret")),
    ],
)
def test_nothing_is_written_or_linked_outside(archive: io.BytesIO, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("private")
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises((InvalidInput, OSError)):
        unpack_tree(archive, root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "secret"]
    assert not (root / "hard").exists()


def test_reading_never_follows_a_link_to_the_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("private")
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(tmp_path)
    (root / "file").symlink_to(tmp_path / "secret")
    data, tally = archived(("", root))
    assert b"private" not in data
    assert tally.entries == 3


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_bytes(b"x" * 100_000)
    data, _ = archived(("", source))
    with pytest.raises(InvalidInput):
        unpack_tree(io.BytesIO(data[:50_000]), target)


def test_the_measure_is_at_least_what_is_archived(tmp_path: Path) -> None:
    make_tree(tmp_path)
    measured, (_, tally) = measure([("", tmp_path)]), archived(("", tmp_path))
    assert 0 < measured.entries <= tally.entries
    assert measured.size >= tally.size


def test_more_entries_than_allowed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_archive, "ENTRIES_MAX", 2)
    for number in range(3):
        (tmp_path / str(number)).touch()
    with pytest.raises(InvalidInput, match="more than 2 files"):
        measure([("", tmp_path)])
