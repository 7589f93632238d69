"""A saved state comes back: what users made returns, what the cluster is stays."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmlet.ids import ClusterId, JobId, Namespace, NodeId
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.cluster import AutopilotConfig, ClusterSettings, JoinToken
from swarmlet.model.evaluation import EvaluationStatus
from swarmlet.model.node import NodeStatus
from swarmlet.model.variable import VariableKey
from swarmlet.model.volume import Volume
from swarmlet.state import restoring, snapshot_bytes
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import (
    AddVariableKey,
    BeginRestore,
    CollectGarbage,
    CommitRestore,
    CreateJoinToken,
    DeleteVolume,
    InitializeCluster,
    Noop,
    PutVariable,
    PutVolume,
    RegisterNode,
    RemoveNode,
    RestorePiece,
    UpdateAutopilot,
    UpdateSettings,
    UpsertNamespace,
)
from swarmlet.state.store import variable_scope
from swarmlet.state.view import WHOLE_STATE, Table
from tests.state.replica import DEFAULT, Replica, group, job, node

PIECE = 300


def saved(replica: Replica) -> bytes:
    return b"".join(replica.machine.save())


def send(target: Replica, data: bytes) -> CommitRestore:
    """Everything but the last step, which is given back."""
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    target.ok(BeginRestore(restore_id="r"))
    for number, piece in enumerate(pieces):
        target.ok(RestorePiece(restore_id="r", number=number, data=piece))
    return CommitRestore(restore_id="r", size=len(data), pieces=len(pieces))


def restore(target: Replica, data: bytes) -> None:
    target.ok(send(target, data))


def a_cluster() -> Replica:
    replica = Replica("a", "b")
    replica.running(job("shop"), ("a", 1))
    replica.running(job("desk"), ("b", 1))
    return replica


def another_cluster(*names: str) -> Replica:
    """Of another id, and young: its log is shorter than any saved one."""
    replica = Replica.__new__(Replica)
    replica.machine, replica.index, replica.now_ns = StateMachine(), 0, 5_000 * 10**9
    replica.log, replica.changes = [], ()
    replica.ok(
        InitializeCluster(settings=ClusterSettings(cluster_id=ClusterId("other"), admin_token_hash=b"theirs"))
    )
    for name in names:
        replica.ok(RegisterNode(node=replace(node(name), id=NodeId(f"other-{name}"))))
    return replica


def test_what_was_done_after_the_save_is_undone_and_every_job_looked_at() -> None:
    replica = a_cluster()
    before = replica.job("shop")
    data = saved(replica)
    replica.register(job("shop", priority=90))
    replica.register(job("late"))
    replica.ok(UpsertNamespace(name=Namespace("late")))
    restore(replica, data)
    assert replica.job("shop") == before
    assert [row.id for row in replica.state.jobs()] == ["desk", "shop"]
    assert [row.name for row in replica.state.namespaces()] == ["default"]
    assert len(replica.allocations("shop")) == 1
    assert [(row.job_id, row.status) for row in replica.state.open_evaluations()] == [
        ("desk", EvaluationStatus.PENDING),
        ("shop", EvaluationStatus.PENDING),
    ]
    assert replica.state.index == replica.index


def test_members_keys_and_tokens_are_not_part_of_what_comes_back() -> None:
    replica = a_cluster()
    data = saved(replica)
    replica.ok(RegisterNode(node=node("new")))
    replica.status("b", NodeStatus.LEFT)
    token = JoinToken(accessor="t", secret_hash=b"h", expires_at_ns=10**20)
    replica.ok(CreateJoinToken(token=token))
    replica.ok(UpdateSettings(gossip_keys_sealed=b"rotated", admin_token_hash=b"changed"))
    settings = replica.state.settings()
    restore(replica, data)
    assert sorted(row.name for row in replica.state.nodes()) == ["a", "b", "new"]
    assert replica.node("b").status is NodeStatus.LEFT
    assert [row.accessor for row in replica.state.join_tokens()] == ["t"]
    after = replica.state.settings()
    assert after is not None
    assert settings is not None
    assert replace(after, autopilot=settings.autopilot) == settings


def test_allocations_of_a_node_that_is_no_member_any_more_are_forgotten() -> None:
    replica = a_cluster()
    data = saved(replica)
    replica.report(replica.allocations("desk")[0], ClientStatus.COMPLETE)
    replica.status("b", NodeStatus.LEFT)
    replica.ok(RemoveNode(node_id=NodeId("id-b")))
    restore(replica, data)
    assert len(replica.allocations("shop")) == 1
    assert replica.allocations("desk") == []
    assert replica.job("desk").id == "desk"


def test_blocks_of_allocations_come_back_without_those_of_a_node_that_is_gone() -> None:
    replica = Replica("a", "b", "c", "d")
    wanted = job("large", group(count=360, memory=1))
    replica.place(replica.register(wanted), ("a", 90), ("b", 90), ("c", 90), ("d", 90))
    assert list(replica.machine.snapshot()._allocations.blocks()), "it is kept as a block"
    data = saved(replica)
    before = replica.allocations("large")
    for row in before:
        if row.node_id == "id-d":
            replica.report(row, ClientStatus.COMPLETE)
    replica.status("d", NodeStatus.LEFT)
    replica.ok(RemoveNode(node_id=NodeId("id-d")))
    restore(replica, data)
    assert replica.allocations("large") == [row for row in before if row.node_id != "id-d"]
    assert {row.node_id for row in replica.allocations("large")} == {"id-a", "id-b", "id-c"}
    assert StateMachine.load([saved(replica)]).digest() == replica.machine.digest()


def test_a_new_cluster_takes_the_jobs_and_nothing_of_the_old_machines() -> None:
    old = a_cluster()
    for _ in range(50):
        old.ok(Noop())
    old.register(job("shop", priority=70))
    new = another_cluster("a")
    restore(new, saved(old))
    settings = new.state.settings()
    assert settings is not None
    assert (settings.cluster_id, settings.admin_token_hash) == ("other", b"theirs")
    assert [row.id for row in new.state.nodes()] == ["other-a"]
    assert list(new.state.allocations()) == []
    assert [row.id for row in new.state.jobs()] == ["desk", "shop"]
    assert new.job("shop").priority == 70
    assert len(list(new.state.job_versions(DEFAULT, JobId("shop")))) == 2


def test_no_index_lies_ahead_of_the_log_that_took_the_state() -> None:
    old = a_cluster()
    for _ in range(100):
        old.ok(Noop())
    old.register(job("newest"))
    new = another_cluster("a")
    restore(new, saved(old))
    row = new.job("newest")
    assert max(row.create_index, row.modify_index, row.job_modify_index) <= new.index
    assert all(new.state.table_index(table) == new.index for table in Table)
    new.register(job("newest", priority=1))
    assert new.job("newest").job_modify_index == new.index


def test_everyone_who_watches_hears_of_it() -> None:
    replica = a_cluster()
    data = saved(replica)
    replica.register(job("late"))
    replica.ok(AddVariableKey(key=VariableKey(id=1, sealed=b"one")))
    replica.ok(variable("late"))
    restore(replica, data)
    first, *others = replica.changes
    assert (first.table, first.key) == (Table.SETTINGS, WHOLE_STATE)
    assert {"node:id-a", "node:id-b", "job:default/shop", "job:default/late"} <= set(first.scopes)
    assert variable_scope(DEFAULT, "late") in first.scopes
    assert {change.table for change in (first, *others)} == set(Table)


def test_how_voters_are_chosen_comes_back() -> None:
    replica = a_cluster()
    replica.ok(UpdateAutopilot(config=AutopilotConfig(voters=5)))
    data = saved(replica)
    replica.ok(UpdateAutopilot(config=AutopilotConfig(voters=7)))
    restore(replica, data)
    settings = replica.state.settings()
    assert settings is not None
    assert (settings.autopilot.voters, settings.autopilot.modify_index) == (5, replica.index)


def variable(path: str, key_id: int = 1, sealed: bytes = b"s") -> PutVariable:
    return PutVariable(namespace=DEFAULT, path=path, key_id=key_id, sealed=sealed)


def test_variables_come_back_and_a_key_that_was_added_since_goes_on_sealing() -> None:
    replica = a_cluster()
    replica.ok(AddVariableKey(key=VariableKey(id=1, sealed=b"one")))
    replica.ok(variable("app"))
    data = saved(replica)
    replica.ok(AddVariableKey(key=VariableKey(id=2, sealed=b"two")))
    replica.ok(variable("app", 2, b"later"))
    replica.ok(variable("late", 2))
    restore(replica, data)
    assert [(row.path, row.key_id, row.sealed) for row in replica.state.variables()] == [("app", 1, b"s")]
    assert [row.id for row in replica.state.variable_keys()] == [1, 2]
    assert (replica.state.variable_key_uses(1), replica.state.variable_key_uses(2)) == (1, 0)


def test_variables_of_another_cluster_stay_behind_and_the_own_ones_stay() -> None:
    """Nobody here could open them: they are sealed under that cluster's key."""
    old, new = a_cluster(), another_cluster("a")
    old.ok(AddVariableKey(key=VariableKey(id=1, sealed=b"theirs")))
    old.ok(variable("their"))
    new.ok(AddVariableKey(key=VariableKey(id=1, sealed=b"ours")))
    new.ok(UpsertNamespace(name=Namespace("own")))
    new.ok(variable("our"))
    restore(new, saved(old))
    assert [row.path for row in new.state.variables()] == ["our"]
    assert [row.sealed for row in new.state.variable_keys()] == [b"ours"]
    assert [row.name for row in new.state.namespaces()] == ["default", "own"]


def test_a_snapshot_in_the_middle_of_a_restore_keeps_what_has_come() -> None:
    replica = a_cluster()
    data = saved(replica)
    last = send(replica, data)
    replica.machine = StateMachine.load([saved(replica)])
    replica.ok(last)
    assert b"".join(replica.machine.save()) == b"".join(StateMachine.load([saved(replica)]).save())


def test_pieces_are_built_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building all of a large state in one entry would hold up every replica for seconds."""
    replica, again = a_cluster(), a_cluster()
    data = saved(replica)
    last = send(replica, data)
    again.machine = StateMachine.load([saved(replica)])
    again.index, again.now_ns = replica.index, replica.now_ns
    again.ok(last)
    monkeypatch.setattr(snapshot_bytes, "load", None)
    replica.ok(last)
    assert replica.machine.digest() == again.machine.digest()


def test_a_restore_that_was_refused_can_be_taken_up_again() -> None:
    replica = a_cluster()
    last = send(replica, saved(replica))
    assert replica.do(replace(last, pieces=1)).error == "Conflict"
    replica.ok(last)
    later = a_cluster()
    for name in ("a", "b"):
        later.ok(RegisterNode(node=replace(node(name), feature_level=2)))
    later.ok(UpdateSettings(feature_level=2))
    last = send(replica, saved(later))
    assert replica.do(last).error == "Conflict"
    for name in ("a", "b"):
        replica.ok(RegisterNode(node=replace(node(name), feature_level=2)))
    replica.ok(UpdateSettings(feature_level=2))
    replica.ok(last)


def test_pieces_cut_anywhere_make_the_same_state() -> None:
    data = saved(a_cluster())
    for size in (1, 7, 1000, 100_000):
        loading = snapshot_bytes.Loading()
        for start in range(0, len(data), size):
            loading.feed(data[start : start + size])
            loading.fill()
        assert b"".join(snapshot_bytes.save(loading.finish())) == data


def test_damaged_or_incomplete_pieces_change_nothing() -> None:
    replica = a_cluster()
    data = saved(replica)
    before = [row.id for row in replica.state.jobs()]
    replica.ok(BeginRestore(restore_id="r"))
    assert replica.do(RestorePiece(restore_id="r", number=1, data=b"x")).error == "Conflict"
    assert replica.do(RestorePiece(restore_id="other", number=0, data=b"x")).error == "NotFound"
    assert replica.do(CommitRestore(restore_id="r", size=1, pieces=1)).error == "Conflict"
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF
    refused = replica.do(send(replica, bytes(damaged[: len(data) - 3])))
    assert refused.error == "InvalidInput"
    assert [row.id for row in replica.state.jobs()] == before


def test_a_state_of_a_later_level_is_refused() -> None:
    later = a_cluster()
    for name in ("a", "b"):
        later.ok(RegisterNode(node=replace(node(name), feature_level=2)))
    later.ok(UpdateSettings(feature_level=2))
    target = another_cluster()
    refused = target.do(send(target, saved(later)))
    assert refused.error == "Conflict"
    assert "feature level 2" in refused.message


def test_pieces_that_nobody_follows_up_are_dropped() -> None:
    replica = a_cluster()
    last = send(replica, saved(replica))
    replica.ok(CollectGarbage(jobs_before_ns=1))
    assert replica.machine.snapshot()._incoming is not None
    replica.wait(restoring.STALE_NS // 10**9)
    replica.ok(CollectGarbage(jobs_before_ns=1))
    assert replica.machine.snapshot()._incoming is None
    assert replica.do(last).error == "NotFound"


def test_a_restore_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = a_cluster()
    replica.ok(BeginRestore(restore_id="r"))
    large = RestorePiece(restore_id="r", number=0, data=bytes(restoring.PIECE_BYTES_MAX + 1))
    assert replica.do(large).error == "InvalidInput"
    monkeypatch.setattr(restoring, "RESTORE_BYTES_MAX", 10)
    replica.ok(RestorePiece(restore_id="r", number=0, data=bytes(10)))
    assert replica.do(RestorePiece(restore_id="r", number=1, data=b"x")).error == "InvalidInput"


def test_volumes_stay_as_the_disks_of_the_nodes_are() -> None:
    replica = a_cluster()
    one, two = (
        Volume(namespace=DEFAULT, id=id_, name=name, node_id=NodeId("id-a"), path=f"/v/{id_}")
        for id_, name in (("11", "one"), ("22", "two"))
    )
    replica.ok(PutVolume(volume=one))
    data = saved(replica)
    replica.ok(DeleteVolume(namespace=DEFAULT, volume_id="11"))
    replica.ok(PutVolume(volume=two))
    restore(replica, data)
    assert [row.name for row in replica.state.volumes()] == ["two"]
    assert list(replica.node("a").volumes) == ["default/two"]
