"""Files that hold the program: a little one in place of it, made in a moment; the real one is `tests.one_file.built`."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import build

#: Stands in for the program: says where it came from and what it was asked.
PROGRAM = """
import sys

def main():
    print(__file__, sys.modules["__main__"].PROGRAM_FILE, *sys.argv[1:])
    return 0
"""
Make = Callable[..., Path]


def archive(program: str = PROGRAM) -> bytes:
    """A content: a package that has only a main module."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, text in (("swarmlet/__init__.py", ""), ("swarmlet/__main__.py", program)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return lzma.compress(plain.getvalue(), preset=0)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a little file: `make(program=...)`."""

    def written(name: str = "swarmlet", program: str = PROGRAM, glibc: str = "2.17") -> Path:
        file = tmp_path / "bin" / name
        build.write(file, archive(program), glibc)
        return file

    return written
