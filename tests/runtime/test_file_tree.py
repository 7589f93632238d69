"""An allocation's files, seen from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarmlet.errors import InvalidInput, NotFound, Refused
from swarmlet.runtime.file_tree import describe, list_directory, open_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "allocation"
    for name in ("alloc/logs", "web/local", "web/secrets", ".raw_exec/web"):
        (made / name).mkdir(parents=True)
    (made / "alloc" / "logs" / "web.stdout.0").write_text("hello\n")
    (made / "web" / "secrets" / "key").write_text("secret")
    (made / ".raw_exec" / "web" / "request.json").write_text("secret")
    (tmp_path / "outside").write_text("secret")
    return made


def names(root: Path, path: str) -> list[str]:
    return [info.name for info in list_directory(root, path)]


def test_directories_are_listed_without_what_is_nobodys_business(root: Path) -> None:
    assert names(root, "/") == ["alloc", "web"]
    assert names(root, "web") == ["local"]
    assert names(root, "alloc/../alloc/logs/") == ["web.stdout.0"]


def test_a_file_is_described_and_read(root: Path) -> None:
    info = describe(root, "/alloc/logs/web.stdout.0")
    assert (info.name, info.is_directory, info.size, info.mode[0]) == ("web.stdout.0", False, 6, "-")
    with open_file(root, "alloc/logs/web.stdout.0") as file:
        assert file.read() == b"hello\n"


@pytest.mark.parametrize(
    "path",
    ["web/secrets", "web/secrets/key", ".raw_exec/web/request.json", "./.raw_exec", "alloc/../.raw_exec"],
)
def test_secrets_are_refused_however_they_are_named(root: Path, path: str) -> None:
    for look in (describe, list_directory, open_file):
        with pytest.raises(Refused):
            look(root, path)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../outside", "../../web/secrets/key", "/"])
def test_a_symbolic_link_leads_nowhere_outside_nor_to_secrets(root: Path, target: str) -> None:
    (root / "web" / "local" / "link").symlink_to(target)
    with pytest.raises(Refused):
        open_file(root, "web/local/link")
    with pytest.raises(Refused):
        describe(root, "web/local/link")


def test_a_linked_directory_leads_nowhere_outside(root: Path) -> None:
    (root / "web" / "local" / "link").symlink_to("/etc")
    with pytest.raises(Refused):
        open_file(root, "web/local/link/passwd")
    assert names(root, "web/local") == ["link"]


def test_dots_stay_inside(root: Path) -> None:
    with pytest.raises(NotFound):
        open_file(root, "../outside")
    assert names(root, "../../..") == ["alloc", "web"]


def test_what_is_no_plain_file_is_not_read(root: Path) -> None:
    os.mkfifo(root / "web" / "local" / "pipe")
    with pytest.raises(Refused):
        open_file(root, "web/local/pipe")
    with pytest.raises(InvalidInput):
        open_file(root, "web")
    with pytest.raises(InvalidInput):
        list_directory(root, "alloc/logs/web.stdout.0")


@pytest.mark.parametrize("path", ["nothing", "a\0b", "x" * 5000])
def test_a_path_of_nothing_is_an_error_of_the_caller(root: Path, path: str) -> None:
    with pytest.raises((NotFound, InvalidInput)):
        describe(root, path)
