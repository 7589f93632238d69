"""`swarmlet top`: what fits a screen, and the live one on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from typing import Any

import pytest

from swarmlet.cli.top_screen import aligned, node_rows, screen, size, task_rows
from tests.agents.cluster import PROGRAM, Cli, Node, clean_environment, raw_exec_job, wait_until


def _task(name: str, cpu: float, memory: int, *, measured: bool = True) -> dict[str, Any]:
    known = ["x"] if measured else []
    return {
        "Namespace": "default",
        "JobID": name,
        "Group": "g",
        "Index": 0,
        "Task": "t",
        "AllocID": f"{name}-12345678",
        "ReservedCPU": 100,
        "ReservedMemory": 1024**2,
        "ResourceUsage": {
            "CpuStats": {"Percent": cpu, "Measured": known},
            "MemoryStats": {"Usage": memory, "Measured": known},
            "DiskStats": {"ReadBytes": 0, "WrittenBytes": 2048, "Measured": known},
            "NetworkStats": {"ReceivedBytes": 0, "SentBytes": 0, "Measured": []},
        },
    }


def _answer(tasks: list[dict[str, Any]], others: int = 0) -> dict[str, Any]:
    host = {
        "CPUPercent": 50.0,
        "Cores": 4,
        "Memory": {"Used": 1024**3, "Total": 4 * 1024**3},
        "DiskStats": [{"Available": 1024**3, "Size": 2 * 1024**3}],
    }
    away: dict[str, Any] = {"Host": None, "Error": "no answer", "Tasks": [], "LeftOut": 0}
    nodes = [{"Name": "n0", "Host": host, "Error": "", "Tasks": tasks, "LeftOut": 0}]
    return {"Nodes": [*nodes, *({"Name": f"n{number}", **away} for number in range(1, others + 1))]}


def test_amounts_have_units() -> None:
    assert [size(amount) for amount in (0, 1023, 1536, 5 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 TiB",
    ]


def test_the_order_is_what_was_asked_for() -> None:
    answer = _answer([_task("a", 1.0, 300), _task("b", 3.0, 100), _task("c", 2.0, 200)])
    for order, wanted in (("c", "bca"), ("m", "acb"), ("n", "abc")):
        assert "".join(row[0][0] for row in task_rows(answer, order)[1:]) == wanted


def test_what_was_not_measured_and_who_does_not_answer_are_shown_as_such() -> None:
    answer = _answer([_task("a", 0.0, 0, measured=False)], others=1)
    assert task_rows(answer, "c")[1][3:] == ["?", "?", "1.0 MiB", "?", "?"]
    assert [row[:2] + row[-1:] for row in node_rows(answer, "c")[1:]] == [
        ["n0", "50 %", ""],
        ["n1", "?", "no answer"],
    ]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (20, 5), (1, 1), (200, 60), (80, 8)])
def test_a_screen_is_never_larger_than_the_terminal(columns: int, lines: int) -> None:
    answer = _answer([_task(f"job{number}", number, number) for number in range(50)], others=30)
    shown = screen(answer, columns=columns, lines=lines, order="c", note="now")
    assert len(shown) <= lines
    assert max(map(len, shown)) <= columns


def test_what_has_no_room_is_counted() -> None:
    answer = _answer([_task(f"job{number}", number, number) for number in range(50)], others=30)
    shown = screen(answer, columns=80, lines=24, order="c", note="now")
    (nodes,) = [line for line in shown if "more nodes" in line]
    (tasks,) = [line for line in shown if "more tasks" in line]
    listed = sum(line.startswith("n") for line in shown), sum(line.startswith("job") for line in shown)
    assert (int(nodes.split()[1]) + listed[0], int(tasks.split()[1]) + listed[1]) == (31, 50)


def test_columns_line_up() -> None:
    assert aligned([["NAME", "CPU"], ["a", "1 %"], ["long", "100 %"]], 80) == [
        "NAME    CPU",
        "a       1 %",
        "long  100 %",
    ]


@pytest.fixture(scope="module")
def _busy(cluster: Any) -> None:
    api = cluster.nodes[0].api
    cluster.submit(raw_exec_job("busy"))
    # No node is in it that has not told of itself yet.
    wait_until(lambda: any(node["Tasks"] for node in api.get("/v1/swarmlet/usage")["Nodes"]))


@pytest.mark.slow
@pytest.mark.usefixtures("_busy")
def test_once_and_json_are_for_scripts(ask: Cli) -> None:
    said = ask("top", "--once")
    assert said.code == 0
    assert "busy.g[0]/t" in said.out
    assert "\x1b" not in said.out
    found = ask("top", "--json", "--node", "n1").json()["Nodes"][0]
    assert (found["Name"], found["Error"]) == ("n1", "")
    assert found["Host"]["Memory"]["Total"] > 0
    assert "busy" in {task["JobID"] for task in found["Tasks"]}
    assert ask("top", "--interval", "0").code == 1
    assert ask("top", "--once", "--node", "nobody").code == 1


@pytest.mark.slow
@pytest.mark.usefixtures("_busy")
def test_prometheus_and_nomads_routes_tell_of_the_node_and_its_tasks(node: Node) -> None:
    text = b"".join(node.api.stream("/v1/metrics", {"format": "prometheus"})).decode()
    assert 'swarmlet_node_cpu_seconds_total{mode="user"}' in text
    assert "swarmlet_node_memory_total_bytes " in text
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith("swarmlet_task_memory_reserved_bytes{") and 'job="busy"' in line
    ]
    assert line.endswith(f" {16 * 1024**2}")
    found = node.api.get("/v1/client/stats")
    assert found["Memory"]["Total"] > 0
    assert found["Uptime"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("_busy")
def test_the_live_screen_follows_the_terminal_and_gives_it_back(node: Node) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    before = termios.tcgetattr(slave)
    environment = clean_environment(SWARMLET_DATA_DIR=str(node.data), TERM="xterm")
    with subprocess.Popen(
        [*PROGRAM, "top", "--interval", "0.5"], stdin=slave, stdout=slave, env=environment
    ) as process:
        try:
            seen = _until(master, b"busy.g[0]/t")
            assert seen.startswith(b"\x1b[?1049h")
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 3, 20, 0, 0))
            process.send_signal(28)
            _until(master, b"swarmlet top \xc2\xb7 ")
            os.write(master, b"m")
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
            process.send_signal(28)
            _until(master, b"by MEMORY")
            os.write(master, b"q")
            assert _until(master, b"\x1b[?1049l")
            assert process.wait(30) == 0
            assert termios.tcgetattr(slave) == before
        finally:
            process.kill()
    os.close(slave)
    os.close(master)


def _until(master: int, wanted: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + 30
    while wanted not in seen:
        ready, _, _ = select.select([master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} did not come, but {seen[-500:]!r}"
        seen += os.read(master, 65_536)
    return seen
