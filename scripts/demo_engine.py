"""The Docker Engine of the demo: the machine's, or one of its own below the demo's folder, or none."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.demo_node import Task

SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
IMAGE = "swarmlet-demo:busybox"
PULLED_IMAGE = "busybox:stable"
START_SECONDS = 30.0
STOP_SECONDS = 20.0


class NoEngine(Exception):
    """No containers here; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Image:
    """An image with busybox in it."""

    name: str
    #: For people: where it comes from.
    origin: str
    #: Made for the demo: removed with it.
    is_ours: bool


class Engine:
    """One Docker Engine. Methods raise NoEngine where it does not do what is asked."""

    def __init__(self, socket: Path, folder: Path) -> None:
        """`folder` is the demo's."""
        self.socket = socket
        self.folder = folder
        self._client: Any = None

    @classmethod
    def find(cls, folder: Path, say: Callable[[str], None]) -> Engine:
        """The engine that answers on this machine, else one of our own. Raises NoEngine."""
        for place in map(Path, SOCKETS):
            if place.exists():
                engine = cls(place, folder)
                if engine.answers():
                    return engine
        if os.geteuid() != 0:
            raise NoEngine("no Docker Engine answers here and only root can start one")
        if not shutil.which("dockerd"):
            raise NoEngine("no Docker Engine answers here and dockerd is not installed")
        say("no Docker Engine answers here; starting one for the demo")
        return cls._start(folder)

    @classmethod
    def _start(cls, folder: Path) -> Engine:
        home = folder / "engine"
        home.mkdir()
        engine = cls(home / "docker.sock", folder)
        with (home / "dockerd.log").open("wb") as output:
            process = subprocess.Popen(
                ["dockerd", "--host", f"unix://{engine.socket}", "--data-root", str(home / "data"),
                 "--exec-root", str(home / "exec"), "--pidfile", str(home / "pid"),
                 "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not engine.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                said = (home / "dockerd.log").read_text(errors="replace").strip().splitlines()
                cls.stop_own(folder)
                raise NoEngine(
                    f"dockerd does not start here ({said[-1][:160] if said else 'it says nothing'})"
                )
            time.sleep(0.1)
        return engine

    @staticmethod
    def stop_own(folder: Path) -> None:
        """End the engine that `find` started, if it did."""
        home = folder / "engine"
        with contextlib.suppress(OSError, ValueError):
            pid = int((home / "pid").read_text())
            if str(home) in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                os.kill(pid, signal.SIGTERM)
                deadline = time.monotonic() + STOP_SECONDS
                while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                    time.sleep(0.05)
        if home.is_dir():
            mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
            for place in sorted((place for place in mounts if place.startswith(str(home))), reverse=True):
                subprocess.run(["umount", "-l", place], check=False, capture_output=True)

    def answers(self) -> bool:
        """Whether it serves us."""
        try:
            self._sdk().ping()
        except Exception:  # noqa: BLE001 (whatever the SDK raises, it does not serve)
            return False
        return True

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def prepare_image(self) -> Image:
        """Make an image of this machine's static busybox, else pull one. Raises NoEngine."""
        busybox = shutil.which("busybox")
        if busybox and not _is_dynamic(Path(busybox)):
            with contextlib.suppress(Exception):
                repository, tag = IMAGE.split(":")
                self._sdk().api.import_image_from_data(_busybox_root(busybox), repository=repository, tag=tag)
                return Image(IMAGE, "made of this machine's busybox", is_ours=True)
        try:
            self._sdk().images.pull(PULLED_IMAGE)
        except Exception as error:
            raise NoEngine(
                f"there is no static busybox here and {PULLED_IMAGE} cannot be pulled ({error})"
            ) from error
        return Image(PULLED_IMAGE, "pulled", is_ours=False)

    def tasks(self, cluster: str, names: dict[str, str]) -> list[Task]:
        """Containers of the cluster that run. `names`: node ids to names."""
        found = self._sdk().api.containers(filters={"label": [f"swarmlet.cluster={cluster}"]})
        return [
            Task(
                names.get(item["Labels"]["swarmlet.node"], "?"),
                item["Labels"]["swarmlet.allocation"],
                # A restarted container keeps its id.
                f"{item['Id']}:{self._started(item['Id'])}",
                0,
                f"container {item['Names'][0].lstrip('/')}",
            )
            for item in found
            if item["State"] == "running"
        ]

    def _started(self, container: str) -> str:
        with contextlib.suppress(Exception):
            return str(self._sdk().api.inspect_container(container)["State"]["StartedAt"])
        return ""

    def kill(self, identity: str) -> None:
        """SIGKILL to a container, if it still runs."""
        with contextlib.suppress(Exception):
            self._sdk().api.kill(identity.partition(":")[0])

    def clean(self, cluster: str, image: str) -> None:
        """Remove the cluster's containers, and the image if one is named."""
        with contextlib.suppress(Exception):
            for item in self._sdk().api.containers(
                all=True, filters={"label": [f"swarmlet.cluster={cluster}"]}
            ):
                self._sdk().api.remove_container(item["Id"], force=True, v=True)
            if image:
                self._sdk().api.remove_image(image, force=True)
        self.close()

    def _sdk(self) -> Any:
        if self._client is None:
            import docker

            self._client = docker.DockerClient(base_url=f"unix://{self.socket}", timeout=10)
        return self._client


def _is_dynamic(program: Path) -> bool:
    """Whether an ELF program names an interpreter: it would not run in an empty root."""
    return b"/ld-linux" in program.read_bytes() or b"/ld-musl" in program.read_bytes()


def _busybox_root(program: str) -> bytes:
    """A root file system with busybox under all its names, as a tar archive."""
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    binary = Path(program).resolve().read_bytes()
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for folder in ("bin", "etc", "proc", "sys", "dev", "run", "tmp", "root"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for path, content, mode in (
            ("bin/busybox", binary, 0o755),
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644),
        ):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
        for name in sorted(set(names) - {"busybox"}):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return memory.getvalue()
