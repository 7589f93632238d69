"""A Docker Engine of our own for tests: its data in a temporary directory, its network namespace empty."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from swarmlet.runtime.drivers.docker import Docker
from tests.runtime.world import CLUSTER, NODE

IMAGE = "swarmlet-test:1"
START_SECONDS_MAX = 30.0


def needs(why_not: str) -> list[pytest.MarkDecorator]:
    """For tests on a real engine; `why_not`: why they cannot be run here, empty when they can."""
    return [
        pytest.mark.slow,
        pytest.mark.testbed,
        pytest.mark.skipif(bool(why_not), reason=why_not or "-"),
    ]


def why_not() -> str:
    """Why no engine can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root to start a Docker Engine"
    for tool in ("dockerd", "unshare"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    return "" if busybox() else "needs a static busybox to make an image of"


def busybox() -> Path | None:
    """A busybox that needs no libraries."""
    path = shutil.which("busybox")
    return Path(path) if path else None


def is_listening(path: str) -> bool:
    """Asked apart: the SDK leaks the socket of a failed connect."""
    with socket.socket(socket.AF_UNIX) as knocking:
        return knocking.connect_ex(path) == 0


@contextlib.contextmanager
def started_engine() -> Iterator[Engine]:
    """An engine that has one image; beside its root there is room for what belongs to it."""
    # The path of a Unix socket is short: pytest's own directories are not.
    with tempfile.TemporaryDirectory(prefix="swl-engine-", ignore_cleanup_errors=True) as directory:
        root = Path(directory) / "engine"
        root.mkdir()
        engine = Engine(root)
        try:
            engine.start()
            engine.load_image()
            yield engine
        finally:
            engine.close()


def driver_of(engine: Engine, **changes: Any) -> Docker:
    """A driver of this engine, which nobody runs yet."""
    return Docker(socket_path=engine.socket, node_id=NODE.id, cluster_id=CLUSTER, **changes)


@contextlib.asynccontextmanager
async def running(driver: Docker) -> AsyncIterator[Docker]:
    """The driver follows its engine meanwhile."""
    async with asyncio.TaskGroup() as group:
        run = group.create_task(driver.run())
        yield driver
        run.cancel()


class Engine:
    """One dockerd. `restart` keeps its containers running (live restore), as package upgrades do."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = str(root / "docker.sock")
        self._process: subprocess.Popen[bytes] | None = None
        self._client: docker.APIClient | None = None

    def start(self) -> None:
        root = self.root
        with (root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--net", "dockerd", "--live-restore", "--bridge=none", "--iptables=false"),
                    *("--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "-p", f"{root}/pid"),
                    *("-H", f"unix://{self.socket}", "--userland-proxy=false"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            if is_listening(self.socket):
                self.client().ping()
                return
            time.sleep(0.05)
        raise AssertionError("no engine: " + (root / "log").read_text()[-2000:])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> docker.APIClient:
        if self._client is None:
            self._client = docker.APIClient(base_url=f"unix://{self.socket}", version="1.41", timeout=30)
        return self._client

    def load_image(self) -> None:
        binary = busybox()
        assert binary is not None
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name in ("bin", "tmp", "etc", "proc", "dev"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            tar.add(binary.resolve(), "bin/busybox")
            for name in (
                "sh",
                "sleep",
                "echo",
                "cat",
                "true",
                "dd",
                "tail",
                "id",
                "env",
                "awk",
                "ls",
                "hostname",
                "pwd",
            ):
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        self.client().import_image_from_data(data.getvalue(), repository="swarmlet-test", tag="1")

    def end_dockerd(self, number: int) -> None:
        """End the daemon; the containers live on."""
        assert self._process is not None
        if self._client is not None:
            self._client.close()
            self._client = None
        self._process.send_signal(number)
        self._process.wait(30)

    def remove_containers(self) -> None:
        client = self.client()
        for container in client.containers(all=True):
            with contextlib.suppress(docker.errors.APIError):
                client.remove_container(container["Id"], force=True, v=True)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            if is_listening(self.socket):
                self.remove_containers()
            self.end_dockerd(signal.SIGTERM)
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            mounted = line.split()[1]
            if mounted.startswith(f"{self.root}/"):
                subprocess.run(["umount", "-l", mounted], check=False)
