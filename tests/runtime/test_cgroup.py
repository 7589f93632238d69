"""Control groups of tasks: what is written where, and what the kernel's files say of an end. On recorded files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarmlet.runtime.cgroup import PIDS_MAX, Cgroups
from swarmlet.runtime.drivers import shim

MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make control groups")


@pytest.fixture
def unified(tmp_path: Path) -> Path:
    """A machine with version 2 only, as far as files show it."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma misc\n")
    return tmp_path


def limits(directory: str) -> dict[str, str]:
    """All that was written into a control group."""
    return {path.name: path.read_text() for path in sorted(Path(directory).iterdir())}


def test_version_2_has_one_group_with_every_limit(unified: Path) -> None:
    groups = Cgroups.of_this_machine(unified)
    [made] = groups.make("task", 500, 64, 128)
    assert made == str(unified / "swarmlet" / "swarmlet-task")
    assert limits(made) == {
        "cpu.weight": "19",
        "memory.low": str(64 * MIB),
        "memory.max": str(128 * MIB),
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "pids.max": str(PIDS_MAX),
    }


def test_cores_are_written_where_each_version_has_them(unified: Path, tmp_path: Path) -> None:
    [made] = Cgroups.of_this_machine(unified).make("task", 500, 64, cores="0-1,3")
    assert limits(made)["cpuset.cpus"] == "0-1,3"
    sets = tmp_path / "cpuset"
    sets.mkdir()
    (sets / "cpuset.effective_mems").write_text("0-1\n")
    groups = Cgroups({"cpuset": sets}, is_unified=False)
    assert groups.make("plain", 500, 64) == []
    [made] = groups.make("task", 500, 64, cores="2")
    assert limits(made) == {"cpuset.cpus": "2", "cpuset.mems": "0-1"}


def test_a_running_task_is_kept_to_cores_where_each_version_has_them(unified: Path, tmp_path: Path) -> None:
    """Version 1 keeps them in a hierarchy of their own: the task is moved into it."""
    groups = Cgroups.of_this_machine(unified)
    [made] = groups.make("task", 500, 64)
    assert groups.cpuset_of([made]) is None
    (Path(made) / "cpuset.cpus").write_text("")
    assert groups.cpuset_of([made]) == Path(made)
    groups.keep_to(Path(made), [made], "1-3")
    assert limits(made)["cpuset.cpus"] == "1-3"
    sets, memory = tmp_path / "cpuset", tmp_path / "memory"
    (memory / "swarmlet-task").mkdir(parents=True)
    (memory / "swarmlet-task" / "cgroup.procs").write_text("4711\n")
    sets.mkdir()
    (sets / "cpuset.effective_mems").write_text("0\n")
    groups = Cgroups({"memory": memory, "cpuset": sets}, is_unified=False)
    directories = [str(memory / "swarmlet-task")]
    cpuset = groups.cpuset_of(directories)
    assert cpuset == sets / "swarmlet-task"
    groups.keep_to(cpuset, directories, "2")
    assert limits(str(cpuset)) == {"cgroup.procs": "4711", "cpuset.cpus": "2", "cpuset.mems": "0"}
    assert Cgroups({}, is_unified=False).cpuset_of(directories) is None


def test_version_2_without_a_higher_limit_protects_nothing(unified: Path) -> None:
    [made] = Cgroups.of_this_machine(unified).make("task", 500, 64)
    assert limits(made)["memory.max"] == str(64 * MIB)
    assert "memory.low" not in limits(made)


def test_controllers_are_asked_for_one_by_one(unified: Path) -> None:
    """The kernel refuses a line whole where it lacks one of those in it."""
    groups = Cgroups.of_this_machine(unified)
    written = (unified / "swarmlet" / "cgroup.subtree_control").read_text()
    assert groups.is_usable
    assert written == "+pids"


def test_a_machine_on_which_nothing_can_be_delegated_has_no_limits(unified: Path) -> None:
    (unified / "swarmlet" / "cgroup.subtree_control").mkdir(parents=True)
    assert not Cgroups.of_this_machine(unified).is_usable


@pytest.mark.parametrize(
    ("name", "text", "is_killed"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 1377\noom 3\noom_kill 2\noom_group_kill 1\n", True),
        ("memory.events", "low 0\nhigh 0\nmax 1377\noom 0\noom_kill 0\noom_group_kill 0\n", False),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", True),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", False),
    ],
)
def test_a_kill_for_memory_is_seen_in_both_versions(
    tmp_path: Path, name: str, text: str, *, is_killed: bool
) -> None:
    (tmp_path / name).write_text(text)
    assert shim.was_oom_killed([str(tmp_path / "none"), str(tmp_path)]) is is_killed


def test_refused_processes_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "pids.events").write_text("max 0\n")
    (tmp_path / "pids.max").write_text("4096\n")
    assert shim.refused_processes([str(tmp_path)]) == ""
    (tmp_path / "pids.events").write_text("max 17\n")
    said = shim.refused_processes([str(tmp_path)])
    assert said == "it was refused more than 4096 processes and threads at a time"


def test_a_log_is_never_written_through_a_link_that_a_task_has_made(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "server.stdout.0").symlink_to(victim)
    log = shim.RotatingLog(str(tmp_path / "server.stdout"), 2, 1_000)
    log.write(b"line\n")
    assert victim.read_text() == "precious"
    assert (tmp_path / "server.stdout.0").read_bytes() == b"line\n"
