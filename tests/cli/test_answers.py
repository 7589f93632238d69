"""What commands answer: tables that fit, JSON that is JSON, ids by their beginning, pipes that close."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from swarmlet.cli import output
from tests.agents.cluster import PROGRAM, Cli, Node, clean_environment, raw_exec_job, wait_until

pytestmark = pytest.mark.slow

LONG = "a-name-so-long-that-no-column-holds-it-" + "x" * 60


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jobs") / "talker.hcl"
    path.write_text(raw_exec_job("talker", "echo hello; echo oops >&2; exec sleep 1000", count=2))
    return path


@pytest.fixture
def talker(ask: Cli, node: Node, job_file: Path) -> dict[str, Any]:
    """A running job of two tasks; one of its allocations."""
    if not [item for item in node.api.get("/v1/jobs") if item["ID"] == "talker" and not item["Stop"]]:
        said = ask("job", "run", str(job_file))
        assert said.code == 0, said
    found = wait_until(
        lambda: [
            item for item in node.api.get("/v1/job/talker/allocations") if item["ClientStatus"] == "running"
        ]
    )
    return dict(found[0])


@pytest.fixture
def _long_names(ask: Cli, node: Node, tmp_path: Path) -> None:
    """A job and a token with names that fit nowhere."""
    if not any(item["Description"] == LONG for item in node.api.get("/v1/join-tokens")):
        node.api.put("/v1/join-tokens", {"Description": LONG})
        path = tmp_path / "long.hcl"
        path.write_text(raw_exec_job(LONG))
        assert ask("job", "run", "--detach", str(path)).code == 0


READS = [
    ("status",),
    ("version",),
    ("job", "status"),
    ("job", "status", "talker"),
    ("explain", "talker"),
    ("alloc", "status"),
    ("alloc", "status", "{alloc}"),
    ("node", "status"),
    ("node", "status", "n1"),
    ("token", "list"),
    ("operator", "raft", "list-peers"),
]


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
def test_json_is_json_however_it_is_asked_for(
    ask: Cli, talker: dict[str, Any], arguments: tuple[str, ...]
) -> None:
    words = [word.format(alloc=talker["ID"]) for word in arguments]
    two, one = ask(*words, "--json"), ask(*words, "-json")
    assert (two.code, one.code) == (0, 0), two
    assert type(two.json()) is type(one.json())
    assert not two.err


@pytest.mark.parametrize("arguments", [words for words in READS if words[0] != "explain"], ids=" ".join)
@pytest.mark.usefixtures("_long_names")
def test_every_list_fits_80_columns(ask: Cli, talker: dict[str, Any], arguments: tuple[str, ...]) -> None:
    said = ask(*[word.format(alloc=talker["ID"][:8]) for word in arguments])
    assert said.code == 0, said
    tables = [line for line in said.out.splitlines() if not line.startswith("cluster ")]
    assert max(map(len, tables)) <= 80, said.out


@pytest.mark.usefixtures("_long_names")
def test_wide_shows_everything(ask: Cli) -> None:
    assert LONG in ask("job", "status", "--wide").out


def test_ids_and_names_are_found_by_their_beginning(ask: Cli, node: Node, talker: dict[str, Any]) -> None:
    assert ask("alloc", "status", "--json", talker["ID"][:8]).json()["ID"] == talker["ID"]
    assert ask("job", "status", "--json", "talk").json()["Job"]["ID"] == "talker"
    node_id = node.api.get("/v1/node/n1")["ID"]
    assert ask("node", "status", "--json", node_id[:8]).json()["Node"]["ID"] == node_id
    said = ask("alloc", "status", "")
    assert said.code == 0
    said = ask("job", "status", "no-such-job")
    assert (said.code, said.err) == (1, "error: no job 'no-such-job' in namespace 'default'\n")


def test_logs_come_from_every_task_with_its_name(ask: Cli, talker: dict[str, Any]) -> None:
    # (A task that was restarted by another test has said it twice, one that was just started not yet.)
    wait_until(
        lambda: (
            set(ask("logs", "--stdout", "talker").out.splitlines())
            == {"g[0]/t n1 | hello", "g[1]/t n1 | hello"}
        )
    )
    said = ask("logs", "--stderr", "talker")
    assert set(said.out.splitlines()) == {"g[0]/t n1 | oops", "g[1]/t n1 | oops"}
    assert ask("alloc", "logs", "--tail", "1", talker["ID"][:8]).out == "hello\n"
    assert ask("alloc", "logs", talker["ID"][:8], "none").code == 1


def test_an_allocation_restarts_and_stops_by_hand(ask: Cli, node: Node, talker: dict[str, Any]) -> None:
    assert ask("alloc", "restart", talker["ID"][:8]).code == 0
    wait_until(lambda: node.api.get(f"/v1/allocation/{talker['ID']}")["TaskStates"]["t"]["Restarts"] == 1)
    assert ask("alloc", "stop", talker["ID"][:8]).code == 0
    wait_until(lambda: node.api.get(f"/v1/allocation/{talker['ID']}")["ClientStatus"] == "complete")
    said = ask("alloc", "stop", talker["ID"][:8])
    assert (said.code, "has ended already" in said.err) == (1, True)


def test_a_token_is_listed_without_its_secret_and_revoked_by_its_beginning(ask: Cli) -> None:
    made = ask("token", "create", "--ttl", "1h", "--uses", "2", "--description", "seen once", "--json").json()
    listed = ask("token", "list", "--json")
    assert made["Token"] not in listed.out
    assert [item["UsesLeft"] for item in listed.json() if item["Accessor"] == made["Accessor"]] == [2]
    assert ask("token", "revoke", made["Accessor"][:8]).code == 0
    assert re.search(rf"{made['Accessor']}\s+revoked", ask("token", "list", "--wide").out)


def test_inspect_gives_back_what_was_submitted(ask: Cli, talker: dict[str, Any], job_file: Path) -> None:
    assert ask("job", "inspect", "--hcl", "talker").out.rstrip() == job_file.read_text().rstrip()
    assert ask("job", "inspect", "talker").json()["ID"] == "talker"
    said = ask("job", "inspect", "--version", "77", "talker")
    assert (said.code, "version 77" in said.err) == (1, True)


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    assert output.paint("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.paint("x", "red") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(output, "is_terminal", lambda: False)
    assert output.paint("x", "red") == "x"


def _spawn(node: Node, *arguments: str, stdout: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=clean_environment(SWARMLET_DATA_DIR=str(node.data), TERM="xterm"),
    )


def test_a_reader_that_has_enough_is_no_error(node: Node, talker: dict[str, Any]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with _spawn(node, "alloc", "status", stdout=write) as process:
            _, err = process.communicate(timeout=30)
    finally:
        os.close(write)
    assert (process.returncode, err) == (0, b"")


def test_a_full_disk_is_named(node: Node, talker: dict[str, Any]) -> None:
    with open("/dev/full", "wb") as full, _spawn(node, "alloc", "status", stdout=full) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"No space left" in err
    assert b"Traceback" not in err


def test_following_a_log_ends_on_interrupt_without_a_word(node: Node, talker: dict[str, Any]) -> None:
    with _spawn(node, "alloc", "logs", "-f", talker["ID"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hello\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err


def _on_a_terminal(node: Node, *arguments: str) -> tuple[int, str]:
    """Exit code and everything that a terminal would have received."""
    master, slave = pty.openpty()
    with _spawn(node, *arguments, stdout=slave) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            seen += data
        process.wait(30)
    os.close(master)
    return process.returncode, seen.decode()


def test_a_rollout_is_one_live_line_on_a_terminal(ask: Cli, node: Node, tmp_path: Path) -> None:
    path = tmp_path / "live.hcl"
    path.write_text(raw_exec_job("live", count=2).replace('"0s"', '"1s"'))
    code, seen = _on_a_terminal(node, "job", "run", str(path))
    assert code == 0
    paints = seen.split("\r\x1b[K")
    assert len(paints) > 2
    # (The first may come before the deployment is made.)
    assert "live" in paints[1]
    assert "2/2 healthy" in paints[-1]
    # One line from the first to the last: what is painted over leaves nothing behind.
    assert seen.count("\n") == 1
    ask("job", "stop", "--purge", "live")


def test_a_rollout_is_a_line_per_change_through_a_pipe(ask: Cli, tmp_path: Path) -> None:
    path = tmp_path / "piped.hcl"
    path.write_text(raw_exec_job("piped"))
    said = ask("job", "run", str(path))
    assert said.code == 0
    assert "\x1b" not in said.out
    assert said.out.splitlines()[-1].startswith("piped v0 · 1/1 healthy")
    outcome = ask("job", "run", "-json", str(path)).json()
    assert (outcome["Healthy"], outcome["JobID"]) == (True, "piped")
    assert ask("job", "stop", "piped").out == "piped stopped\n"
    assert ask("job", "stop", "--purge", "piped").code == 0
    assert ask("job", "stop", "piped").code == 1


def test_interrupting_the_watch_leaves_the_job(ask: Cli, node: Node, tmp_path: Path) -> None:
    path = tmp_path / "watched.hcl"
    path.write_text(raw_exec_job("watched").replace('"0s"', '"50s"'))
    with _spawn(node, "job", "run", str(path), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: node.api.get("/v1/job/watched")["Status"] == "running")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert b"detached; watched goes on" in out
    ask("job", "stop", "--purge", "watched")


def test_what_could_not_be_placed_is_explained(ask: Cli, node: Node, tmp_path: Path) -> None:
    """How many nodes failed which constraint; which resource was short, by how much."""
    path = tmp_path / "picky.hcl"
    constraint = 'constraint {\n attribute = "${attr.kernel.name}"\n value = "plan9"\n }'
    path.write_text(raw_exec_job("picky", more=constraint))
    said = ask("job", "run", str(path))
    assert said.code == 2
    assert "! picky.g: 1 could not be placed (1 node looked at)" in said.out
    assert re.search(r"1 node: .*kernel\.name.*plan9", said.out)
    seen = node.api.get("/v1/node/n1")
    has = seen["NodeResources"]["Memory"]["MemoryMB"] - seen["ReservedResources"]["Memory"]["MemoryMB"]
    path.write_text(raw_exec_job("picky").replace("memory = 16", f"memory = {has + 5000}"))
    said = ask("job", "run", str(path))
    assert said.code == 2
    short = re.search(r"1 node: memory short by (\d+) MiB at least", said.out)
    assert short is not None, said.out
    assert int(short[1]) >= 5000
    explained = ask("explain", "picky").out
    # (By how much depends on what else runs by now.)
    assert re.search(r"n1 memory short by \d+ MiB", explained)
    status = ask("status")
    assert status.code == 1
    assert "picky" in status.out
    outcome = ask("job", "run", "--json", str(path))
    assert outcome.code == 2
    assert json.loads(outcome.out)["Failures"]["g"]["Shortage"]["memory"] >= 5000
    ask("job", "stop", "--purge", "picky")


def test_check_index_refuses_what_has_moved_on(
    ask: Cli, node: Node, talker: dict[str, Any], job_file: Path
) -> None:
    said = ask("job", "run", "--check-index", "1", str(job_file))
    assert said.code == 1
    assert "index" in said.err
    index = str(node.api.get("/v1/job/talker")["JobModifyIndex"])
    assert ask("job", "run", "-d", "-check-index", index, str(job_file)).code == 0
