"""Images' names, how a pull goes, and which images may go: without an engine."""

from __future__ import annotations

import doctest

import pytest

from swarmlet.runtime.drivers import docker_reference
from swarmlet.runtime.drivers.docker_ledger import HOUR_NS, KeptImage, Ledger, ledger_codec
from swarmlet.runtime.drivers.docker_pull import PullProgress
from swarmlet.runtime.drivers.docker_reference import pull_target, registry_of, wants_latest, with_digest

DIGEST = "sha256:" + "0" * 64


def test_the_examples_hold() -> None:
    assert doctest.testmod(docker_reference).failed == 0


@pytest.mark.parametrize(
    ("image", "target"),
    [
        ("nginx", ("nginx", "latest")),
        ("localhost:5000/web:2", ("localhost:5000/web", "2")),
        (f"localhost:5000/web@{DIGEST}", ("localhost:5000/web", DIGEST)),
        (f"web:2@{DIGEST}", ("web", DIGEST)),
    ],
)
def test_a_digest_wins_over_a_tag(image: str, target: tuple[str, str]) -> None:
    assert pull_target(image) == target


def test_a_name_keeps_its_tag_beside_the_digest() -> None:
    assert with_digest("web:2", DIGEST) == f"web:2@{DIGEST}"
    assert with_digest(f"web@{DIGEST}", "sha256:1") == f"web@{DIGEST}"
    assert (wants_latest("web"), wants_latest(f"web@{DIGEST}"), wants_latest("web:1")) == (True, False, False)
    assert registry_of("registry-1.docker.io/library/web") == "docker.io"


def layer(name: str, status: str, current: int = 0, total: int = 0) -> dict[str, object]:
    return {"id": name, "status": status, "progressDetail": {"current": current, "total": total}}


def test_a_pull_tells_its_share_ever_more_rarely() -> None:
    progress = PullProgress(100.0)
    progress.take({"status": "Pulling from library/web", "id": "1"})
    assert progress.notice(105.0) is None
    assert progress.notice(110.0) == "nothing has come for 10 s"
    progress.take(layer("a", "Downloading", 10 << 20, 30 << 20))
    progress.take(layer("b", "Downloading", 5 << 20, 10 << 20))
    progress.take(layer("b", "Download complete"))
    assert progress.notice(125.0) is None
    assert progress.notice(130.0) == "50 % of 40 MiB after 30 s"
    assert progress.notice(169.0) is None


def image(name: str, used_hours: int, *names: str) -> KeptImage:
    return KeptImage(id=name, names=names, tags=names, used_at_ns=used_hours * HOUR_NS)


def test_images_go_by_age_the_longest_unused_first_and_never_in_use() -> None:
    ledger = Ledger()
    for kept in (image("c", 5), image("a", 1), image("b", 2), image("d", 99)):
        ledger = ledger.with_image(kept)
    now = 100 * HOUR_NS
    assert [each.id for each in ledger.unused(now, 72.0, ["b"])] == ["a", "c"]
    assert [each.id for each in ledger.with_use(["a"], now).unused(now, 72.0, [])] == ["b", "c"]
    assert [each.id for each in ledger.without("a").unused(now, 72.0, [])] == ["b", "c"]
    assert ledger_codec.decode(ledger_codec.encode(ledger)) == ledger


def test_a_name_means_the_newest_image() -> None:
    ledger = Ledger().with_image(image("old", 1, "web:1", "web:1@x")).with_image(image("new", 2, "web:1"))
    assert (ledger.image_called("web:1"), ledger.image_called("web:1@x")) == ("new", "old")
    assert ledger.with_image(image("old", 3, "other")).image_called("web:1@x") == "old"
