"""`swarmlet var` and the keyring's commands: values come in by several ways and go out when asked for."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.agents.cluster import Cli

pytestmark = pytest.mark.slow

SECRET = "swordfish-7391"


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_a_variable_is_put_shown_listed_and_purged(ask: Cli, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    made = ask("var", "put", "cli/one", f"password=@{tmp_path}/password", "user=bob")
    assert made.code == 0, made
    assert made.out.startswith("created cli/one at index ")
    assert made.out.endswith(": password, user\n")
    hidden = ask("var", "get", "cli/one")
    assert "(hidden)" in hidden.out
    assert SECRET not in made.out + hidden.out + made.err + hidden.err
    assert ask("var", "get", "--item", "password", "cli/one").out == SECRET
    assert SECRET in ask("var", "get", "-show", "cli/one").out
    assert ask("var", "get", "-json", "cli/one").json()["Items"]["password"] == SECRET
    listed = ask("var", "list", "cli/")
    assert "cli/one" in listed.out
    assert SECRET not in listed.out
    assert ask("var", "purge", "cli/one").out == "purged cli/one\n"
    gone = ask("var", "get", "cli/one")
    assert (gone.code, "no variable 'cli/one'" in gone.err) == (1, True)
    assert ask("var", "purge", "cli/one").code == 1


def test_a_second_put_needs_force_or_the_index(ask: Cli) -> None:
    assert ask("var", "put", "cli/cas", f"k={SECRET}").code == 0
    lost = ask("var", "put", "cli/cas", "k=2")
    assert lost.code == 1
    assert "overwrite it with --force" in lost.err
    assert SECRET not in lost.err
    index = ask("var", "get", "-json", "cli/cas").json()["ModifyIndex"]
    assert ask("var", "put", "-cas", str(index + 1), "cli/cas", "k=2").code == 1
    assert ask("var", "put", "-check-index", str(index), "cli/cas", "k=2").code == 0
    assert ask("var", "put", "-force", "cli/cas", "k=3").out.startswith("changed cli/cas at index ")
    assert ask("var", "purge", "-cas", str(index), "cli/cas").code == 1


def test_items_come_from_json_and_standard_input(
    ask: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "all.json").write_text('{"a": "1", "b": "2"}')
    typed(monkeypatch, f"{SECRET}\n")
    said = ask("var", "put", "--json", "cli/in", f"@{tmp_path}/all.json", "c=-")
    assert said.code == 0, said
    assert said.json()["Items"] == ["a", "b", "c"]
    assert ask("var", "get", "-json", "cli/in").json()["Items"] == {"a": "1", "b": "2", "c": SECRET}
    typed(monkeypatch, '{"Path": "x", "Items": {"z": "26"}}')
    assert ask("var", "put", "--force", "cli/in", "-").code == 0
    assert ask("var", "get", "-json", "cli/in").json()["Items"] == {"z": "26"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cli/x", SECRET), "argument 1 is not KEY=VALUE"),
        (("cli/x", "a=-", "b=-"), "one item only"),
        (("cli/x", "a=@/none/there"), "cannot read /none/there"),
        (("cli/x", "a=1", "--force", "--cas", "3"), "contradict"),
        (("c x", "a=1"), "variable path 'c x'"),
    ],
)
def test_wrong_input_is_refused_without_values(ask: Cli, arguments: tuple[str, ...], says: str) -> None:
    said = ask("var", "put", *arguments)
    assert said.code == 1
    assert says in said.err
    assert SECRET not in said.err


def test_json_that_is_none_is_refused_without_quoting_it(ask: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (f'{{"a": {SECRET}', f'{{"a": ["{SECRET}"]}}', f'"{SECRET}"'):
        typed(monkeypatch, text)
        said = ask("var", "put", "cli/x", "-")
        assert said.code == 1
        assert SECRET not in said.err


def test_the_keyring_is_listed_and_rotated(ask: Cli) -> None:
    assert ask("var", "put", "-force", "cli/key", "k=v").code == 0
    rotated = ask("operator", "root", "keyring", "rotate", "-full")
    assert rotated.code == 0, rotated
    assert rotated.out.endswith("is active\n")
    keys = ask("operator", "root", "keyring", "list", "-json").json()
    assert keys[-1]["State"] == "active"
    assert "active" in ask("operator", "root", "keyring", "list").out
    assert ask("operator", "root", "keyring", "remove", keys[0]["KeyID"]).code == 0
    assert ask("operator", "root", "keyring", "remove", keys[-1]["KeyID"]).code == 1
