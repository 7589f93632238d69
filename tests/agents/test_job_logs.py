"""The logs of a whole job in one stream, from all nodes: with real processes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue

import pytest

from swarmlet.errors import InvalidInput, NotFound
from tests.agents.cluster import (
    PROGRAM,
    WAIT_SECONDS,
    Cli,
    LocalCluster,
    clean_environment,
    raw_exec_job,
    two_nodes,
    wait_until,
)

pytestmark = pytest.mark.slow

#: Lines in two halves: whoever mixes bytes tears them.
HALVES = "while :; do printf 'one-'; sleep 0.05; printf '%s-two\\n' $NOMAD_ALLOC_INDEX; sleep 0.05; done"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two nodes."""
    with two_nodes() as made:
        yield made


class Reader:
    """Lines of a following command as they come."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.decode())

    def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        seen: list[str] = []
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition(seen):
            try:
                seen.append(self._lines.get(timeout=max(0.0, deadline - time.monotonic())))
            except Empty:
                raise AssertionError(f"it did not come; seen: {seen[-20:]}") from None
        return seen


@contextmanager
def _following(cluster: LocalCluster, *arguments: str) -> Iterator[Reader]:
    environment = clean_environment(SWARMLET_DATA_DIR=str(cluster.nodes[1].data))
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        try:
            yield Reader(process)
        finally:
            process.kill()


def test_lines_of_all_nodes_come_whole_and_new_allocations_join(cluster: LocalCluster) -> None:
    made = cluster.run("halves", raw_exec_job("halves", HALVES, count=4), 4)
    nodes = {item["NodeName"] for item in made}
    with _following(cluster, "job", "logs", "-f", "--tail", "0", "halves") as reader:
        seen = reader.until(lambda lines: len({line.split("|")[0] for line in lines}) == 4)
        cluster.run("halves", raw_exec_job("halves", HALVES, count=6), 6)
        seen += reader.until(lambda lines: any("g[4]/t" in line for line in lines))
        seen += reader.until(lambda lines: any("g[5]/t" in line for line in lines))
        cluster.nodes[0].api.delete("/v1/job/halves")
        # With the job the stream ends.
        assert reader.process.wait(WAIT_SECONDS) == 0
    assert {line.split("|")[0].split()[1] for line in seen} >= nodes
    for line in seen:
        prefix, _, said = line.partition(" | ")
        index = prefix.partition("[")[2].partition("]")[0]
        # The first may begin in the middle, as nothing from before was asked for.
        assert said in {f"one-{index}-two\n", f"{index}-two\n"}, seen


def test_a_task_is_followed_across_its_restarts(cluster: LocalCluster) -> None:
    script = "echo began $$; sleep 1000"
    (item,) = cluster.run("again", raw_exec_job("again", script), 1)
    with _following(cluster, "logs", "-f", "again") as reader:
        first = reader.until(lambda lines: any("began" in line for line in lines))[-1]
        cluster.nodes[0].api.put(f"/v1/client/allocation/{item['ID']}/restart", {})
        second = reader.until(lambda lines: any("began" in line for line in lines))[-1]
        assert first != second
        cluster.nodes[0].api.delete("/v1/job/again")
        assert reader.process.wait(WAIT_SECONDS) == 0


def test_following_batch_work_that_has_just_ended_shows_it_and_ends(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    text = raw_exec_job("short", "echo said", count=2).replace('"short" {', '"short" {\n  type = "batch"', 1)
    api = cluster.nodes[0].api
    cluster.submit(text.replace('update {\n      min_healthy_time = "0s"\n    }', ""))
    wait_until(lambda: api.get("/v1/job/short")["Status"] == "dead")
    found = Cli(capsys)("--address", api.address, "job", "logs", "-f", "short")
    assert found.code == 0
    assert [line.partition(" | ")[2] for line in found.out.splitlines()] == ["said", "said"]
    assert not found.err


def test_one_stream_one_group_or_json_is_what_is_asked_for(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.run("both", raw_exec_job("both", "echo out; echo err >&2; sleep 1000"), 1)
    ask = Cli(capsys)
    at = ("--address", cluster.nodes[0].api.address)

    def said(*arguments: str) -> set[str]:
        found = ask(*at, "job", "logs", *arguments)
        assert found.code == 0
        return {line.partition(" | ")[2] for line in found.out.splitlines()}

    wait_until(lambda: said("both") == {"out", "err"})
    assert said("--stdout", "both") == {"out"}
    assert said("--stderr", "both", "g") == {"err"}
    assert said("--tail", "0", "both") == set()
    lines = [
        json.loads(line) for line in ask(*at, "job", "logs", "--json", "--stdout", "both").out.splitlines()
    ]
    assert [(line["Line"], line["Group"], line["Task"], line["Type"]) for line in lines] == [
        ("out", "g", "t", "stdout")
    ]
    found = ask(*at, "job", "logs", "both", "nobody")
    assert (found.code, found.err) == (1, "error: job 'both' has no group 'nobody'; it has: g\n")
    api = cluster.nodes[0].api
    with pytest.raises(InvalidInput, match="type=x"):
        list(api.stream("/v1/swarmlet/job/both/logs", {"type": "x"}))
    with pytest.raises(NotFound):
        list(api.stream("/v1/swarmlet/job/nothing/logs"))


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_are_for_terminals_that_want_them(cluster: LocalCluster, no_color: str) -> None:
    (item,) = cluster.run("shown", raw_exec_job("shown", "echo shown; sleep 1000"), 1)
    assert item
    master, slave = pty.openpty()
    environment = clean_environment(SWARMLET_DATA_DIR=str(cluster.nodes[0].data), NO_COLOR=no_color)
    seen = b""
    with subprocess.Popen([*PROGRAM, "job", "logs", "shown"], stdout=slave, env=environment) as process:
        os.close(slave)
        try:
            while data := os.read(master, 65_536):
                seen += data
        except OSError:  # the other side is closed
            pass
        process.wait(WAIT_SECONDS)
    os.close(master)
    assert b"shown" in seen
    assert (b"\x1b[" in seen) is (not no_color)
