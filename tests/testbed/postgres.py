"""A Postgres image made from the files of this machine's own package: no registry, nothing but what the server needs."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.testbed.host import Host

IMAGE = "postgres:testbed"
PROGRAMS = ("postgres", "initdb", "psql")
#: What the bootstrap loads; the compiler of queries (llvmjit) is as large as all the rest.
MODULES = ("plpgsql.so", "dict_snowball.so")
USER_ID = 999


def installed() -> tuple[Path, Path] | None:
    """The package's directories of programs and of data, of the newest version; None where there is none."""
    versions = sorted(
        (path.parent.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")),
        key=lambda path: int(path.name) if path.name.isdigit() else 0,
    )
    if not versions:
        return None
    share = Path("/usr/share/postgresql") / versions[-1].name
    return (versions[-1], share) if share.is_dir() else None


def why_not() -> str:
    """Why there can be no image; empty: there can."""
    return "" if installed() else "postgresql is not installed (apt-get install postgresql)"


def image() -> bytes:
    """The root file system as a tar archive."""
    found = installed()
    assert found is not None
    library, share = found
    files = {path for name in PROGRAMS for path in [library / "bin" / name]}
    files |= {library / "lib" / name for name in MODULES}
    needed = sorted(files | {each for file in sorted(files) for each in _libraries(file)})
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for folder in ("bin", "etc", "proc", "sys", "dev", "run", "root"):
            _directory(archive, folder, 0o755)
        _directory(archive, "tmp", 0o1777)
        busybox = Path(shutil.which("busybox") or "/bin/busybox").resolve()
        archive.add(busybox, "bin/busybox")
        for name in ("sh", "sleep", "cat"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        users = f"root:x:0:0:root:/root:/bin/sh\npostgres:x:{USER_ID}:{USER_ID}::/tmp:/bin/sh\n".encode()
        _file(archive, "etc/passwd", users)
        _file(archive, "etc/group", f"root:x:0:\npostgres:x:{USER_ID}:\n".encode())
        for path in needed:
            archive.add(path.resolve(), str(path).lstrip("/"))
        archive.add(share, str(share).lstrip("/"), filter=_as_it_is_meant)
    return memory.getvalue()


def _as_it_is_meant(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without links to where nothing is."""
    return None if info.issym() else info


def _libraries(program: Path) -> list[Path]:
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    return [Path(each) for each in re.findall(r"(/\S+) \(0x", said)]


def _directory(archive: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


def _file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))


def give_to(hosts: list[Host]) -> None:
    """Have the engines of all hosts know the image."""
    data = image()
    repository, tag = IMAGE.split(":")
    for host in hosts:
        host.engine.request(
            "POST",
            "/images/create",
            data,
            fromSrc="-",
            repo=repository,
            tag=tag,
            changes="ENV PATH=/bin:/usr/lib/postgresql/bin",
        )
