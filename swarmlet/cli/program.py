"""How this program starts another process of itself: out of the one file, or as a module of an installed package."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Read by the one file before anything of ours runs: which Python, and where it unpacks.
FILE_VARIABLES = ("SWARMLET_CACHE_DIR", "SWARMLET_PYTHON")


def one_file() -> str:
    """The file that this process came out of, where it was built as one (`scripts/build`); else empty."""
    # Set by the file's own first code, scripts/one_file/unpack.py.
    return str(getattr(sys.modules["__main__"], "PROGRAM_FILE", ""))


def command() -> list[str]:
    """What to run. A new version put in the place of the old one is what runs next."""
    file = one_file()
    return [file] if file else [sys.executable, "-m", "swarmlet"]


def environment() -> dict[str, str]:
    """This process's variables, with which Python finds the package."""
    if one_file():
        return dict(os.environ)
    paths = [package_root(), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def unit_variables() -> dict[str, str]:
    """What a unit has to set, since it inherits nothing: where this program is, if it is not found by itself."""
    if one_file():
        return {name: os.environ[name] for name in FILE_VARIABLES if os.environ.get(name)}
    root = package_root()
    return {} if Path(root).name in {"site-packages", "dist-packages"} else {"PYTHONPATH": root}


def package_root() -> str:
    """The directory that the package lies in."""
    import swarmlet

    return str(Path(swarmlet.__file__).resolve().parent.parent)
