"""`swarmlet simulate` without an agent."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from swarmlet.cli.main import root
from swarmlet.cli.simulate import parse_nodes, simulate
from swarmlet.errors import InvalidInput

JOB = """
job "web" {
  group "web" {
    count = 2
    task "main" {
      driver = "docker"
      config { image = "busybox" }
      resources {
        cpu    = 3000
        memory = 1000
      }
    }
  }
}
"""


def run(tmp_path: Path, *options: str) -> tuple[int, str]:
    file = tmp_path / "web.hcl"
    file.write_text(JOB)
    found = CliRunner().invoke(root, ["simulate", str(file), *options], obj={}, standalone_mode=False)
    if found.exception is not None:
        raise found.exception
    return found.return_value, found.output


def test_a_loss_that_leaves_room_is_survived(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = run(tmp_path, "--nodes", "3:zone=a|b|c", "--lose", "a", "--json")
    assert code == 0


def test_what_would_wait_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    code, output = run(tmp_path, "--nodes", "2:zone=a|b", "--lose", "b", "--json")
    found = json.loads(output)
    assert (code, found["Lost"]) == (3, ["node-2"])
    (group,) = found["After"]
    assert (group["Placed"], group["Wanted"], group["Survived"]) == (1, 2, 1)
    assert {each["NodeName"]: each["Reason"] for each in group["Failure"]["Refusals"]} == {
        "node-1": "cpu short by 2000 MHz",
        "node-2": "down",
    }
    _, text = run(tmp_path, "--nodes", "2:zone=a|b", "--lose", "b")
    assert "node-1: cpu short by 2000 MHz" in text


def test_a_specification_gives_each_node_the_next_of_several_values() -> None:
    nodes = parse_nodes("3:cpu=1000|2000,meta.rack=r1,class=big,volume=data,name=x", 2)
    assert [(node.name, node.resources.cpu) for node in nodes] == [
        ("x-3", 1000),
        ("x-4", 2000),
        ("x-5", 1000),
    ]
    assert nodes[0].meta == {"rack": "r1"}
    assert nodes[0].attributes["node.class"] == "big"
    assert "data" in nodes[0].host_volumes
    assert [(len(node.cores), node.core_mhz) for node in nodes] == [(1, 1000), (2, 1000), (1, 1000)]
    assert parse_nodes("1:cpu=9000,cores=3")[0].core_mhz == 3000


@pytest.mark.parametrize(
    "spec", ["x", "0", "3:cpu", "3:speed=1", "3:cpu=much", "1:cores=many", "1:cores=9999", "999999"]
)
def test_a_specification_that_makes_no_sense_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInput, match="--nodes"):
        parse_nodes(spec)


def test_the_examples_can_be_pasted_into_a_shell() -> None:
    """`zone=a|b|c` without quotes began the programs `b` and `c`."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "try-before-you-run.md"
    lines = [
        line.strip()
        for text in (simulate.help or "", page.read_text(encoding="utf-8"))
        for line in text.splitlines()
        if line.strip().startswith("swarmlet simulate ") and "--nodes" in line
    ]
    assert len(lines) >= 2
    for line in lines:
        assert "|" not in list(shlex.shlex(line, posix=True, punctuation_chars=True))
