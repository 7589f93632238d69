"""Credentials for registries: from variables, files and helpers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import DriverError
from swarmlet.ids import JobId, Namespace
from swarmlet.runtime.drivers.docker_credentials import (
    Credentials,
    CredentialSource,
    ask_helper,
    written,
)
from swarmlet.runtime.registry_login import with_login
from swarmlet.runtime.template_source import Reader
from tests.runtime.template_world import Values

READER = Reader(namespace=Namespace("default"), job=JobId("web"), group="api", task="server")
HUB = "https://index.docker.io/v1/"


def test_a_variable_of_the_job_stands_for_user_and_password() -> None:
    source: Any = Values(username="ann", password="pw", other="x")
    config = {"image": "a", "auth": [{"variable": "nomad/jobs/web", "server_address": "r.example"}]}
    assert with_login(config, source, READER)["auth"] == {
        "server_address": "r.example",
        "username": "ann",
        "password": "pw",
    }
    assert with_login({"image": "a"}, None, READER) == {"image": "a"}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nomad/jobs/other", "may not read variable nomad/jobs/other"),
        ("nomad/jobs/web/api", "there is no variable nomad/jobs/web/api"),
        ("nomad/jobs/web", "holds no username and password"),
    ],
)
def test_a_variable_that_does_not_help_is_named(path: str, says: str) -> None:
    source: Any = Values(username="ann")
    with pytest.raises(DriverError, match=says):
        with_login({"auth": {"variable": path}}, source, READER)


def file_of(tmp_path: Path, content: object) -> CredentialSource:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    return CredentialSource(str(path))


async def test_entries_of_a_login_file_are_found_by_their_registry(tmp_path: Path) -> None:
    secret = base64.b64encode(b"ann:p:w").decode()
    source = file_of(
        tmp_path,
        {
            "auths": {
                HUB: {"auth": secret},
                "https://r.example:5000": {"identitytoken": "token"},
                "q.example": {"username": "bob", "password": "pw"},
                "empty.example": {},
            }
        },
    )
    assert await source.find("nginx:1") == Credentials(username="ann", password="p:w", registry="docker.io")
    assert await source.find("r.example:5000/a/b") == Credentials(
        identity_token="token", registry="r.example:5000"
    )
    found = await source.find("q.example/a")
    assert found is not None
    assert json.loads(base64.urlsafe_b64decode(found.header())) == {
        "username": "bob",
        "password": "pw",
        "serveraddress": "q.example",
    }
    assert await source.find("empty.example/a") is None
    assert await source.find("r.example/a") is None


async def test_a_file_that_was_asked_for_must_be_there_and_whole(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"none\.json"):
        await CredentialSource(str(tmp_path / "none.json")).find("a")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DriverError, match="not JSON"):
        await CredentialSource(str(tmp_path / "config.json")).find("a")
    with pytest.raises(DriverError, match="garbled"):
        await file_of(tmp_path, {"auths": {"r.example": {"auth": "/"}}}).find("r.example/a")


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "docker-credential-test"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


async def test_a_helper_is_asked_by_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, 'read host; printf \'{"Username":"<token>","Secret":"%s"}\' "$host"')
    source = file_of(tmp_path, {"credHelpers": {"r.example": "test"}})
    assert await source.find("r.example/a") == Credentials(identity_token="r.example", registry="r.example")
    assert await ask_helper("test", "docker.io") == Credentials(identity_token=HUB, registry="docker.io")
    assert await source.find("q.example/a") is None


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo top secret; exit 3", "failed for r.example with exit code 3"),
        ("echo nonsense", "holds no credentials"),
        ("exec sleep 60", "said nothing within 0.2 s"),
    ],
)
async def test_a_helper_that_fails_is_named_without_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    monkeypatch.setattr("swarmlet.runtime.drivers.docker_credentials.HELPER_SECONDS_MAX", 0.2)
    helper(tmp_path, monkeypatch, script + "\n")
    with pytest.raises(DriverError, match=says) as caught:
        await ask_helper("test", "r.example")
    assert "secret" not in str(caught.value)


async def test_a_helper_that_knows_nothing_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1\n")
    assert await ask_helper("test", "r.example") is None
    with pytest.raises(DriverError, match="cannot run the credential helper docker-credential-none"):
        await ask_helper("none", "r.example")
    with pytest.raises(DriverError, match="is no name"):
        await ask_helper("../x", "r.example")


def test_what_the_task_writes_is_for_its_images_registry() -> None:
    assert written({"username": "u", "password": "p"}, "r.example/a") == Credentials(
        username="u", password="p", registry="r.example"
    )
    assert written({}, "a") is None
