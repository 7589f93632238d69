"""`swarmlet alloc exec` as a user runs it: a real process at a real terminal, the task on another node."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from swarmlet.cli.remote_command import Escape
from tests.agents.cluster import (
    PROGRAM,
    LocalCluster,
    Node,
    clean_environment,
    process,
    raw_exec_job,
    two_nodes,
    wait_until,
)

WAIT_SECONDS = 30.0
SCRIPT = "echo here > $NOMAD_TASK_DIR/place; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with two_nodes() as made:
        yield made


@pytest.fixture(scope="module")
def allocation(cluster: LocalCluster) -> dict[str, Any]:
    return cluster.run("reached", raw_exec_job("reached", SCRIPT))[0]


@pytest.fixture
def elsewhere(cluster: LocalCluster, allocation: dict[str, Any]) -> Node:
    """Two hops from the task: its node is asked over the mesh."""
    return cluster.around(allocation)[0]


class Terminal:
    """`swarmlet alloc exec` with a terminal of ours."""

    def __init__(self, node: Node, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.resize(24, 80)
        self._process = subprocess.Popen(
            [*PROGRAM, "--address", node.api.address, "alloc", "exec", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=clean_environment(TERM="xterm"),
        )
        os.close(slave)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def tell_resized(self) -> None:
        """The kernel tells only a terminal's own session; this process is started without one."""
        self._process.send_signal(signal.SIGWINCH)

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def until(self, pattern: bytes) -> bytes:
        """What was shown up to the pattern. A test that waits in vain shows all of it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} was not shown, but {self.seen!r}"
            self.seen += os.read(self._master, 65536)
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def wait(self) -> int:
        return self._process.wait(WAIT_SECONDS)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._master)


@pytest.fixture
def shell(elsewhere: Node, allocation: dict[str, Any]) -> Iterator[Terminal]:
    made = Terminal(elsewhere, allocation["ID"], "/bin/sh")
    try:
        made.until(rb"[#$] $")
        made.type(b"PS1='ready> '\n")
        made.until(rb"ready> $")
        yield made
    finally:
        made.close()


def test_a_shell_has_a_terminal_the_tasks_place_and_an_exit_code(shell: Terminal) -> None:
    shell.type(b"tty; cat $NOMAD_TASK_DIR/place; exit 7\n")
    assert b"/dev/pts/" in shell.until(rb"\r\nhere\r\n")
    assert shell.wait() == 7


def test_an_isolated_task_gives_a_terminal_of_its_own(cluster: LocalCluster) -> None:
    nodes = cluster.nodes[0].api.get("/v1/nodes")
    drivers = [cluster.nodes[0].api.get(f"/v1/node/{node['ID']}")["Drivers"]["exec"] for node in nodes]
    if not all(driver["Healthy"] for driver in drivers):
        pytest.skip(drivers[0]["HealthDescription"])
    text = raw_exec_job("isolated", "exec sleep 1000").replace('"raw_exec"', '"exec"')
    (allocation,) = cluster.run("isolated", text)
    elsewhere = cluster.around(allocation)[0]
    terminal = Terminal(elsewhere, allocation["ID"], "/bin/sh")
    try:
        terminal.until(rb"[#$] $")
        terminal.type(b"tty; stty size; echo /proc/[0-9]*; exit 9\n")
        assert b"/dev/pts/0\r\n24 80\r\n/proc/1 " in terminal.until(rb"/proc/1 .*\r\n")
        assert terminal.wait() == 9
    finally:
        terminal.close()


def test_the_terminal_follows_the_users(shell: Terminal) -> None:
    shell.type(b"stty size\n")
    shell.until(rb"24 80\r\n")
    shell.resize(50, 132)
    shell.tell_resized()
    shell.type(b"while [ \"$(stty size)\" != '50 132' ]; do sleep 0.05; done; echo resized-$((40+2))\n")
    shell.until(rb"resized-42")


def test_ctrl_c_ends_what_runs_and_not_the_shell(shell: Terminal) -> None:
    shell.type(b"echo begun-$((40+2)); while :; do sleep 0.1; done\n")
    shell.until(rb"begun-42")
    shell.type(b"\x03")
    shell.until(rb"ready> $")
    shell.type(b"exit\n")
    assert shell.wait() == 130


def test_tilde_and_dot_leave_a_command_that_does_not_end(shell: Terminal) -> None:
    shell.type(b"echo begun-$((40+2)); trap '' INT; while :; do sleep 0.1; done\n")
    shell.until(rb"begun-42")
    shell.type(b"\r~.")
    assert shell.wait() == 1


@pytest.mark.slow
def test_ten_megabytes_come_through_two_hops_whole(elsewhere: Node, allocation: dict[str, Any]) -> None:
    script = "head -c 10000000 /dev/zero | tr '\\0' x; echo err >&2; exit 3"
    done = subprocess.run(
        [*PROGRAM, "--address", elsewhere.api.address, "alloc", "exec", allocation["ID"], "sh", "-c", script],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=clean_environment(),
        timeout=60,
    )
    assert (done.returncode, len(done.stdout), set(done.stdout), done.stderr) == (
        3,
        10_000_000,
        {ord("x")},
        b"err\n",
    )


def test_input_is_passed_on_to_its_end(elsewhere: Node, allocation: dict[str, Any]) -> None:
    asked = ("--address", elsewhere.api.address, "alloc", "exec")
    said = process(*asked, allocation["ID"], "wc", "-c", stdin="x" * 100_000)
    assert (said.code, said.out.strip()) == (0, "100000")


def test_options_of_the_command_are_the_commands(elsewhere: Node, allocation: dict[str, Any]) -> None:
    asked = ("--address", elsewhere.api.address, "alloc", "exec")
    said = process(*asked, allocation["ID"], "printf", "%s ", "-h", "--help", "-json", "--task")
    assert (said.code, said.out) == (0, "-h --help -json --task ")


def test_the_command_ends_when_its_user_is_gone(shell: Terminal) -> None:
    shell.type(b"echo pid-$$-\n")
    found = re.search(rb"pid-(\d+)-", shell.until(rb"pid-\d+-\r"))
    assert found
    pid = int(found.group(1))
    shell.close()

    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(is_gone)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("ffffffff", "true"), "no allocation"),
        (("{id}", "--task", "none", "true"), "has the tasks t; name one of them"),
        (("{id}", "nothing-of-this-name"), "cannot run nothing-of-this-name"),
        (("--tty", "{id}", "true"), "standard input is no terminal"),
    ],
)
def test_what_cannot_be_done_is_said(
    elsewhere: Node, allocation: dict[str, Any], arguments: tuple[str, ...], sentence: str
) -> None:
    filled = [text.replace("{id}", allocation["ID"]) for text in arguments]
    said = process("--address", elsewhere.api.address, "alloc", "exec", *filled)
    assert said.code == 1
    assert sentence in said.err
    assert "Traceback" not in said.err


def test_a_plain_request_is_told_what_is_needed(elsewhere: Node, allocation: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="needs a WebSocket"):
        elsewhere.api.get(f"/v1/client/allocation/{allocation['ID']}/exec", {"command": '["true"]'})


@pytest.mark.parametrize(
    ("typed", "passed", "is_over"),
    [
        ([b"~."], b"", True),
        ([b"a~."], b"a~.", False),
        ([b"a\r~", b"."], b"a\r", True),
        ([b"~~."], b"~.", False),
        ([b"~x"], b"~x", False),
    ],
)
def test_only_a_tilde_and_dot_at_the_beginning_of_a_line_leave(
    typed: list[bytes], passed: bytes, is_over: bool
) -> None:
    escape = Escape()
    answers = [escape.look(part) for part in typed]
    assert b"".join(part for part, _ in answers) == passed
    assert answers[-1][1] is is_over
