"""Every command explains itself; what is typed wrongly ends in a sentence and code 2; nothing ends in a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.cli.alloc_exec import execute
from swarmlet.cli.catalogue import overview
from swarmlet.cli.ending import ended
from swarmlet.cli.main import (
    OPTIONS_WITH_VALUE,
    foreign_command_apart,
    root,
    run,
    single_dash_to_double,
)
from swarmlet.errors import NoLeader
from tests.agents.cluster import PROGRAM, Cli, clean_environment

#: Nobody listens here.
NOBODY = "http://127.0.0.1:1"


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*path, name))


COMMANDS = list(commands(root))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_that_fits(cli: Cli, path: tuple[str, ...]) -> None:
    said = cli(*path, "--help")
    assert said.code == 0
    assert "Example" in said.out
    assert not said.err
    assert max(len(line) for line in said.out.splitlines()) <= 80
    assert cli(*path, "-h") == said


@pytest.mark.parametrize("where", ["/dev/full", "a closed pipe"])
def test_the_exit_code_is_told_where_the_error_cannot_be(where: str) -> None:
    """`swarmlet … 2>&1 | head`: what failed has failed, whoever reads of it."""
    if where == "/dev/full":
        out = os.open(where, os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    try:
        done = subprocess.run(
            [*PROGRAM, "--address", NOBODY, "job", "status"],
            stdout=out,
            stderr=out,
            env=clean_environment(),
            check=False,
            timeout=60,
        )
    finally:
        os.close(out)
    assert done.returncode == 1


def test_the_overview_is_what_the_command_line_library_would_print(cli: Cli) -> None:
    """It is laid out by hand, so that `--help` loads nothing."""
    assert cli("--help").out == overview()


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["jbo"], "'job'"),
        (["staus"], "'status'"),
        (["job", "rnu"], "'run'"),
        (["status", "--jsn"], "'--json'"),
    ],
)
def test_a_slip_gets_a_suggestion(cli: Cli, arguments: list[str], near: str) -> None:
    said = cli(*arguments)
    assert said.code == 2
    assert f"did you mean {near}" in said.err.lower()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["job"],
        ["job", "run"],
        ["job", "run", "--var"],
        ["status", "extra"],
        ["token", "create", "--uses", "many"],
        ["node", "eligibility", "n1"],
        ["node", "eligibility", "n1", "--enable", "--disable"],
        ["join"],
        ["init", "--port", "x"],
        ["--address"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(cli: Cli, arguments: list[str]) -> None:
    said = cli(*arguments)
    assert said.code == 2
    assert said.err
    assert not said.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status"], "no agent answers at"),
        (["job", "status"], "no agent answers at"),
        (["job", "run", "missing.hcl"], "missing.hcl: No such file"),
        (["job", "run", "--var", "x", "missing.hcl"], "missing.hcl: No such file"),
        (["token", "create", "--ttl", "soon"], "'soon' is not a duration"),
        (["node", "drain", "n1", "--deadline", "5"], "is not a duration"),
        (["--address", "host:port", "status"], "expected HOST:PORT"),
        (["--address", "ftp://x", "status"], "expected HOST:PORT"),
        (["--address", "http://", "status"], "expected HOST:PORT"),
        (["--token", "a\nb", "status"], "the token holds characters"),
        (["agent", "--data-dir", "/nonexistent/x"], "holds no node"),
        (["agent", "--config", "/nonexistent/x", "--data-dir", "/nonexistent/x"], "holds no node"),
        (["init", "--config", "/nonexistent/x"], "/nonexistent/x: No such file"),
        (["init", "--meta", "x"], "expected KEY=VALUE"),
        (["init", "--host-volume", "x"], "expected NAME=DIR"),
        (["init", "--port", "0"], "mesh port 0"),
        (["init", "--api-port", "-7"], "API port -7"),
        (["join", "x"], "begins with swl1-"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_exits_with_1_and_one_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.setenv("SWARMLET_ADDR", NOBODY)
    said = cli(*arguments)
    assert said.code == 1, said
    assert said.err.startswith("error: ")
    assert says in said.err
    assert said.err.count("\n") == 1


def test_one_dash_is_two_for_long_names_alone() -> None:
    assert single_dash_to_double(["-json", "-ttl=1h", "-d", "-", "--x", "-5", "--", "-json"]) == [
        *("--json", "--ttl=1h", "-d", "-", "--x", "-5", "--", "-json")
    ]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("alloc exec 8f ls -h", "alloc exec 8f -- ls -h"),
        ("alloc exec -t 8f ls -la --help", "alloc exec -t 8f -- ls -la --help"),
        ("alloc exec 8f --task web sh -c x", "alloc exec 8f --task web -- sh -c x"),
        ("alloc exec -task web 8f sh -task x", "alloc exec --task web 8f -- sh -task x"),
        ("alloc exec --task=web 8f sh", "alloc exec --task=web 8f -- sh"),
        ("--address a:1 -token=t alloc exec 8f -- ls -h", "--address a:1 --token=t alloc exec 8f -- ls -h"),
        ("--address alloc alloc exec 8f ls -json", "--address alloc alloc exec 8f -- ls -json"),
        ("alloc exec 8f -h", "alloc exec 8f -h"),
        ("alloc exec -h", "alloc exec -h"),
        ("alloc logs 8f exec -f", "alloc logs 8f exec -f"),
        ("job exec 8f ls -json", "job exec 8f ls --json"),
    ],
)
def test_a_command_that_runs_in_a_task_is_passed_on_as_it_is(typed: str, meant: str) -> None:
    assert single_dash_to_double(foreign_command_apart(typed.split())) == meant.split()


def test_options_of_alloc_exec_with_a_value_are_known() -> None:
    """Otherwise the value would be taken for a word."""
    names = [
        option.lstrip("-")
        for command in (root, execute)
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.is_flag
        for option in parameter.opts
    ]
    assert sorted(names) == sorted(OPTIONS_WITH_VALUE)


#: These would start an agent where the arguments happen to be right.
_STARTERS = {"init", "agent", "dev", "join"}
_WORDS = st.sampled_from(
    [
        *sorted({word for path in COMMANDS for word in path} - _STARTERS),
        *(
            "--json",
            "-json",
            "--wide",
            "--tail",
            "-f",
            "--var",
            "x=1",
            "-1",
            "",
            "é",
            "\x00",
            "/",
            "..",
            "%2F",
            "*",
        ),
    ]
)


@given(st.lists(_WORDS | st.text(max_size=8).filter(lambda text: text not in _STARTERS), max_size=5))
@settings(deadline=None, max_examples=150)
def test_no_arguments_end_in_a_traceback(arguments: list[str]) -> None:
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["--address", NOBODY, *arguments])
    assert code in {0, 1, 2}
    assert "Traceback" not in err.getvalue()
    assert "internal error" not in err.getvalue(), err.getvalue()


def test_a_defect_is_a_sentence_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("swarmlet.cli.status.client", broken)
    said = cli("status")
    assert said.code == 1
    assert said.err.startswith("error: internal error (ZeroDivisionError: division by zero)")


def test_a_terminal_that_lacks_a_character_gets_its_number() -> None:
    """Latin-1 has letters of many names, and no arrow: `job plan` says `web:1.2 → web:1.3`."""
    code = "from swarmlet.cli import ending, output; ending.ended(lambda: output.say('grüße → n1') or 0)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(PYTHONIOENCODING="latin-1"),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (said.stdout, said.stderr) == ("grüße \\u2192 n1\n".encode("latin-1"), b"")


@pytest.mark.parametrize("closed", [">&-", "<&-", ">&- <&-"])
@pytest.mark.parametrize("arguments", ["version", "status", "job validate -"])
def test_a_stream_that_was_closed_is_no_error(closed: str, arguments: str) -> None:
    """As some supervisors start what they run. What fails fails for its own reason."""
    said = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, *arguments.split()],
        env=clean_environment(SWARMLET_ADDR=NOBODY),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == (0 if arguments == "version" else 1)
    assert "Traceback" not in said.stderr
    assert "internal error" not in said.stderr


def test_without_a_leader_the_way_on_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise NoLeader("no leader confirmed in time that this node's copy is current")

    assert ended(command) == 1
    assert capsys.readouterr().err == (
        "error: no leader confirmed in time that this node's copy is current; is a majority of the voters up? "
        "See: swarmlet status\n"
    )


def test_words_that_are_not_utf_8_are_refused_by_a_sentence(cli: Cli) -> None:
    said = cli("--address", NOBODY, "job", "status", "caf\udce9")
    assert (said.code, said.err) == (1, "error: not UTF-8 text: '/v1/job/caf\\udce9'\n")
