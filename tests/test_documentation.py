"""The reference pages say what the code does: those that follow from it are compared, the others are checked for gaps."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import click
import msgspec
import pytest

from scripts.document import PAGES
from swarmlet.cli.catalogue import COMMANDS
from swarmlet.cli.main import foreign_command_apart, root, single_dash_to_double
from swarmlet.config import DriverSwitches, HostVolume, NodeConfig
from swarmlet.runtime.drivers.docker_keys import BLOCKS, KEYS, REFUSED

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(#[^)]*)?\)")


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_that_follow_from_the_code_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == PAGES[path](), "run: python scripts/document.py"


@pytest.mark.parametrize("kind", [NodeConfig, DriverSwitches, HostVolume], ids=lambda kind: kind.__name__)
def test_every_setting_is_documented_with_its_default(
    kind: type[NodeConfig | DriverSwitches | HostVolume],
) -> None:
    text = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", text, re.MULTILINE))
    for field in msgspec.structs.fields(kind):
        if field.default is msgspec.NODEFAULT or isinstance(field.default, msgspec.Struct):
            assert f"`{field.name}`" in text
            continue
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        shown = "" if default is None else msgspec.json.encode(default).decode()
        assert rows[field.name] == (shown or "unset")


def test_every_key_of_the_docker_driver_is_documented() -> None:
    text = (ROOT / "docs/reference/docker.md").read_text(encoding="utf-8")
    named = {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", code)}
    assert sorted({*KEYS, *REFUSED} - named) == []
    blocks = {key for keys in BLOCKS.values() for key in keys}
    assert sorted(blocks - named) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target, _ in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def shown_commands(text: str) -> Iterator[str]:
    """Command lines of a page: in blocks, with or without a prompt, and in the middle of sentences."""
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^\s*([\w@-]*[$#] +)?(sudo )?", "", line)  # noqa: PLW2901 -- without its prompt
            if line.startswith("swarmlet "):
                yield line
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from (code for code in re.findall(r"`([^`\n]+)`", rest) if code.startswith("swarmlet "))
    yield from (line.strip() for line in rest.splitlines() if line.startswith("    swarmlet "))


def told_commands(text: str) -> Iterator[str]:
    """Commands that the program's own sentences name: "see `swarmlet token list`"."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for words in re.findall(r"swarmlet((?: -{0,2}[a-z][a-z-]+)+)", node.value):
                if words.split()[0] in COMMANDS:
                    yield f"swarmlet {words}"


def why_not(line: str) -> str:
    """Why the command line would not take it; what stands for something (`[…]`, `…`) is passed over."""
    line = re.sub(r"\$\([^)]*\)", "X", line)
    line = re.split(r"\s[|>&;#]|;\s|\s{3,}", line)[0]
    words = single_dash_to_double(foreign_command_apart(shlex.split(re.sub(r"\[[^\]]*\]|…", "", line))[1:]))
    # With the root's own settings: click keeps a command's help option as its first context wants it.
    command = cast("click.Command", root)
    context = click.Context(root, info_name="swarmlet", **root.context_settings)
    while True:
        parser = command.make_parser(context)
        parser.allow_interspersed_args = not isinstance(command, click.Group)
        try:
            _, rest, _ = parser.parse_args(words)
        except click.UsageError as error:
            return error.format_message()
        if not isinstance(command, click.Group) or not rest:
            return f"too much: {rest}" if rest else ""
        found = command.get_command(context, rest[0])
        if found is None:
            return f"no command {rest[0]}"
        command, context, words = found, click.Context(found, info_name=rest[0], parent=context), rest[1:]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_page_shows_can_be_typed(path: Path) -> None:
    shown = list(shown_commands(path.read_text(encoding="utf-8")))
    assert {line: why_not(line) for line in shown if why_not(line)} == {}


def test_every_command_that_the_program_names_exists() -> None:
    told = {
        line: str(path.relative_to(ROOT))
        for path in sorted((ROOT / "swarmlet").rglob("*.py"))
        for line in told_commands(path.read_text(encoding="utf-8"))
    }
    assert len(told) > 20
    # What follows a name may be the next word of the sentence; a command or an option that is none is wrong.
    wrong = {f"{path}: {line}": why_not(line) for line, path in told.items()}
    assert {
        line: why for line, why in wrong.items() if why.lower().startswith(("no command", "no such"))
    } == {}
