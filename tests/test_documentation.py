"""The reference pages say what the code does: those that follow from it are compared, the others are checked for gaps."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from scripts.document import PAGES
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
