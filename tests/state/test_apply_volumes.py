"""Volumes in the replicated state: who has which, what refuses to go, what survives a snapshot."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.ids import Namespace, NodeId
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.job import VolumeRequest
from swarmlet.model.node import HostVolumeInfo, NodeStatus
from swarmlet.model.volume import Volume, VolumeSnapshot
from swarmlet.state import command as commands
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import Applied
from tests.state.replica import DEFAULT, Replica, group, job, node

ID, OTHER = "11111111-aaaa", "22222222-bbbb"


def volume(name: str = "db", id_: str = ID, where: str = "a", namespace: Namespace = DEFAULT) -> Volume:
    return Volume(namespace=namespace, id=id_, name=name, node_id=NodeId(f"id-{where}"), path=f"/v/{id_}")


def snapshot(id_: str = OTHER) -> VolumeSnapshot:
    return VolumeSnapshot(
        namespace=DEFAULT,
        id=id_,
        volume_id=ID,
        volume_name="db",
        node_id=NodeId("id-a"),
        size=10,
        sha256="00",
        entries=1,
        is_consistent=True,
    )


def put(replica: Replica, wanted: Volume) -> Applied:
    return replica.do(commands.PutVolume(volume=wanted), actor="admin")


def delete(replica: Replica, id_: str = ID) -> Applied:
    return replica.do(commands.DeleteVolume(namespace=DEFAULT, volume_id=id_))


def test_a_volume_is_offered_by_its_node_from_then_on() -> None:
    replica = Replica("a", "b")
    made = put(replica, volume())
    found = replica.state.volume(DEFAULT, ID)
    assert found is not None
    assert (found.create_index, found.create_time_ns) == (made.index, replica.now_ns)
    assert replica.node("a").volume(DEFAULT, "db") == HostVolumeInfo(path=f"/v/{ID}")
    assert replica.node("a").volume(Namespace("other"), "db") is None
    assert replica.node("b").volume(DEFAULT, "db") is None


def test_a_node_that_registers_again_keeps_its_volumes() -> None:
    replica = Replica("a")
    put(replica, volume())
    replica.ok(commands.RegisterNode(node=replace(node("a", memory=2000), volumes={})))
    assert replica.node("a").resources.memory == 2000
    assert replica.node("a").volume(DEFAULT, "db") is not None


def test_a_name_is_free_once_per_node_and_namespace() -> None:
    replica = Replica("a", "b")
    replica.ok(commands.UpsertNamespace(name=Namespace("team")))
    assert not put(replica, volume()).error
    assert put(replica, volume(id_=OTHER)).error == "Conflict"
    assert put(replica, volume(name="db2")).error == "Conflict"
    assert not put(replica, volume(id_=OTHER, where="b")).error
    assert not put(replica, volume(id_="33", namespace=Namespace("team"))).error


def test_names_of_the_nodes_configuration_unknown_nodes_and_namespaces_are_refused() -> None:
    replica = Replica("a")
    offered = {"db": HostVolumeInfo(path="/srv/db")}
    replica.ok(commands.RegisterNode(node=replace(node("a"), host_volumes=offered)))
    assert "by its configuration" in put(replica, volume()).message
    assert put(replica, volume(name="x", where="z")).error == "NotFound"
    assert put(replica, volume(name="x", namespace=Namespace("none"))).error == "NotFound"
    assert put(replica, volume(name="../x")).error == "InvalidInput"
    assert put(replica, volume(name="x", id_="../x")).error == "InvalidInput"


def test_a_volume_in_use_stays_and_its_users_are_named() -> None:
    replica = Replica("a", "b")
    put(replica, volume("db[1]"))
    request = VolumeRequest(name="data", source="db", is_per_alloc=True)
    wanted = job("shop", replace(group(count=2), volumes=(request,)))
    rows = replica.running(wanted, ("b", 1), ("a", 1))
    user = next(row for row in rows if row.index == 1)
    refused = delete(replica)
    assert refused.error == "Conflict"
    assert f"volume db[1] is in use by allocation {user.id[:8]} (job shop)" in refused.message
    replica.report(user, ClientStatus.COMPLETE)
    assert not delete(replica).error
    assert replica.node("a").volumes == {}
    assert replica.state.volume(DEFAULT, ID) is None
    assert delete(replica).error == "NotFound"


def test_a_node_with_volumes_is_not_forgotten() -> None:
    replica = Replica("a")
    put(replica, volume())
    replica.status("a", NodeStatus.DOWN)
    refused = replica.do(commands.RemoveNode(node_id=NodeId("id-a")))
    assert "still has 1 volumes, such as default/db" in refused.message
    replica.wait(10_000)
    replica.ok(commands.CollectGarbage(nodes_before_ns=replica.now_ns))
    assert replica.node("a").name == "a"
    assert not delete(replica).error
    replica.ok(commands.RemoveNode(node_id=NodeId("id-a")))


def test_a_snapshot_outlives_its_volume() -> None:
    replica = Replica("a")
    put(replica, volume())
    made = replica.ok(commands.PutVolumeSnapshot(snapshot=snapshot()))
    assert replica.do(commands.PutVolumeSnapshot(snapshot=snapshot())).error == "Conflict"
    delete(replica)
    found = replica.state.volume_snapshot(DEFAULT, OTHER)
    assert found is not None
    assert found.create_index == made.index
    replica.ok(commands.DeleteVolumeSnapshot(namespace=DEFAULT, snapshot_id=OTHER))
    assert list(replica.state.volume_snapshots()) == []
    gone = replica.do(commands.DeleteVolumeSnapshot(namespace=DEFAULT, snapshot_id=OTHER))
    assert gone.error == "NotFound"


def test_a_namespace_with_volumes_is_not_deleted() -> None:
    replica = Replica("a")
    team = Namespace("team")
    replica.ok(commands.UpsertNamespace(name=team))
    put(replica, volume(namespace=team))
    assert "still has volumes" in replica.do(commands.DeleteNamespace(name=team)).message


def test_volumes_and_snapshots_survive_a_snapshot_of_the_state_in_any_order() -> None:
    one, two = Replica("a"), Replica("a")
    for replica, names in ((one, ("x", "y")), (two, ("y", "x"))):
        replica.index = 10
        for name in names:
            put(replica, volume(name, id_=name.encode().hex()))
    assert one.node("a").volumes == two.node("a").volumes
    assert list(one.node("a").volumes) == list(two.node("a").volumes)
    one.ok(commands.PutVolumeSnapshot(snapshot=snapshot()))
    loaded = StateMachine.load(one.machine.save())
    assert loaded.digest() == one.machine.digest()
    assert [row.name for row in loaded.snapshot().volumes()] == ["x", "y"]
    assert [row.id for row in loaded.snapshot().volume_snapshots(DEFAULT)] == [OTHER]


def test_a_cluster_of_older_nodes_gets_no_such_command() -> None:
    for body in (
        commands.PutVolume(volume=volume()),
        commands.DeleteVolume(namespace=DEFAULT, volume_id=ID),
        commands.PutVolumeSnapshot(snapshot=snapshot()),
        commands.DeleteVolumeSnapshot(namespace=DEFAULT, snapshot_id=ID),
    ):
        assert commands.needed(body)[0] == 3 <= commands.FEATURE_LEVEL
