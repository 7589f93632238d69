"""Malformed job files through the command line: one error, with line and column, and exit code 1."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swarmlet.api.client import Client
from swarmlet.errors import InvalidJob
from tests.agents.cluster import Cli, process

FILES = sorted((Path(__file__).parent.parent / "jobspec" / "malformed").glob("*.hcl"))
EXPECTATION = re.compile(r"# expect (\d+):(\d+) (.+)")
#: Its message is its author's: the file checks a variable itself.
OWN_MESSAGE = "failed_validation"


def test_there_are_at_least_twenty() -> None:
    assert len(FILES) >= 20


def _check(path: Path, code: int, out: str, err: str) -> None:
    expectation = EXPECTATION.match(path.read_text())
    assert expectation is not None
    line, column, message = expectation.groups()
    assert code == 1
    assert not out
    assert err.splitlines()[0] == f"{path}:{line}:{column}: {message}"
    assert len(re.findall(rf"^{re.escape(str(path))}:\d+:\d+: ", err, re.MULTILINE)) == 1
    assert "expected" in message or path.stem == OWN_MESSAGE
    assert "Traceback" not in err


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_malformed_file_gives_one_error_with_its_place(cli: Cli, path: Path) -> None:
    said = cli("job", "validate", str(path))
    _check(path, said.code, said.out, said.err)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES[::12], ids=lambda path: path.stem)
def test_the_same_as_a_process(path: Path) -> None:
    said = process("job", "validate", str(path))
    _check(path, said.code, said.out, said.err)


def test_run_says_the_same_before_it_asks_any_agent(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMLET_ADDR", "http://127.0.0.1:1")
    said = cli("job", "run", str(FILES[0]))
    _check(FILES[0], said.code, said.out, said.err)


@pytest.mark.parametrize(
    "command",
    [("job", "validate"), ("job", "run"), ("job", "plan"), ("simulate", "--nodes", "1")],
    ids=" ".join,
)
def test_json_lists_the_same_errors_whatever_reads_the_file(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SWARMLET_ADDR", "http://127.0.0.1:1")
    said = cli(*command, "-json", str(FILES[0]))
    assert (said.code, said.err) == (1, "")
    answered = said.json()
    assert answered["Valid"] is False
    assert [error.splitlines()[0] for error in answered["Errors"]] == [
        cli("job", "validate", str(FILES[0])).err.splitlines()[0]
    ]


@pytest.mark.parametrize("command", [("job", "run"), ("job", "plan"), ("simulate", "--live")], ids=" ".join)
def test_json_lists_what_the_cluster_finds_wrong_with_a_job(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InvalidJob(["group g: first", "group g: second"])

    monkeypatch.setattr(Client, "put", refuse)
    path = tmp_path / "a.hcl"
    path.write_text(_JOB % ("", "raw_exec", 'command = "x"'))
    said = cli(*command, "--json", str(path))
    assert (said.code, said.err) == (1, "")
    assert said.json() == {"Valid": False, "Errors": ["group g: first", "group g: second"]}
    said = cli(*command, str(path))
    assert (said.code, said.out, said.err) == (1, "", "error: group g: first\ngroup g: second\n")


_JOB = """job "a" {
  group "g" {
    %s
    task "t" {
      driver = "%s"
      config {
        %s
      }
    }
  }
}
"""


@pytest.mark.parametrize(
    ("driver", "config", "place", "says"),
    [
        ("docker", 'image = "x"\n        mac_address = "02:42"', "8:23", "config key 'mac_address' is '02:42'"),
        ("docker", 'image = "x"\n        lod = "x.tar"', "8:15", "lod is unknown in the configuration of docker"),
        ("docker", 'image = "x"\n        volumes = ["a"]', "8:19", "volumes"),
        ("raw_exec", 'command = "x"\n        cgroup_v1_override = "x"', "8:30", "not supported by the raw_exec"),
    ],
)  # fmt: skip
def test_what_no_driver_has_is_refused_by_line(
    cli: Cli, tmp_path: Path, driver: str, config: str, place: str, says: str
) -> None:
    path = tmp_path / "a.hcl"
    path.write_text(_JOB % ("", driver, config))
    said = cli("job", "validate", str(path))
    assert said.code == 1
    assert said.err.startswith(f"{path}:{place}: ")
    assert says in said.err


def test_a_constraint_that_no_node_could_answer_is_refused_by_line(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.hcl"
    constraint = 'constraint {\n      attribute = "${attr.os.version}"\n      operator  = "version"\n      value     = ">= x.y"\n    }'
    path.write_text(_JOB % (constraint, "raw_exec", 'command = "x"'))
    said = cli("job", "validate", str(path))
    assert said.code == 1
    assert re.match(rf"{re.escape(str(path))}:3:\d+: ", said.err), said.err


def test_validate_lists_warnings_and_differences(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.hcl"
    path.write_text(_JOB % ('service {\n      name = "web"\n    }', "raw_exec", 'command = "x"'))
    said = cli("job", "validate", str(path))
    assert said.code == 0
    assert "warning: " in said.err
    assert "service" in said.err
    assert "note: restart: 5 in 10m" in said.out
    assert f"{path} is valid" in said.out
    answered = cli("job", "validate", "--json", str(path)).json()
    assert answered["Valid"] is True
    assert answered["Warnings"]
    assert answered["Differences"]
