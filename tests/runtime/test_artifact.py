"""Artifacts: what a source means, and fetching it over HTTP, from git, from the machine."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from swarmlet.errors import DriverError, InvalidInput
from swarmlet.model.job import Artifact
from swarmlet.runtime import artifact as artifact_module
from swarmlet.runtime.artifact import Artifacts
from swarmlet.runtime.artifact_source import Getter, Source, source_of
from swarmlet.runtime.task_directory import Place

SHA = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("artifact", "source"),
    [
        (
            Artifact(source="https://x.org/a.tar.gz?checksum=" + SHA + "&token=1"),
            Source(
                getter=Getter.HTTP,
                location="https://x.org/a.tar.gz?token=1",
                name="a.tar.gz",
                archive="tar",
                checksum=("sha256", "ab" * 32),
            ),
        ),
        (
            Artifact(source="http://x.org/a.zip", mode="file", destination="local/b"),
            Source(getter=Getter.HTTP, location="http://x.org/a.zip", name="a.zip"),
        ),
        (
            Artifact(source="http://x.org/d?x=y", options={"archive": "tgz", "checksum": "c" * 40}),
            Source(
                getter=Getter.HTTP,
                location="http://x.org/d?x=y",
                name="d",
                archive="tar",
                checksum=("sha1", "c" * 40),
            ),
        ),
        (
            Artifact(source="http://x.org/a.tar", options={"archive": "false", "filename": "b"}),
            Source(getter=Getter.HTTP, location="http://x.org/a.tar", name="b"),
        ),
        (
            Artifact(source="git::https://x.org/r.git//sub/dir?ref=v1", options={"depth": "0"}),
            Source(
                getter=Getter.GIT,
                location="https://x.org/r.git",
                name="r",
                ref="v1",
                directory="sub/dir",
                depth=0,
            ),
        ),
        (
            Artifact(source="github.com/org/repo"),
            Source(getter=Getter.GIT, location="https://github.com/org/repo", name="repo"),
        ),
        (
            Artifact(source="git@x.org:o/r.git", options={"ref": "main"}),
            Source(getter=Getter.GIT, location="git@x.org:o/r.git", name="r", ref="main"),
        ),
        (
            Artifact(source="file:///srv/a%20b"),
            Source(getter=Getter.LOCAL, location="/srv/a b", name="a b"),
        ),
        (
            Artifact(source="/srv/x.tgz"),
            Source(getter=Getter.LOCAL, location="/srv/x.tgz", name="x.tgz", archive="tar"),
        ),
    ],
)
def test_a_source_means(artifact: Artifact, source: Source) -> None:
    assert source_of(artifact) == source


@pytest.mark.parametrize(
    ("artifact", "says"),
    [
        (Artifact(source="relative/path"), "an absolute path of the node"),
        (Artifact(source="s3::https://x"), "expected http"),
        (Artifact(source="http://x.org/"), "no file name"),
        (Artifact(source="http://x.org/a", options={"filename": ".."}), "no file name"),
        (Artifact(source="http://x.org/a", options={"checksum": "sha256:1"}), "is none"),
        (Artifact(source="http://x.org/a", options={"archive": "rar"}), '"rar" is unknown'),
        (Artifact(source="git::--upload-pack=x"), "cannot begin with -"),
        (Artifact(source="git::https://x.org/r", options={"ref": "--x"}), "cannot begin with -"),
        (Artifact(source="git::https://x.org/r", options={"checksum": SHA}), "has no checksum"),
    ],
)
def test_a_source_that_means_nothing_is_refused(artifact: Artifact, says: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        source_of(artifact)
    assert says in str(raised.value)


def test_no_message_holds_a_password() -> None:
    with pytest.raises(InvalidInput) as raised:
        source_of(Artifact(source="ftp://user:swordfish@x.org/a?token=swordfish"))
    assert "swordfish" not in str(raised.value)


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        info = tarfile.TarInfo("bin/run")
        info.size, info.mode = 2, 0o755
        made.addfile(info, io.BytesIO(b"#!"))
    return buffer.getvalue()


ARCHIVE = archive()


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/a.tar.gz":
            return web.Response(body=ARCHIVE)
        if request.path == "/moved":
            raise web.HTTPFound("/a.tar.gz")
        if request.path == "/private" and request.headers.get("X-Token") == "t":
            return web.Response(text="private")
        raise web.HTTPForbidden

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def fetch(tmp_path: Path, artifact: Artifact, *, may_read: bool = False) -> Path:
    base = tmp_path / "local"
    base.mkdir(exist_ok=True)
    names = (
        tuple(artifact.destination.removeprefix("local/").split("/"))
        if artifact.destination != "local/"
        else ()
    )
    await Artifacts(lambda path: may_read).fetch(artifact, Place(base, names), tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []
    return base


async def test_an_archive_is_fetched_checked_and_unpacked(tmp_path: Path) -> None:
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    async with server() as url:
        artifact = Artifact(source=f"{url}/a.tar.gz", options={"checksum": f"sha256:{digest}"})
        base = await fetch(tmp_path, artifact)
    assert (base / "bin" / "run").read_bytes() == b"#!"
    assert (base / "bin" / "run").stat().st_mode & 0o111


async def test_a_file_is_put_where_and_as_what_the_job_says(tmp_path: Path) -> None:
    async with server() as url:
        artifact = Artifact(
            source=f"{url}/private", destination="local/sub/name", mode="file", headers={"X-Token": "t"}
        )
        base = await fetch(tmp_path, artifact)
        await fetch(tmp_path, Artifact(source=f"{url}/moved", options={"archive": "false"}))
    assert (base / "sub" / "name").read_text() == "private"
    assert (base / "moved").read_bytes() == ARCHIVE


async def test_what_is_wrong_is_said_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with server() as url:
        place = url.replace("http://", "http://user:swordfish@")
        for artifact, says, is_temporary in (
            (Artifact(source=f"{place}/none?token=swordfish"), "answers 403 Forbidden", True),
            (
                Artifact(source=f"{url}/a.tar.gz", options={"checksum": SHA}),
                "the checksum of a.tar.gz is sha256:",
                False,
            ),
            (Artifact(source="http://127.0.0.1:1/swordfish"), "cannot be read: ClientConnectorError", True),
        ):
            with pytest.raises(DriverError) as raised:
                await fetch(tmp_path, artifact)
            assert says in str(raised.value)
            assert "swordfish" not in str(raised.value)
            assert raised.value.temporary is is_temporary
        monkeypatch.setattr(artifact_module, "DOWNLOAD_BYTES_MAX", 10)
        with pytest.raises(DriverError, match="more than 10 B"):
            await fetch(tmp_path, Artifact(source=f"{url}/a.tar.gz"))
    assert list((tmp_path / "local").iterdir()) == []


async def test_files_of_the_machine_are_for_jobs_that_could_read_them_anyway(tmp_path: Path) -> None:
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / "a").write_text("x")
    for name in ("srv", "srv/a"):
        with pytest.raises(DriverError, match="is not for jobs"):
            await fetch(tmp_path, Artifact(source=str(tmp_path / name)))
        base = await fetch(tmp_path, Artifact(source=str(tmp_path / name)), may_read=True)
        assert (base / "a").read_text() == "x"


@pytest.mark.slow
async def test_a_repository_is_checked_out_at_its_ref(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*arguments: str) -> str:
        command = ("git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments)
        return subprocess.run(
            command, cwd=repository, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    for version in ("one", "two"):
        (repository / "sub").mkdir(exist_ok=True)
        (repository / "sub" / "file").write_text(version)
        git("add", "-A")
        git("commit", "--quiet", "-m", version)
        git("tag", version)
    url = f"git::file://{repository}"
    with pytest.raises(DriverError, match="not allowed"):
        await fetch(tmp_path, Artifact(source=url))
    monkeypatch.setattr(artifact_module, "_PROTOCOLS", "file")
    base = await fetch(tmp_path, Artifact(source=url))
    assert (base / "sub" / "file").read_text() == "two"
    assert not (base / ".git").exists()
    base = await fetch(tmp_path, Artifact(source=f"{url}//sub?ref=one", destination="local/x"))
    assert (base / "x" / "file").read_text() == "one"
    with pytest.raises(DriverError, match="has no directory other"):
        await fetch(tmp_path, Artifact(source=f"{url}//other"))
    with pytest.raises(DriverError, match="git fetch failed"):
        await fetch(tmp_path, Artifact(source=url, options={"ref": "none"}))
