"""What a node holds for its tasks: compared before and after, it shows what was leaked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import control_groups
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host

#: Descriptors and threads that come and go with connections and pools, whatever tasks do.
DESCRIPTORS_SPARE = 12
THREADS_SPARE = 8


@dataclass(frozen=True)
class Traces:
    """What one node holds."""

    containers: frozenset[str]
    volumes: frozenset[str]
    allocations: frozenset[str]
    mounts: tuple[str, ...]
    control_groups: tuple[str, ...]
    descriptors: int
    threads: int

    def leaked_since(self, before: Traces) -> list[str]:
        """What is there now and was not before, in words; empty: nothing."""
        found = [
            f"{what}: {sorted(set(now) - set(then))}"
            for what, now, then in (
                ("containers", self.containers, before.containers),
                ("volumes", self.volumes, before.volumes),
                ("allocation directories", self.allocations, before.allocations),
                ("mounts", self.mounts, before.mounts),
                ("control groups", self.control_groups, before.control_groups),
            )
            if set(now) - set(then)
        ]
        if self.descriptors > before.descriptors + DESCRIPTORS_SPARE:
            found.append(f"file descriptors: {self.descriptors}, before {before.descriptors}")
        if self.threads > before.threads + THREADS_SPARE:
            found.append(f"threads: {self.threads}, before {before.threads}")
        return found


def traces_of(cluster: Cluster, host: Host) -> Traces:
    """What the host's engine, agent and kernel hold now."""
    agent = Path(f"/proc/{cluster.agent_pid(host)}")
    mounts = [line.split()[4] for line in (agent / "mountinfo").read_text().splitlines()]
    places = host.data / "alloc"
    return Traces(
        containers=frozenset(each["Id"] for each in host.engine.containers(every=True)),
        volumes=frozenset(
            each["Name"] for each in host.engine.request("GET", "/volumes").get("Volumes") or []
        ),
        allocations=frozenset(os.listdir(places) if places.is_dir() else []),
        mounts=tuple(sorted(mounts)),
        control_groups=tuple(
            sorted(
                str(Path(folder).relative_to(control_groups.ROOT))
                for top in control_groups.present(host.group)
                # Groups go away while they are looked at.
                for folder, _, _ in os.walk(top)
                # The engine makes the host's own group with its first container.
                if Path(folder) != top
            )
        ),
        descriptors=len(os.listdir(agent / "fd")),
        threads=len(os.listdir(agent / "task")),
    )
