"""What comes from outside is unpacked inside of the task's directory, or not at all."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from swarmlet.errors import InvalidInput
from swarmlet.runtime.archive import TreeWriter, copy_tree, unpack
from swarmlet.runtime.drivers.driver import Directories
from swarmlet.runtime.task_directory import Place, place_of, read_file, write_file


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "local").mkdir()
    return tmp_path / "local"


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(
    name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 1, mode: int = 0o644
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    info.size = size if kind == tarfile.REGTYPE else 0
    return info


def test_a_tar_is_unpacked_with_its_modes_and_links(tmp_path: Path, base: Path) -> None:
    path = tar_of(
        tmp_path / "a.tar.gz",
        member("./bin", kind=tarfile.DIRTYPE),
        member("bin/run", mode=0o4755),
        member("bin/go", kind=tarfile.SYMTYPE, link="run"),
        member("deep/er/file"),
    )
    unpack(path, "tar", TreeWriter(Place(base, ())))
    assert stat.S_IMODE((base / "bin" / "run").stat().st_mode) == 0o755
    assert os.readlink(base / "bin" / "go") == "run"
    assert (base / "deep" / "er" / "file").read_bytes() == b"x"


@pytest.mark.parametrize(
    "members",
    [
        (member("../out"),),
        (member("/etc/out"),),
        (member("a/../../out"),),
        (member("..\\out"),),
        (member("link", kind=tarfile.SYMTYPE, link="/etc"),),
        (member("link", kind=tarfile.SYMTYPE, link="../.."),),
        (member("a/link", kind=tarfile.SYMTYPE, link="../../x"),),
        (member("hard", kind=tarfile.LNKTYPE, link="/etc/passwd"),),
        (member("device", kind=tarfile.CHRTYPE),),
        (member("pipe", kind=tarfile.FIFOTYPE),),
        (member("."),),
    ],
    ids=lambda members: members[0].name,
)
def test_what_leads_out_is_refused(tmp_path: Path, base: Path, members: tuple[tarfile.TarInfo, ...]) -> None:
    with pytest.raises(InvalidInput):
        unpack(tar_of(tmp_path / "a.tgz", *members), "tar", TreeWriter(Place(base, ())))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "local"]
    assert not list(base.iterdir())


def test_nothing_is_written_through_a_link_of_the_task(tmp_path: Path, base: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (base / "sub").symlink_to(outside)
    (base / "file").symlink_to(outside / "file")
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        unpack(tar_of(tmp_path / "a.tgz", member("sub/x")), "tar", TreeWriter(Place(base, ())))
    unpack(tar_of(tmp_path / "b.tgz", member("file")), "tar", TreeWriter(Place(base, ())))
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        write_file(Place(base, ("sub", "x")), b"x", 0o600)
    write_file(Place(base, ("file",)), b"y", 0o600)
    assert list(outside.iterdir()) == []
    assert (base / "file").read_bytes() == b"y"
    (base / "secret").symlink_to("/etc/passwd")
    assert read_file(Place(base, ("secret",)), 10**6) is None


def test_a_bomb_is_stopped(tmp_path: Path, base: Path) -> None:
    large = tar_of(tmp_path / "a.tgz", member("large", size=10_000_000))
    with pytest.raises(InvalidInput, match="more than 1_000_000 B"):
        unpack(large, "tar", TreeWriter(Place(base, ()), bytes_max=1_000_000))
    many = tar_of(tmp_path / "b.tgz", *(member(f"f{number}") for number in range(20)))
    with pytest.raises(InvalidInput, match="more than 10 files"):
        unpack(many, "tar", TreeWriter(Place(base, ()), files_max=10))


def test_a_zip_is_unpacked_and_a_broken_one_named(tmp_path: Path, base: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("bin/run")
        info.external_attr = 0o755 << 16
        archive.writestr(info, "#!")
        archive.writestr("empty/", "")
    unpack(path, "zip", TreeWriter(Place(base, ("in",))))
    assert stat.S_IMODE((base / "in" / "bin" / "run").stat().st_mode) == 0o755
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../out", "x")
    with pytest.raises(InvalidInput, match="leads out"):
        unpack(path, "zip", TreeWriter(Place(base, ())))
    path.write_bytes(b"PK no zip")
    for kind in ("zip", "tar"):
        with pytest.raises(InvalidInput, match="cannot be read"):
            unpack(path, kind, TreeWriter(Place(base, ())))


def test_a_tree_is_copied_and_its_links_stay_inside(tmp_path: Path, base: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "a" / "f").write_text("x")
    (tree / "l").symlink_to("a/f")
    copy_tree(tree, TreeWriter(Place(base, ())))
    assert (base / "l").read_text() == "x"
    (tree / "m").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="the link m in the artifact leads out"):
        copy_tree(tree, TreeWriter(Place(base, ())))


HERE = Directories(root="/d/A", shared="/d/A/alloc", local="/d/A/t/local", secrets="/d/A/t/secrets")
SEEN = Directories(root="/", shared="/alloc", local="/local", secrets="/secrets")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("local/a", "/d/A/t/local/a"),
        ("./secrets/b/c", "/d/A/t/secrets/b/c"),
        ("alloc/x", "/d/A/alloc/x"),
        ("file", "/d/A/t/file"),
        ("/local/a", "/d/A/t/local/a"),
        ("/secrets/a", "/d/A/t/secrets/a"),
        ("/d/A/t/secrets/a", "/d/A/t/secrets/a"),
    ],
)
def test_a_destination_is_where_the_task_sees_it(text: str, path: str) -> None:
    assert str(place_of(text, HERE, SEEN).path) == path


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "local/../../x", "/d/A/other/local", "/localx/a", "../x", "a\0b"]
)
def test_a_destination_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        place_of(text, HERE, SEEN)
