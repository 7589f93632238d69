"""`swarmlet alloc cp` between this machine and a task on another node, with real processes."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import Refused, SwarmletError
from tests.agents.cluster import (
    PROGRAM,
    Cli,
    LocalCluster,
    Node,
    clean_environment,
    raw_exec_job,
    two_nodes,
    wait_until,
)

pytestmark = pytest.mark.slow
SCRIPT = (
    "echo shh > $NOMAD_SECRETS_DIR/key; ln -s /etc $NOMAD_TASK_DIR/out; mkdir $NOMAD_TASK_DIR/tree; "
    "echo one > $NOMAD_TASK_DIR/tree/one; chmod 640 $NOMAD_TASK_DIR/tree/one; echo ready; sleep 1000"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with two_nodes() as made:
        yield made


@pytest.fixture(scope="module")
def allocation(cluster: LocalCluster) -> dict[str, Any]:
    (made,) = cluster.run("copied", raw_exec_job("copied", SCRIPT))
    log = f"/v1/client/fs/logs/{made['ID']}"
    wait_until(lambda: b"".join(cluster.nodes[0].api.stream(log, {"task": "t"})) == b"ready\n")
    return made


@pytest.fixture
def nodes(cluster: LocalCluster, allocation: dict[str, Any]) -> list[Node]:
    """The one that does not run it, and the one that does."""
    return cluster.around(allocation)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_a_tree_goes_there_and_back_through_any_node(
    nodes: list[Node], allocation: dict[str, Any], ask: Cli, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "large").write_bytes(os.urandom(3_000_000))
    (made / "tool").write_text("#!/bin/sh\n")
    (made / "tool").chmod(0o750)
    (made / "link").symlink_to("sub/large")
    place = f"{allocation['ID'][:8]}:/local"
    for number, node in enumerate(nodes):
        at = ("--address", node.api.address, "alloc", "cp")
        said = ask(*at, str(made), f"{place}/copy{number}")
        assert said.code == 0, said
        said = ask(*at, f"{place}/copy{number}", str(tmp_path / f"back{number}"))
        assert said.code == 0, said
        back = tmp_path / f"back{number}"
        assert (back / "sub" / "large").read_bytes() == (made / "sub" / "large").read_bytes()
        assert (back / "tool").stat().st_mode & 0o777 == 0o750
        assert os.readlink(back / "link") == "sub/large"


def test_copies_land_where_docker_cp_would_put_them(
    nodes: list[Node], allocation: dict[str, Any], ask: Cli, tmp_path: Path
) -> None:
    at, place = ("--address", nodes[0].api.address, "alloc", "cp"), f"{allocation['ID'][:8]}:local"
    # Into a directory that is there: under its own name; its contents; a single file; a new name.
    (tmp_path / "in").mkdir()
    assert ask(*at, f"{place}/tree", str(tmp_path / "in")).code == 0
    assert (tmp_path / "in/tree/one").stat().st_mode & 0o777 == 0o640
    assert ask(*at, f"{place}/tree/.", str(tmp_path / "in")).code == 0
    assert (tmp_path / "in/one").read_text() == "one\n"
    assert ask(*at, f"{place}/tree/one", str(tmp_path / "in/other")).code == 0
    assert (tmp_path / "in/other").read_text() == "one\n"
    assert ask(*at, str(tmp_path / "in/other"), f"{place}/tree/").code == 0
    assert ask(*at, str(tmp_path / "in/other"), f"{place}/tree/renamed").code == 0
    assert ask(*at, f"{place}/tree", str(tmp_path / "again")).code == 0
    assert sorted(os.listdir(tmp_path / "again")) == ["one", "other", "renamed"]


def test_a_stream_goes_through_standard_input_and_output(
    nodes: list[Node], allocation: dict[str, Any]
) -> None:
    environment = clean_environment(SWARMLET_DATA_DIR=str(nodes[0].data))
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("piped")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    place = f"{allocation['ID'][:8]}:/local"
    subprocess.run(
        [*PROGRAM, "alloc", "cp", "-", place], input=made.getvalue(), env=environment, check=True, timeout=60
    )
    done = subprocess.run(
        [*PROGRAM, "alloc", "cp", f"{place}/piped", "-"],
        capture_output=True,
        env=environment,
        check=True,
        timeout=60,
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        found = archive.extractfile("piped")
        assert found is not None
        assert found.read() == b"hello"


@pytest.mark.parametrize(
    ("source", "destination", "said"),
    [
        ("{here}", "{there}:/local/out/x", "leads out of"),
        ("{there}:/local/out/passwd", "{here}", "leads out of"),
        ("{there}:/secrets/key", "{here}", "may hold secrets"),
        ("{there}:../..", "{here}", "leads out of"),
        ("{there}:/nowhere", "{here}", "No such file"),
        ("{here}/nowhere", "{there}:/local", "no such file or directory here"),
        ("{here}", "{there}:/local/none/x", "no such directory in the task"),
        ("{here}", "{there}:/local/none/", "no such directory in the task"),
        ("{here}", "{here}", "one of SRC and DST must be in a task"),
        ("ffffffff:/local", "{here}", "no allocation"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    nodes: list[Node],
    allocation: dict[str, Any],
    ask: Cli,
    tmp_path: Path,
    source: str,
    destination: str,
    said: str,
) -> None:
    for node in nodes:
        names = {"here": str(tmp_path), "there": allocation["ID"][:8]}
        found = ask(
            *("--address", node.api.address, "alloc", "cp"),
            source.format(**names),
            destination.format(**names),
        )
        assert found.code == 1
        assert said in found.err
        assert not os.listdir(tmp_path)


def test_an_archive_that_leads_out_changes_nothing(nodes: list[Node], allocation: dict[str, Any]) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        link = tarfile.TarInfo("evil")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    path = f"/v1/swarmlet/allocation/{allocation['ID']}/archive"
    for node in nodes:
        with pytest.raises(SwarmletError, match="leads out of"):
            node.api.upload(path, iter([made.getvalue()]), None, {"path": "/local"}, timeout=30)
        with pytest.raises(Refused):
            list(node.api.stream(path, {"path": "/local/evil/passwd", "task": "t"}))
