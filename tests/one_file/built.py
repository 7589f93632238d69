"""The real file, built once per run of the tests."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Building compiles everything; on a busy machine that takes minutes.
BUILD_SECONDS_MAX = 500


def build(output: Path) -> None:
    """Build with this interpreter's packages, as the script does."""
    done = subprocess.run(
        [ROOT / "scripts" / "build", "--quick", "--output", output],
        env={**os.environ, "SWARMLET_VENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr


@functools.cache
def one_file() -> Path:
    """The file; it goes with the test run."""
    folder = Path(tempfile.mkdtemp(prefix="swarmlet-built-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    build(folder / "swarmlet")
    return folder / "swarmlet"
