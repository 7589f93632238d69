"""The unit's text, and what is done with systemctl, with a systemctl that only writes down what it was asked."""

from __future__ import annotations

import configparser
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmlet.cli import cluster, program, systemd
from swarmlet.config import NodeConfig
from swarmlet.errors import Unavailable


def parsed(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    return unit


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `systemctl` that fails where a file `fail-VERB` says so; what it was asked stands in the file."""
    fake = tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'if [ -e {tmp_path}/fail-$1 ]; then echo "no bus" >&2; exit 5; fi\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    return tmp_path / "asked"


def test_the_unit_restarts_for_ever_and_its_tasks_outlive_it() -> None:
    unit = parsed(systemd.unit_text("/var/lib/swarmlet", command=["/usr/bin/python3", "-m", "swarmlet"]))
    service = unit["Service"]
    assert shlex.split(service["ExecStart"]) == [
        *("/usr/bin/python3", "-m", "swarmlet", "agent", "--data-dir", "/var/lib/swarmlet")
    ]
    assert (service["Restart"], service["KillMode"]) == ("always", "process")
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Install"]["WantedBy"] == "multi-user.target"
    assert "Environment" not in service


def test_the_unit_rests_once_its_node_has_left() -> None:
    """`leave` moves the identity away; a condition that fails ends the restarts."""
    unit = parsed(systemd.unit_text("/data/a"))
    assert unit["Unit"]["ConditionPathExists"] == "/data/a/identity"


def test_a_package_that_python_does_not_find_by_itself_is_named() -> None:
    unit = parsed(systemd.unit_text("/d", variables={"PYTHONPATH": "/opt/my swarmlet"}))
    assert unit["Service"]["Environment"] == '"PYTHONPATH=/opt/my swarmlet"'


def test_the_one_file_is_what_starts_again_and_finds_what_it_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A module's path would be that of one version, which goes with the next but one."""
    monkeypatch.setattr(sys.modules["__main__"], "PROGRAM_FILE", "/usr/local/bin/swarmlet", raising=False)
    monkeypatch.setenv("SWARMLET_PYTHON", "/opt/python3.11")
    monkeypatch.delenv("SWARMLET_CACHE_DIR", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    unit = parsed(systemd.unit_text("/d", variables=program.unit_variables()))["Service"]
    assert unit["ExecStart"] == "/usr/local/bin/swarmlet agent --data-dir /d"
    assert unit["Environment"] == "SWARMLET_PYTHON=/opt/python3.11"
    assert program.environment()["PYTHONPATH"] == "/theirs"


def test_a_package_in_a_clone_is_found_by_what_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    assert program.command() == [sys.executable, "-m", "swarmlet"]
    assert program.environment()["PYTHONPATH"] == f"{program.package_root()}:/theirs"
    assert program.unit_variables() == {"PYTHONPATH": program.package_root()}


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("/var/lib/swarmlet", "/var/lib/swarmlet"),
        ("/my data", '"/my data"'),
        ("/50%", "/50%%"),
        ("/a$b", "/a$$b"),
        ('/a"b', '"/a\\"b"'),
        ("/a\\b", '"/a\\\\b"'),
    ],
)
def test_words_are_quoted_as_systemd_reads_them(text: str, quoted: str) -> None:
    assert systemd.quote(text) == quoted


@pytest.mark.parametrize(
    ("user", "is_booted", "wanted"), [(0, True, True), (0, False, False), (1000, True, False)]
)
def test_a_unit_is_for_root_on_a_machine_of_systemd(
    tmp_path: Path, user: int, is_booted: bool, wanted: bool
) -> None:
    booted = tmp_path if is_booted else tmp_path / "none"
    assert systemd.is_wanted(user=user, booted=booted) is wanted


def test_starting_writes_the_unit_before_systemd_is_told(asked: Path, tmp_path: Path) -> None:
    unit = tmp_path / "swarmlet.service"
    systemd.start("/data/a", unit=unit)
    assert "--data-dir /data/a\n" in unit.read_text()
    assert asked.read_text().splitlines() == [
        *("daemon-reload", "enable swarmlet.service", "restart swarmlet.service")
    ]


def test_a_step_that_fails_is_named_with_what_it_said(asked: Path, tmp_path: Path) -> None:
    (tmp_path / "fail-enable").touch()
    with pytest.raises(Unavailable, match=r"systemctl enable swarmlet.service failed: no bus; .*--detach"):
        systemd.start("/data/a", unit=tmp_path / "swarmlet.service")
    assert "restart" not in asked.read_text()


def test_a_machine_without_systemctl_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="systemctl is not installed"):
        systemd.start("/data/a", unit=tmp_path / "swarmlet.service")


def test_leaving_disables_the_unit_of_this_directory_alone(asked: Path, tmp_path: Path) -> None:
    unit = tmp_path / "swarmlet.service"
    assert not systemd.disable("/data/a", unit=unit)
    unit.write_text(systemd.unit_text("/data/a"))
    assert not systemd.disable("/data", unit=unit)
    assert not asked.exists()
    assert systemd.disable("/data/a", unit=unit)
    assert asked.read_text() == "disable swarmlet.service\n"


@pytest.mark.parametrize(
    ("detach", "as_unit", "wanted", "chosen"),
    [
        (False, True, True, "unit"),
        (True, True, True, "background"),
        (False, False, True, "here"),
        (False, True, False, "here"),
    ],
)
def test_how_an_agent_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detach: bool, as_unit: bool, wanted: bool, chosen: str
) -> None:
    """`agent` itself never makes a unit: it is what the unit runs."""
    seen: list[str] = []

    def note(what: str) -> Callable[..., None]:
        return lambda *_, **__: seen.append(what)

    monkeypatch.setattr(systemd, "is_wanted", lambda **_: wanted)
    monkeypatch.setattr(cluster, "_as_unit", note("unit"))
    monkeypatch.setattr(cluster, "_detached", note("background"))
    monkeypatch.setattr(cluster, "_run", note("here"))
    cluster._start(NodeConfig(data_dir=str(tmp_path)), detach=detach, as_json=False, as_unit=as_unit)
    assert seen == [chosen]
