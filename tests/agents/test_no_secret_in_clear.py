"""Must hold for a whole run with secrets: no log, disk, snapshot or answer holds a value in clear.

The authorised read and the task's own memory (its environment, its secrets directory) are where values belong; the test
looks there, too, so that it is known to find what it looks for.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmlet.api.server import ROUTES
from swarmlet.errors import SwarmletError
from swarmlet.runtime.secrets_directory import mounts_below
from tests.agents.cluster import LocalCluster, Node, local_cluster, process, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: Values that nothing else contains, of the first and the second version.
FIRST = {"password": "swordfish-Q7x1", "token": "marlin-Zk93p"}
SECOND = {"password": "barracuda-8Wm2", "token": "marlin-Zk93p"}
VALUES = sorted({*FIRST.values(), *SECOND.values()})

#: The task says which values it sees by their hashes.
SCRIPT = """
say() { printf '%s %s\\n' "$1" "$(printf '%s' "$2" | sha256sum | cut -c1-16)"; }
say env "$PASSWORD"
say file "$(cat "$NOMAD_SECRETS_DIR/password")"
exec sleep 1000
"""

JOB = """
job "keeper" {
  group "g" {
    count = 2
    update {
      min_healthy_time = "0s"
    }
    task "t" {
      driver = "raw_exec"
      config {
        command = "/bin/sh"
        args    = ["-c", %(script)s]
      }
      template {
        data        = <<EOT
{{ with nomadVar "nomad/jobs/keeper" }}PASSWORD={{ .password }}
TOKEN={{ .token }}{{ end }}
EOT
        destination = "secrets/app.env"
        env         = true
        splay       = "0s"
      }
      template {
        data        = "{{ key `nomad/jobs/keeper/password` }}"
        destination = "${NOMAD_SECRETS_DIR}/password"
        perms       = "0400"
        splay       = "0s"
      }
      resources {
        cpu    = 10
        memory = 16
      }
    }
  }
}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as made:
        made.join(made.token(), "n2")
        yield made


def put(node: Node, items: dict[str, str]) -> None:
    node.api.put("/v1/var/nomad/jobs/keeper", {"Items": items})


def allocations(node: Node) -> list[dict[str, Any]]:
    found = node.api.get("/v1/job/keeper/allocations")
    return [item for item in found if item["ClientStatus"] == "running" and item["DesiredStatus"] == "run"]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def said(node: Node, allocation: str) -> list[str]:
    query = {"task": "t", "type": "stdout", "plain": "true"}
    pieces = b"".join(node.api.stream(f"/v1/client/fs/logs/{allocation}", query))
    return pieces.decode().split("\n")[-3:-1]


def everyone_says(node: Node, password: str) -> bool:
    wanted = [f"env {digest(password)}", f"file {digest(password)}"]
    running = allocations(node)
    return len(running) == 2 and all(said(node, item["ID"]) == wanted for item in running)


def answers(node: Node) -> Iterator[tuple[str, bytes]]:
    """Every GET of the API, with real names for its parameters; but not the authorised read."""
    allocation = allocations(node)[0]
    names = {
        "{job:.+}": "keeper",
        "{allocation}": allocation["ID"],
        "{evaluation}": node.api.get("/v1/job/keeper/evaluations")[0]["ID"],
        "{deployment}": node.api.get("/v1/job/keeper/deployment")["ID"],
        "{node}": allocation["NodeID"],
        "{name}": "default",
        "{volume}": "none",
        "{one}": "n1",
        "{other}": "n2",
    }
    logs = {"task": "t", "type": "stdout", "plain": "true", "format": "prometheus"}
    for route in ROUTES:
        if "GET" not in route.methods or route.path.startswith("/v1/var/"):
            continue
        path = route.path
        for name, value in names.items():
            path = path.replace(name, value)
        assert "{" not in path, "a new parameter: give it a value here"
        for query in ({}, {"namespace": "*"}, {"path": "/"}, {"path": "t/secrets/password"}, logs):
            try:
                yield path, b"".join(node.api.stream(path, query))
            except SwarmletError as error:
                yield path, str(error).encode()


def on_disk(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below `folder` that is not in memory."""
    device = folder.stat().st_dev
    for root, names, files in os.walk(folder):
        names[:] = [name for name in names if (Path(root) / name).lstat().st_dev == device]
        for name in files:
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


def assert_clean(what: object, data: bytes) -> None:
    for value in VALUES:
        assert value.encode() not in data, f"{value} is in {what}"


def test_a_run_with_secrets_leaves_no_value_in_clear_anywhere(cluster: LocalCluster, tmp_path: Path) -> None:
    node, other = cluster.nodes
    job = tmp_path / "keeper.hcl"
    job.write_text(JOB % {"script": json.dumps(SCRIPT)})
    heard: list[str] = []

    def cli(*arguments: str, stdin: str = "") -> None:
        done = process(*arguments, stdin=stdin, SWARMLET_DATA_DIR=str(other.data))
        heard.append(f"{arguments}: {done.out}{done.err}")

    # The task waits for its variable, then sees it; a change restarts it with the new one.
    cli("job", "run", "--detach", str(job))
    wait_until(
        lambda: any("waits for variable" in json.dumps(item) for item in node.api.get("/v1/allocations"))
    )
    put(node, FIRST)
    wait_until(lambda: everyone_says(node, FIRST["password"]))
    put(other, SECOND)
    wait_until(lambda: everyone_says(node, SECOND["password"]))

    # The values are where they belong.
    assert node.api.get("/v1/var/nomad/jobs/keeper")["Items"] == SECOND
    allocation = allocations(node)[0]["ID"]
    holder = next(each for each in cluster.nodes if (each.data / "alloc" / allocation).is_dir())
    secrets = holder.data / "alloc" / allocation / "t" / "secrets"
    assert (secrets / "password").read_text() == SECOND["password"]
    assert secrets.resolve().stat().st_dev != holder.data.stat().st_dev

    # Everything else that people and programs do.
    node.api.put("/v1/operator/keyring/rotate", query={"full": "true"})
    for arguments in (
        ("job", "run", str(job)), ("job", "validate", str(job)), ("job", "plan", str(job)), ("job", "inspect", "keeper"),
        ("job", "history", "keeper"), ("status",), ("explain", "keeper"), ("job", "status", "keeper"),
        ("alloc", "status", allocation), ("alloc", "fs", allocation, "t/secrets"), ("alloc", "fs", allocation, "t"),
        ("alloc", "logs", allocation), ("var", "list"), ("var", "get", "nomad/jobs/keeper"),
        ("var", "put", "nomad/jobs/keeper", f"password={SECOND['password']}"), ("operator", "root", "keyring", "list"),
        ("node", "status"), ("alloc", "restart", allocation), ("job", "status", "--json", "keeper"),
    ):  # fmt: skip
        cli(*arguments)
    cli("var", "put", "nomad/jobs/keeper", "-", stdin=json.dumps(SECOND)[:-1])
    node.api.put("/v1/var/nomad/jobs/keeper", {"Items": SECOND}, {"namespace": "default"})
    wait_until(lambda: everyone_says(node, SECOND["password"]))

    # A command line is seen by every user of the machine.
    assert_clean("ps", subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, check=True).stdout)
    for text in heard:
        # What was typed comes back as the argument of this test alone.
        assert_clean("the command line", text.partition("): ")[2].encode())
    seen: dict[str, bytes] = {}
    for each in cluster.nodes:
        for asked, data in answers(each):
            assert_clean(asked, data)
            seen[asked] = seen.get(asked, b"") + data
    assert len(seen) > 40
    # What would show a value in clear is there: it is neither compressed nor left out.
    assert b"nomad/jobs/keeper" in seen["/v1/operator/snapshot"]
    assert b"secrets/app.env" in seen["/v1/job/keeper"]
    files = [pair for each in cluster.nodes for pair in on_disk(each.data)]
    assert any("raft" in str(path) for path, _ in files)
    for path, data in files:
        assert_clean(path, data)

    # Stopped: nothing is left in memory either.
    node.api.delete("/v1/job/keeper")
    wait_until(lambda: not allocations(node))
    wait_until(lambda: not [point for each in cluster.nodes for point in mounts_below(each.data)])
    for each in cluster.nodes:
        for path, data in on_disk(each.data):
            assert_clean(path, data)
    shared = Path("/dev/shm")
    for path in shared.glob("swarmlet-*"):
        assert_clean(path, b"".join(data for _, data in on_disk(path)))
