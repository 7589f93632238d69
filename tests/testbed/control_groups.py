"""The control groups of one host: made before it starts, removed when it is gone (cgroup v1 hierarchies)."""

from __future__ import annotations

import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
#: Where a host's own processes are put. Its containers get a group in every hierarchy, made by the engine.
CONTROLLERS = ("cpu", "memory", "pids")
#: Killed processes leave their groups within milliseconds on an idle machine, within seconds on a busy one; after this long something holds them.
REMOVE_SECONDS_MAX = 60.0


def missing() -> list[str]:
    """The hierarchies that are not mounted here."""
    return [name for name in CONTROLLERS if not (ROOT / name / "cgroup.procs").exists()]


def process_files(name: str) -> list[str]:
    """The files that a process writes 0 to, to put itself under the name."""
    return [str(ROOT / controller / name / "cgroup.procs") for controller in CONTROLLERS]


def create(name: str) -> None:
    """Make the groups; those that exist stay."""
    for controller in CONTROLLERS:
        (ROOT / controller / name).mkdir(exist_ok=True)


def present(prefix: str) -> list[Path]:
    """The top groups whose name begins so, in every hierarchy, sorted."""
    return sorted(ROOT.glob(f"*/{prefix}*"))


def remove(prefix: str) -> None:
    """Remove every group under names that begin with the prefix; raises TimeoutError when one stays busy."""
    deadline = time.monotonic() + REMOVE_SECONDS_MAX
    while tops := present(prefix):
        for top in tops:
            _remove_tree(top)
        if present(prefix):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"control groups still busy after {REMOVE_SECONDS_MAX} s: {present(prefix)}"
                )
            time.sleep(0.01)


def _remove_tree(top: Path) -> None:
    directories = sorted(
        (path for path in top.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)
    )
    for directory in [*directories, top]:
        try:
            directory.rmdir()
        except OSError:  # busy: a process is still ending; the caller tries again
            continue
