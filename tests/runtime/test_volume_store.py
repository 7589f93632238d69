"""Volumes and snapshots on one disk: what is half done is never taken for whole."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from swarmlet.errors import DiskFull, InvalidInput, NotFound
from swarmlet.runtime import volume_store
from swarmlet.runtime.volume_store import VolumeStore

VOLUME, SNAPSHOT = "1111aaaa-0000", "2222bbbb-0000"


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    return VolumeStore(tmp_path / "volumes")


def test_a_volume_is_open_to_every_user_below_a_directory_that_is_not(store: VolumeStore) -> None:
    content = store.create(VOLUME)
    assert stat.S_IMODE(content.stat().st_mode) == 0o777
    assert [stat.S_IMODE(path.stat().st_mode) for path in (content.parent, content.parent.parent)] == [
        0o700,
        0o700,
    ]


def test_making_a_volume_again_keeps_what_is_in_it(store: VolumeStore) -> None:
    (store.create(VOLUME) / "row").touch()
    assert [path.name for path in store.create(VOLUME).iterdir()] == ["row"]


def test_a_volume_goes_with_all_that_is_in_it_and_twice_is_no_error(store: VolumeStore) -> None:
    content = store.create(VOLUME)
    (content / "folder").mkdir()
    (content / "folder" / "row").touch()
    store.remove(VOLUME)
    store.remove(VOLUME)
    assert list(content.parent.parent.iterdir()) == []
    with pytest.raises(NotFound):
        store.content(VOLUME)


def test_a_removal_that_was_cut_short_goes_on(store: VolumeStore) -> None:
    content = store.create(VOLUME)
    content.parent.rename(content.parent.with_suffix(".going"))
    store.remove(VOLUME)
    assert list(content.parent.parent.iterdir()) == []


def test_what_is_being_filled_is_no_volume_yet(store: VolumeStore) -> None:
    begun = store.begin(VOLUME)
    (begun / "half").touch()
    with pytest.raises(NotFound):
        store.content(VOLUME)
    assert list(store.begin(VOLUME).iterdir()) == []
    (begun / "row").touch()
    assert [path.name for path in store.finish(VOLUME).iterdir()] == ["row"]
    store.begin(SNAPSHOT)
    store.abandon(SNAPSHOT)
    assert [path.name for path in begun.parent.parent.iterdir()] == [VOLUME]


def test_a_snapshot_is_what_its_checksum_says_and_outlives_its_volume(store: VolumeStore) -> None:
    (store.create(VOLUME) / "row").write_text("1")
    made = store.snapshot(VOLUME, SNAPSHOT)
    store.remove(VOLUME)
    data = store.archive(SNAPSHOT).read_bytes()
    assert (made.size, made.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (made.tally.entries, made.tally.size) == (2, 1)
    store.remove_snapshot(SNAPSHOT)
    store.remove_snapshot(SNAPSHOT)
    with pytest.raises(NotFound):
        store.archive(SNAPSHOT)


def test_a_disk_without_room_keeps_no_half_of_a_snapshot(
    store: VolumeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.create(VOLUME) / "row").write_text("1")
    monkeypatch.setattr(volume_store, "FREE_BYTES_MIN", 2**62)
    with pytest.raises(DiskFull, match="B free"):
        store.snapshot(VOLUME, SNAPSHOT)
    with pytest.raises(NotFound):
        store.archive(SNAPSHOT)


@pytest.mark.parametrize("name", ["..", "../x", "", "x/y", "snapshots", "Z"])
def test_only_ids_name_directories(store: VolumeStore, name: str) -> None:
    with pytest.raises(InvalidInput):
        store.create(name)
    with pytest.raises(InvalidInput):
        store.archive(name)
