"""Several hosts on one network: up in about a second, and nothing left when it is down."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from types import TracebackType
from typing import Self

from tests.testbed import control_groups
from tests.testbed.host import Host
from tests.testbed.images import GoldenData
from tests.testbed.namespace import NetworkNamespace
from tests.testbed.network import Network

PROGRAMS = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "tini": "tini",
    "nft": "nftables",
    "iptables": "iptables",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "nsenter": "util-linux",
}


def why_not() -> str | None:
    """Why no testbed can be started here, in words for a person; None when it can."""
    if os.geteuid() != 0:
        return "the testbed needs root (network namespaces, mounts): run as root"
    absent = [
        f"{program} (package {package})" for program, package in PROGRAMS.items() if not shutil.which(program)
    ]
    if absent:
        return f"the testbed needs {', '.join(absent)}"
    if hierarchies := control_groups.missing():
        return f"the testbed needs the cgroup v1 hierarchies {', '.join(hierarchies)} under {control_groups.ROOT}"
    try:
        NetworkNamespace().close()
    except OSError as error:
        return f"the testbed needs to make network namespaces, and may not here: {error}"
    return None


class Testbed:
    """A context manager: hosts h1, h2, … on one subnet, each with an engine that holds `images.IMAGE`."""

    __test__ = False  # not a test class, whatever its name says to pytest

    def __init__(self, hosts: int = 3, golden: GoldenData | None = None) -> None:
        self._own_golden = golden is None
        self._golden = golden or GoldenData()
        self._size = hosts
        self.network: Network
        self.root: Path
        self._hosts: list[Host] = []

    def __enter__(self) -> Self:
        remove_leftovers()
        try:
            self._up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.down()

    def __getitem__(self, number: int) -> Host:
        """Host by number, from 1: `testbed[1]` is h1."""
        assert number > 0, "hosts are numbered from 1"
        return self._hosts[number - 1]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def others(self, *hosts: Host) -> list[Host]:
        """Every host but these, in order."""
        return [host for host in self._hosts if host not in hosts]

    def _up(self) -> None:
        self.network = Network()
        self.root = Path(mkdtemp(prefix=f"{self.network.name}-"))
        for number in range(1, self._size + 1):
            folder = self.root / f"h{number}"
            folder.mkdir()
            self._golden.copy_to(folder / "docker")
            self._hosts.append(Host(f"h{number}", number, folder, self.network))
        for host in self._hosts:
            host.begin_start()
        for host in self._hosts:
            host.finish_start()

    def down(self) -> None:
        """Power everything off and remove it."""
        for host in self._hosts:
            host.destroy()
        self._hosts = []
        if hasattr(self, "network"):
            self.network.close()
        if hasattr(self, "root"):
            shutil.rmtree(self.root)
        if self._own_golden:
            self._golden.close()


def remove_leftovers() -> None:
    """Remove folders and control groups of test runs that were killed (their processes have ended by themselves)."""
    places = [*Path(gettempdir()).glob("swl-*-*"), *control_groups.present("swl-")]
    for place in places:
        found = re.match(r"swl-(\d+)-", place.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            if place.is_relative_to(control_groups.ROOT):
                control_groups.remove(place.name)
            else:
                shutil.rmtree(place, ignore_errors=True)
