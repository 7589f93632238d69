"""CPU and memory from control groups: recorded texts of both versions, and a tree of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmlet.model.usage import TaskUsage
from swarmlet.runtime.usage import between, cgroups_of, read_usage, usage_v1, usage_v2

#: As a kernel 5.15 writes them for a small web server; lines that nobody reads are cut.
V1 = {
    "memory.stat": "cache 4096\nrss 1000\ntotal_cache 8192\ntotal_rss 1048576\ntotal_swap 0\n",
    "memory.usage_in_bytes": "1310720\n",
    "memory.max_usage_in_bytes": "2097152\n",
    "cpuacct.usage": "1500000000\n",
    "cpuacct.stat": "user 100\nsystem 50\n",
    "cpu.stat": "nr_periods 0\nnr_throttled 3\nthrottled_time 7000\n",
    "pids.current": "4\n",
}
V2 = {
    "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 9\nnr_throttled 3\nthrottled_usec 7\n",
    "memory.stat": "anon 1048576\nfile 8192\nkernel 4096\nslab_reclaimable 0\n",
    "memory.current": "1310720\n",
    "memory.peak": "2097152\n",
    "memory.swap.current": "0\n",
    "pids.current": "4\n",
}
BOTH = TaskUsage(
    at_ns=7,
    cpu_ns=1_500_000_000,
    user_ns=1_000_000_000,
    system_ns=500_000_000,
    throttled_periods=3,
    throttled_ns=7_000,
    memory_anonymous=1_048_576,
    memory_cache=8_192,
    memory_usage=1_310_720,
    memory_max=2_097_152,
    processes=4,
    measured=("cpu", "memory", "processes"),
)


def test_both_versions_tell_the_same() -> None:
    assert usage_v1(V1, 7) == BOTH
    assert usage_v2(V2, 7) == BOTH


def test_what_is_missing_or_torn_is_not_measured() -> None:
    assert usage_v1({}, 7) == TaskUsage(at_ns=7)
    found = usage_v2({"memory.current": "max\n", "memory.stat": "anon\nfile x\n\n"}, 7)
    assert found == TaskUsage(at_ns=7, measured=("memory",))


def test_the_share_of_a_core_is_what_was_used_between_two_looks() -> None:
    first = TaskUsage(at_ns=1_000, cpu_ns=500, measured=("cpu",))
    second = TaskUsage(at_ns=2_000, cpu_ns=750, measured=("cpu",))
    assert between(first, second).cpu_percent == pytest.approx(25.0)
    assert between(second, first).cpu_percent == 0.0
    assert between(TaskUsage(), second).cpu_percent == 0.0


def test_paths_are_found_for_joint_controllers_and_the_unified_hierarchy() -> None:
    text = "4:memory:/a\n2:cpu,cpuacct:/b:c\nnonsense\n0::/d\n"
    assert cgroups_of(text) == {"memory": "/a", "cpu": "/b:c", "cpuacct": "/b:c", "": "/d"}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_groups_are_read_where_the_process_is(tmp_path: Path) -> None:
    controller = {"memory": "memory", "cpuacct": "cpuacct", "cpu": "cpu", "pids": "pids"}
    write(
        tmp_path / "cgroup", {f"{controller[name.split('.')[0]]}/t/{name}": text for name, text in V1.items()}
    )
    write(
        tmp_path / "proc",
        {
            "5/cgroup": "".join(f"1:{name}:/t\n" for name in controller),
            "self/cgroup": "".join(f"1:{name}:/\n" for name in controller),
        },
    )
    assert read_usage(5, 7, root=tmp_path / "cgroup", processes=tmp_path / "proc") == BOTH


def test_the_unified_hierarchy_is_read_where_it_is_the_only_one(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", {"cgroup.controllers": "", **{f"swarmlet/t/{k}": v for k, v in V2.items()}})
    write(tmp_path / "proc", {"5/cgroup": "0::/swarmlet/t\n", "self/cgroup": "0::/\n"})
    assert read_usage(5, 7, root=tmp_path / "cgroup", processes=tmp_path / "proc") == BOTH


def test_a_group_that_the_agent_shares_tells_nothing_about_the_task(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", {f"memory/{name}": text for name, text in V1.items()})
    write(tmp_path / "proc", {"5/cgroup": "1:memory:/\n", "self/cgroup": "1:memory:/\n"})
    assert read_usage(5, 7, root=tmp_path / "cgroup", processes=tmp_path / "proc") == TaskUsage(at_ns=7)


def test_a_process_that_is_gone_uses_nothing(tmp_path: Path) -> None:
    assert read_usage(5, 7, root=tmp_path, processes=tmp_path) == TaskUsage(at_ns=7)
