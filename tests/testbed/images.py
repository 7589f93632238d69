"""The one image that the tests run, made here without a registry, and an engine's data folder that holds it.

A folder copied before an engine's first start costs milliseconds; loading the image into a running one a third of a second.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import mkdtemp

from tests.testbed.host import Host
from tests.testbed.namespace import run_command
from tests.testbed.network import Network

IMAGE = "busybox:testbed"


def busybox_root() -> bytes:
    """A root file system with busybox under all its names, as a tar archive that is the same every time."""
    binary = Path(shutil.which("busybox") or "/bin/busybox").resolve().read_bytes()
    names = run_command(["busybox", "--list"]).split()
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for folder in ("bin", "etc", "proc", "sys", "dev", "run", "tmp", "root"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        _add_file(archive, "bin/busybox", binary, 0o755)
        _add_file(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
        for name in sorted(set(names) - {"busybox"}):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return memory.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


class GoldenData:
    """An engine's data folder with `IMAGE` in it, made at first use and copied to every host; `close` removes it."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def copy_to(self, target: Path) -> None:
        """Give a host that has no engine data yet a copy."""
        if self._folder is None:
            self._folder = self._make()
        subprocess.run(["cp", "-a", str(self._folder / "docker"), str(target)], check=True)

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    @staticmethod
    def _make() -> Path:
        network = Network()
        folder = Path(mkdtemp(prefix=f"{network.name}-golden-"))
        host = Host("golden", 250, folder, network)
        try:
            host.start()
            repository, tag = IMAGE.split(":")
            host.engine.request(
                "POST",
                "/images/create",
                busybox_root(),
                fromSrc="-",
                repo=repository,
                tag=tag,
                changes='CMD ["sh"]',
            )
            host.stop_engine()
        finally:
            host.destroy()
            network.close()
        # What belongs to one engine only is not passed on.
        for own in ("network", "swarm", "containers", "engine-id"):
            path = folder / "docker" / own
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return folder
