"""Variables through the nodes: sealed where they are accepted, opened where they are read, rotated."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from swarmlet.errors import Conflict, InvalidInput
from swarmlet.ids import ClusterId, Namespace
from swarmlet.model.cluster import ClusterSettings
from swarmlet.replica.replica import Replica
from swarmlet.replica.variables import Variables
from swarmlet.security.sealing import KEY_BYTES, ClusterKey
from swarmlet.state.command import InitializeCluster
from tests.replica.cluster import Cluster
from tests.replica.virtual_time import run

DEFAULT = Namespace("default")
_counter = itertools.count()


def random_bytes(size: int) -> bytes:
    """Never the same twice, and the same in every run."""
    return next(_counter).to_bytes(size, "big")


async def founded(cluster: Cluster) -> Replica:
    """The leader of a cluster that has its default namespace."""
    leader = await cluster.leader()
    await leader.submit(InitializeCluster(settings=ClusterSettings(cluster_id=ClusterId("c"))), "local")
    return leader


def on(replica: Replica) -> Variables:
    return Variables(replica, ClusterKey(ClusterId("c"), bytes(KEY_BYTES)), random_bytes)


def test_a_value_written_anywhere_is_read_everywhere_and_lies_sealed() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await founded(cluster)
            nodes = [on(replica) for replica in cluster.up]
            for number, node in enumerate(nodes):
                await node.put(DEFAULT, f"a/{number}", {"password": f"swordfish-{number}"}, "admin")
            for reader in nodes:
                for number in range(3):
                    found = await reader.get(DEFAULT, f"a/{number}")
                    assert found is not None
                    assert found.items == {"password": f"swordfish-{number}"}
                    assert "swordfish" not in repr(found)
            await cluster.wait_quiet()
            assert b"swordfish" not in b"".join(leader.fork().save())
            assert await nodes[0].get(DEFAULT, "none") is None

    run(main())


def test_the_first_two_writers_agree_on_one_key() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            await founded(cluster)
            nodes = [on(replica) for replica in cluster.up]
            await asyncio.gather(
                *(node.put(DEFAULT, f"a{n}", {"k": str(n)}, "admin") for n, node in enumerate(nodes))
            )
            view = await cluster.up[0].barrier()
            assert [key.id for key in view.variable_keys()] == [1]
            assert view.variable_key_uses(1) == 3

    run(main())


def test_compare_and_set_conflicts_are_raised_where_the_write_was_made() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            follower = on(cluster.followers(await founded(cluster))[0])
            made = await follower.put(DEFAULT, "a", {"k": "1"}, "admin", check_index=0)
            with pytest.raises(Conflict, match=f"is at index {made.modify_index}"):
                await follower.put(DEFAULT, "a", {"k": "2"}, "admin", check_index=0)
            changed = await follower.put(DEFAULT, "a", {"k": "2"}, "admin", check_index=made.modify_index)
            assert changed.create_index == made.create_index
            with pytest.raises(Conflict):
                await follower.delete(DEFAULT, "a", "admin", check_index=made.modify_index)
            await follower.delete(DEFAULT, "a", "admin")
            assert await follower.get(DEFAULT, "a") is None
            with pytest.raises(InvalidInput):
                await follower.put(DEFAULT, "a b", {"k": "1"}, "admin")

    run(main())


def test_rotation_in_full_leaves_nothing_under_the_old_key_and_indexes_as_they_were() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await founded(cluster)
            writer, other = on(leader), on(cluster.followers(leader)[0])
            made = [
                await writer.put(DEFAULT, f"a/{number:03}", {"k": str(number)}, "admin")
                for number in range(150)
            ]
            assert await other.rotate("admin") == 2
            newer = await writer.put(DEFAULT, "b", {"k": "new"}, "admin")
            assert newer.key_id == 2
            with pytest.raises(Conflict, match="150 variables are sealed under key 1"):
                await writer.remove_key(1, "admin")
            assert await other.rotate("admin", full=True) == 3
            for key_id in (1, 2):
                await writer.remove_key(key_id, "admin")
            for before in made:
                found = await other.get(DEFAULT, before.path)
                assert found is not None
                assert found.items == {"k": str(int(before.path[-3:]))}
                assert found.variable.modify_index == before.modify_index
                assert found.variable.key_id == 3

    run(main())


def test_no_file_of_a_replica_holds_a_value(tmp_path: Path) -> None:
    """Log segments, and a snapshot."""

    async def main() -> None:
        async with Cluster(3, directory=tmp_path).running() as cluster:
            leader = await founded(cluster)
            for number in range(20):
                await on(cluster.up[number % 3]).put(
                    DEFAULT, f"a/{number}", {"k": f"swordfish-{number}"}, "admin"
                )
            await on(leader).rotate("admin", full=True)
            for replica in cluster.up:
                assert await replica.save_snapshot() > 0
            found = await on(leader).get(DEFAULT, "a/7")
            assert found is not None
            assert found.items == {"k": "swordfish-7"}

    run(main())
    files = [path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert any(b"a/7" in data for data in files)
    assert not any(b"swordfish" in data for data in files)


def test_a_write_that_was_sealed_under_a_key_just_removed_is_sealed_again() -> None:
    async def main() -> None:
        async with Cluster(1).running() as cluster:
            leader = await founded(cluster)
            node = on(leader)
            await node.put(DEFAULT, "a", {"k": "1"}, "admin")
            stale = node._known_keyring
            keyring = stale()
            await on(leader).rotate("admin", full=True)
            await on(leader).remove_key(1, "admin")
            answers = [keyring]
            node._known_keyring = lambda: answers.pop() if answers else stale()  # type: ignore[method-assign]
            assert (await node.put(DEFAULT, "b", {"k": "2"}, "admin")).key_id == 2
            found = await node.get(DEFAULT, "b")
            assert found is not None
            assert found.items == {"k": "2"}

    run(main())
