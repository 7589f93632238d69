"""Makes one file of this tree and the locked packages; `scripts/build` calls it with the environment's Python.

    scripts/build                      # dist/swarmlet
    scripts/build --output /tmp/swarmlet --quick

The file is a shell script of a few lines (it finds Python, and says where there is none), followed by a zip that Python runs:
`one_file/__main__.py`, `one_file/unpack.py`, and the content as one archive. The packages are taken from the environment,
where pip has put them after it had compared their hashes with the lock; so what is shipped is what was tested.
The same tree, Python and packages give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.machinery
import importlib.metadata
import io
import lzma
import os
import platform
import py_compile
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ONE_FILE = ROOT / "scripts" / "one_file"
LOCK = ROOT / "requirements.lock"
LOCKED = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
#: Names of the older platform tags (PEP 513, 571, 599).
MANYLINUX_OLD = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
#: Not needed to run: tests, headers, what compilers and type checkers read.
LEFT_OUT_FOLDERS = {"tests", "__pycache__"}
LEFT_OUT_SUFFIXES = {".a", ".c", ".h", ".pxd", ".pxi", ".pyc", ".pyi", ".pyx"}
#: Pip's own notes about an installation; they differ from one to the next.
LEFT_OUT_NOTES = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}
#: The earliest time that a zip can say.
TIME = (1980, 1, 1, 0, 0, 0)
TIME_SECONDS = 315_532_800
#: Of the content, 25 MiB are left in a minute and a half; at the lowest 32 MiB in ten seconds.
XZ_PRESET, XZ_PRESET_QUICK = 6, 0

STUB = """#!/bin/sh
# swarmlet {version}: everything in one file. Needs {built_for}.
if [ "$(wc -c <"$0")" -ne {size} ]; then
  echo "swarmlet: $0 is damaged (it is not {size} bytes long): copy it again" >&2
  exit 1
fi
python=${{SWARMLET_PYTHON:-/usr/bin/{python}}}
[ -x "$python" ] || python=$(command -v {python} || command -v python3) || {{
  echo "swarmlet: no {python} here, which this file needs: install it, or name it in SWARMLET_PYTHON" >&2
  exit 1
}}
exec "$python" -I -S "$0" "$@"
"""


def main() -> int:
    """Build, and say what was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("dist/swarmlet"))
    parser.add_argument("--quick", action="store_true", help="compress less")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarmlet-build-") as folder:
        content = Path(folder)
        glibc = collect(content)
        compile_all(content)
        size = sum(path.stat().st_size for path in content.rglob("*") if path.is_file())
        archive = pack(content, XZ_PRESET_QUICK if options.quick else XZ_PRESET)
    write(options.output, archive, glibc)
    digest = hashlib.sha256(options.output.read_bytes()).hexdigest()
    print(
        f"{options.output}: {mib(options.output.stat().st_size)}, unpacked {mib(size)}, for {built_for()}, glibc {glibc} or newer"
    )
    print(f"sha256 {digest}")
    return 0


def mib(size: int) -> str:
    """In MiB."""
    return f"{size / (1 << 20):.1f} MiB"


def built_for() -> str:
    """What the compiled modules run in."""
    return f"CPython {platform.python_version_tuple()[0]}.{platform.python_version_tuple()[1]} on {platform.machine()} with glibc"


def python_name() -> str:
    """The interpreter's usual name."""
    return "python{}.{}".format(*platform.python_version_tuple()[:2])


def collect(content: Path) -> str:
    """This tree's package and the locked ones. The version of glibc that they need."""
    needed = (2, 5)
    for name, version in LOCKED.findall(LOCK.read_text(encoding="utf-8")):
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(f"{name} {version} is locked and not installed in {sys.prefix}") from None
        if found.version != version:
            raise SystemExit(f"{name} {version} is locked, and {sys.prefix} has {found.version}")
        for path in copied(found):
            copy(Path(str(found.locate_file(path))), content / path)
        needed = max(needed, glibc_of(found))
    for source in sorted((ROOT / "swarmlet").rglob("*")):
        if source.suffix == ".py" or source.name == "py.typed":
            copy(source, content / source.relative_to(ROOT))
    return ".".join(map(str, needed))


def copied(found: importlib.metadata.Distribution) -> Iterator[str]:
    """The files of a package that go in. Ends the program where one is not as it was installed."""
    for file in sorted(found.files or (), key=str):
        if (
            ".." in file.parts
            or LEFT_OUT_FOLDERS & set(file.parts)
            or file.suffix in LEFT_OUT_SUFFIXES
            or file.name in LEFT_OUT_NOTES
        ):
            continue
        if file.hash is not None:
            seen = hashlib.new(file.hash.mode, file.read_binary()).digest()
            if base64.urlsafe_b64encode(seen).rstrip(b"=").decode() != file.hash.value:
                raise SystemExit(
                    f"{file.locate()} was changed after its installation: make the environment anew"
                )
        yield str(file)


def glibc_of(found: importlib.metadata.Distribution) -> tuple[int, int]:
    """The oldest glibc that one of the wheel's tags promises to run with."""
    promised = []
    for line in (found.read_text("WHEEL") or "").splitlines():
        tag = line.removeprefix("Tag: ").rpartition("-")[2]
        if match := MANYLINUX.match(tag):
            promised.append((int(match[1]), int(match[2])))
        promised += [version for name, version in MANYLINUX_OLD.items() if tag.startswith(name + "_")]
    return min(promised, default=(2, 5))


def copy(source: Path, target: Path) -> None:
    """One file's bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def compile_all(content: Path) -> None:
    """Byte code beside every module. It is never compared with its source: nobody edits what is unpacked."""
    for source in sorted(content.rglob("*.py")):
        py_compile.compile(
            str(source),
            dfile=str(source.relative_to(content)),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def pack(content: Path, preset: int) -> bytes:
    """The archive: in order, without owners and times."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(content.rglob("*")):
            entry = archive.gettarinfo(str(path), arcname=str(path.relative_to(content)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = TIME_SECONDS
            entry.mode = 0o755 if path.is_dir() else 0o644
            if path.is_dir():
                archive.addfile(entry)
            else:
                with path.open("rb") as file:
                    archive.addfile(entry, file)
    return lzma.compress(plain.getvalue(), preset=preset)


def write(output: Path, archive: bytes, glibc: str) -> None:
    """The file, in one step."""
    facts = {
        "digest": hashlib.sha256(archive).hexdigest()[:32],
        "suffix": importlib.machinery.EXTENSION_SUFFIXES[0],
        "built_for": built_for(),
        "python": python_name(),
        "glibc": glibc,
    }
    first = (ONE_FILE / "__main__.py").read_text(encoding="utf-8")
    assert first.count("FACTS = {}") == 1
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as outer:
        for name, data in (
            ("__main__.py", first.replace("FACTS = {}", f"FACTS = {facts!r}").encode()),
            ("unpack.pyc", compiled(ONE_FILE / "unpack.py")),
            ("content.tar.xz", archive),
        ):
            outer.writestr(zipfile.ZipInfo(name, TIME), data)
    whole = prefixed(packed.getvalue())
    output.parent.mkdir(parents=True, exist_ok=True)
    new = output.with_name(output.name + ".new")
    new.write_bytes(whole)
    new.chmod(0o755)
    os.replace(new, output)


def compiled(source: Path) -> bytes:
    """Byte code, so that it is not compiled at every start."""
    with tempfile.TemporaryDirectory() as folder:
        made = py_compile.compile(
            str(source),
            cfile=os.path.join(folder, "made.pyc"),
            dfile=source.name,
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        assert made is not None
        return Path(made).read_bytes()


def prefixed(packed: bytes) -> bytes:
    """The zip after the shell's part, which says how long the whole is."""
    from swarmlet import VERSION

    size = len(packed)
    while True:
        stub = STUB.format(version=VERSION, built_for=built_for(), python=python_name(), size=size).encode()
        if len(stub) + len(packed) == size:
            return stub + packed
        size = len(stub) + len(packed)


if __name__ == "__main__":
    sys.exit(main())
