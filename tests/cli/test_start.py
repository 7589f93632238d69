"""A command loads little: what takes long to import is not imported by those who do not need it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.agents.cluster import Cli, Node, clean_environment, process

#: Each takes longer to load than the command to run.
HEAVY = {
    *("aiohttp", "asyncio", "cryptography", "docker", "email", "http.client", "immutables", "msgpack"),
    *("msgspec", "numpy", "requests", "rich", "shutil", "ssl", "structlog", "uvloop"),
}
_PROGRAM = """
import sys
from swarmlet.__main__ import main
sys.argv = ["swarmlet", *sys.argv[1:]]
code = main()
sys.stderr.write("\\n".join(sys.modules))
sys.exit(code)
"""


def loaded(*arguments: str, **environment: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(**environment),
    )
    return set(done.stderr.split("\n"))


@pytest.mark.slow
def test_version_and_help_load_no_library_at_all() -> None:
    for argument in ("--version", "--help"):
        seen = loaded(argument)
        assert not seen & {*HEAVY, "click", "json", "socket", "swarmlet.cli.main"}


@pytest.mark.slow
def test_status_loads_what_it_needs_alone(node: Node) -> None:
    for arguments in (["status"], ["status", "-json"]):
        seen = loaded(*arguments, SWARMLET_DATA_DIR=str(node.data))
        assert "swarmlet.cli.cluster_status" in seen
        assert not seen & {*HEAVY, "click"}


@pytest.mark.slow
def test_status_says_the_same_with_the_command_line_library(ask: Cli, node: Node) -> None:
    """`status` alone takes a shorter way."""
    short = process("status", SWARMLET_DATA_DIR=str(node.data))
    assert (short.code, short.out, short.err) == (0, ask("status").out, "")
    nobody = process("status", SWARMLET_ADDR="http://127.0.0.1:1")
    assert (nobody.code, nobody.out) == (1, "")
    assert nobody.err.startswith("error: no agent answers at http://127.0.0.1:1; ")


@pytest.mark.slow
def test_other_commands_load_no_more_than_they_need(node: Node) -> None:
    for arguments in (["job", "status"], ["node", "status"], ["alloc", "status"], ["token", "list"]):
        assert not loaded(*arguments, SWARMLET_DATA_DIR=str(node.data)) & HEAVY


@pytest.mark.slow
def test_the_program_runs_without_a_home_or_a_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swarmlet", "version"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": clean_environment()["PYTHONPATH"]},
    )
    assert done.stdout.startswith("swarmlet ")
