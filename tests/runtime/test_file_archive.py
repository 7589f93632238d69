"""Trees as tar streams and back."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from swarmlet.errors import InvalidInput, NotFound, Refused
from swarmlet.runtime import file_tree
from swarmlet.runtime.archive import TreeWriter, unpack
from swarmlet.runtime.file_archive import pack
from swarmlet.runtime.task_directory import Place


def _packed(path: Path, name: str, hidden: tuple[str, ...] = ()) -> bytes:
    descriptor = os.open(path, os.O_PATH)
    try:
        return b"".join(pack(descriptor, name, lambda below: below[-1] in hidden))
    finally:
        os.close(descriptor)


def _tree(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "tool").write_bytes(b"x" * 1000)
    (root / "sub" / "tool").chmod(0o754)
    (root / "empty").write_bytes(b"")
    (root / "empty").chmod(0o600)
    (root / "link").symlink_to("sub/tool")
    (root / "secret").write_text("shh")
    os.mkfifo(root / "pipe")
    (root / "sub").chmod(0o711)
    return root


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    stream = _packed(_tree(tmp_path / "from"), "top", hidden=("secret",))
    (tmp_path / "archive").write_bytes(stream)
    (tmp_path / "to").mkdir()
    writer = TreeWriter(Place(tmp_path / "to", ()), keeps_modes=True)
    unpack(tmp_path / "archive", "tar", writer)
    writer.finish()
    made = tmp_path / "to" / "top"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*")) == [
        "empty",
        "link",
        "sub",
        "sub/tool",
    ]
    assert (made / "sub" / "tool").read_bytes() == b"x" * 1000
    modes = {name: (made / name).stat().st_mode & 0o777 for name in ("sub", "sub/tool", "empty")}
    assert modes == {"sub": 0o711, "sub/tool": 0o754, "empty": 0o600}
    assert os.readlink(made / "link") == "sub/tool"


def test_one_file_is_a_stream_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    with tarfile.open(fileobj=io.BytesIO(_packed(tmp_path / "file", "name"))) as archive:
        (member,) = archive.getmembers()
        found = archive.extractfile(member)
        assert found is not None
        assert (member.name, found.read()) == ("name", b"hello")


def test_a_set_uid_bit_does_not_come_along(tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(b"x")
    (tmp_path / "tool").chmod(0o4755)
    (tmp_path / "archive").write_bytes(_packed(tmp_path / "tool", "tool"))
    (tmp_path / "to").mkdir()
    unpack(tmp_path / "archive", "tar", TreeWriter(Place(tmp_path / "to", ()), keeps_modes=True))
    assert (tmp_path / "to" / "tool").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    (tmp_path / "archive").write_bytes(made.getvalue())
    (tmp_path / "to").mkdir()
    with pytest.raises(InvalidInput, match="leads out of"):
        unpack(tmp_path / "archive", "tar", TreeWriter(Place(tmp_path / "to", ()), what="archive"))


def test_a_task_knows_its_own_and_the_shared_directory_only(tmp_path: Path) -> None:
    for name in ("web/local", "web/secrets", "other/local", "alloc/data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "web/local/out").symlink_to("/etc")
    (tmp_path / "web/local/aside").symlink_to(tmp_path / "other/local")
    (tmp_path / "web/local/shared").symlink_to(tmp_path / "alloc/data")
    for path in ("/local", "local/", "/alloc/data", "local/shared", "/"):
        assert file_tree.describe_for_task(tmp_path, "web", path).is_directory
    for path in ("local/out", "local/aside", "secrets"):
        with pytest.raises(Refused):
            file_tree.describe_for_task(tmp_path, "web", path)
    with pytest.raises(InvalidInput):
        file_tree.describe_for_task(tmp_path, "web", "local/../../other/local")
    with pytest.raises(NotFound):
        file_tree.describe_for_task(tmp_path, "web", "/etc/passwd")
