"""A Docker registry of our own for tests, in the network namespace of a test's engine, on its loopback."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

PROGRAM = "docker-registry"
START_SECONDS_MAX = 10.0
USER, PASSWORD = "ann", "open sesame"
#: htpasswd's line for them (bcrypt, cost 5).
LINE = f"{USER}:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"


def why_not() -> str:
    """Why no registry can be started here; empty when one can."""
    for tool in (PROGRAM, "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    return ""


class Registry:
    """One registry. `restart` after `stop` keeps what was pushed."""

    def __init__(self, root: Path, engine_pid: int, port: int, *, is_guarded: bool = False) -> None:
        self.address = f"127.0.0.1:{port}"
        self._root, self._is_guarded = root, is_guarded
        self._inside = ("nsenter", "--net", "--target", str(engine_pid))
        self._process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True)
        guard = ""
        if is_guarded:
            (root / "users").write_text(LINE)
            guard = f"auth:\n  htpasswd:\n    realm: test\n    path: {root}/users\n"
        (root / "config.yml").write_text(
            f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\n"
            f"http:\n  addr: {self.address}\n{guard}"
        )

    def start(self) -> None:
        subprocess.run([*self._inside, "ip", "link", "set", "lo", "up"], check=True)
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._inside, PROGRAM, "serve", str(self._root / "config.yml")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            if "listening on" in (self._root / "log").read_text():
                return
            time.sleep(0.05)
        raise AssertionError("no registry: " + (self._root / "log").read_text()[-2000:])

    def requests(self) -> str:
        """What it was asked, as its log has it."""
        return (self._root / "log").read_text()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
