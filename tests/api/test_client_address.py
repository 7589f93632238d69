"""Which agent a command asks: the one that was named, and no other in its place."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmlet.api import client as client_module
from swarmlet.api.client import Client
from swarmlet.api.server import give_to_group
from swarmlet.errors import Refused, Unavailable


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing named, and `usual` as root's directory; each with a socket where nobody listens."""
    for name in ("ADDR", "TOKEN", "NAMESPACE", "DATA_DIR"):
        monkeypatch.delenv(f"SWARMLET_{name}", raising=False)
        monkeypatch.delenv(f"NOMAD_{name}", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(client_module, "DATA_DIR_DEFAULT", str(tmp_path / "usual"))
    for name in ("usual", "named"):
        (tmp_path / name).mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / name / "api.sock"))
    return tmp_path


@pytest.fixture
def closed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root's directory may not be entered (tests run as root too, whom no mode stops)."""
    may_connect: Callable[[str], bool | None] = client_module._may_connect

    def ask(path: str) -> bool | None:
        return False if path.startswith(str(folders / "usual")) else may_connect(path)

    monkeypatch.setattr(client_module, "_may_connect", ask)
    return folders


def test_without_a_name_the_usual_directory_is_asked(folders: Path) -> None:
    assert Client().address == f"unix://{folders / 'usual'}/api.sock"


def test_a_directory_that_was_named_is_asked_though_nobody_is_there(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`leave --data-dir` with a slip in it took the machine's other node out of its cluster."""
    slip = f"unix://{folders / 'nmaed'}/api.sock"
    assert Client(data_dir=str(folders / "nmaed")).address == slip
    monkeypatch.setenv("SWARMLET_ADDR", "127.0.0.1:1")
    assert Client(data_dir=str(folders / "nmaed")).address == slip
    monkeypatch.delenv("SWARMLET_ADDR")
    monkeypatch.setenv("SWARMLET_DATA_DIR", str(folders / "nmaed"))
    assert Client().address == slip
    with pytest.raises(Unavailable, match="no agent answers at unix"):
        Client().get("/v1/jobs")


def test_a_socket_that_was_put_elsewhere_is_found_by_its_directory(folders: Path) -> None:
    (folders / "named" / "api.sock").unlink()
    (folders / "named" / "node.json").write_text('{"api_socket": "/run/elsewhere.sock"}')
    assert Client(data_dir=str(folders / "named")).address == "unix:///run/elsewhere.sock"


def test_a_directory_that_may_not_be_entered_is_told_as_that(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that no agent answers at 127.0.0.1, and to start one."""
    assert Client().address == f"unix://{closed / 'usual'}/api.sock"

    def refuse(path: str, timeout: float | None) -> socket.socket:
        raise PermissionError(13, f"Permission denied within {timeout} s", path)

    monkeypatch.setattr(client_module, "open_unix", refuse)
    with pytest.raises(
        Refused, match="permission denied; run as root, as a member of the group 'swarmlet', or with a token"
    ):
        Client().get("/v1/jobs")


def test_with_a_token_loopback_is_asked_instead(closed: Path) -> None:
    assert closed.is_dir()
    assert Client(token="secret").address == "http://127.0.0.1:4646"


def test_a_users_own_agent_is_asked_before_roots_that_is_closed(closed: Path) -> None:
    own = closed / "state" / "swarmlet"
    own.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own / "api.sock"))
    assert Client().address == f"unix://{own}/api.sock"


def test_the_group_may_pass_through_the_data_directory_and_list_nothing(folders: Path) -> None:
    """The socket was the group's, in a directory that the group could not enter."""
    group = grp.getgrgid(os.getgid())
    folder = folders / "named"
    folder.chmod(0o700)
    give_to_group(str(folder / "api.sock"), "", name=group.gr_name)
    assert folder.stat().st_mode & 0o777 == 0o700
    give_to_group(str(folder / "api.sock"), str(folder), name=group.gr_name)
    assert folder.stat().st_mode & 0o777 == 0o710
    assert folder.stat().st_gid == group.gr_gid


def test_without_such_a_group_the_directory_stays_closed(folders: Path) -> None:
    folder = folders / "named"
    folder.chmod(0o700)
    give_to_group(str(folder / "api.sock"), str(folder), name="no-such-group-here")
    assert folder.stat().st_mode & 0o777 == 0o700
