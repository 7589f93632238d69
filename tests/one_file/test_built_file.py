"""A cluster whose program is the one file, with everything inside and nothing of this tree's environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.cluster import LocalCluster, Node, local_cluster, process, raw_exec_job, wait_until
from tests.one_file import built

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file where an admin would put it."""
    copied = tmp_path / "bin" / "swarmlet"
    copied.parent.mkdir()
    shutil.copy(built.one_file(), copied)
    return copied


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cluster(file: Path, cache: Path) -> Iterator[LocalCluster]:
    """Three nodes. What points Python elsewhere leads nowhere."""
    with local_cluster([str(file)], SWARMLET_CACHE_DIR=str(cache), PYTHONPATH="/nowhere") as cluster:
        for name in ("n2", "n3"):
            cluster.join(cluster.token(), name)
        wait_until(lambda: len(cluster.nodes[0].api.get("/v1/nodes")) == 3)
        yield cluster


def mapped(pid: int) -> set[str]:
    """Folders of the compiled modules that a process has loaded."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {os.path.dirname(line.split(maxsplit=5)[5]) for line in lines if line.endswith(".so")}


def task_pids(node: Node) -> list[int]:
    """The tasks of a node, by what their shims wrote down."""
    found = (path.read_text() for path in node.data.rglob("state.json"))
    return sorted(int(text.partition('"pid": ')[2].partition(",")[0]) for text in found)


def test_tasks_outlive_agent_and_code_and_the_next_file_takes_them_over(
    cluster: LocalCluster, file: Path, cache: Path
) -> None:
    """An upgrade: another file in the place of the old, and the agent anew."""
    for node in cluster.nodes:
        arguments = Path(f"/proc/{node.pid}/cmdline").read_bytes().decode().split("\0")
        assert arguments[1:5] == ["-I", "-S", str(file), "agent"]
        folders = {
            folder for folder in mapped(node.pid) if "/python3" not in folder.removesuffix("lib-dynload")
        }
        assert not {folder for folder in folders if folder.startswith((sys.prefix, str(built.ROOT)))}
        assert any(folder.startswith(str(cache)) for folder in folders)
    allocations = {item["ID"] for item in cluster.run("job", raw_exec_job("job", count=3), 3)}
    node = next(each for each in cluster.nodes if task_pids(each))
    tasks = task_pids(node)

    node.kill()
    new = file.with_name("swarmlet.new")
    shutil.copy(file, new)
    new.replace(file)
    shutil.rmtree(cache)
    cluster.restart(node)

    def running() -> bool:
        found = cluster.nodes[0].api.get("/v1/job/job/allocations")
        return {item["ID"] for item in found if item["ClientStatus"] == "running"} == allocations

    wait_until(lambda: len(node.node_names()) == 3 and running())
    assert task_pids(node) == tasks
    assert all(Path(f"/proc/{pid}").exists() for pid in tasks)
    node.api.delete("/v1/job/job")
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in tasks))


def test_the_command_line_answers_out_of_the_file(cluster: LocalCluster, file: Path, cache: Path) -> None:
    data = str(cluster.nodes[1].data)
    said = process(
        "status", "--json", program=[str(file)], SWARMLET_CACHE_DIR=str(cache), SWARMLET_DATA_DIR=data
    )
    assert sorted(node["Name"] for node in said.json()["Nodes"]) == ["n1", "n2", "n3"]
    assert cluster.process("--version").out.startswith("swarmlet ")
    assert "Usage:" in cluster.process("--help").out
    assert cluster.process("job", "validate", str(built.ROOT / "examples" / "web.hcl")).code == 0


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    built.build(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == built.one_file().read_bytes()
