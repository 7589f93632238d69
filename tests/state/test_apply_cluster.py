"""Settings, namespaces, join tokens, requests that make no sense."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from swarmlet.errors import StorageError
from swarmlet.ids import ClusterId, EvaluationId, JobId, Namespace, NodeId, RequestId
from swarmlet.model.cluster import AutopilotConfig, ClusterSettings, JoinToken
from swarmlet.model.evaluation import EvaluationStatus
from swarmlet.model.job import SECOND_NS
from swarmlet.model.node import NodeStatus
from swarmlet.state import apply_tokens
from swarmlet.state.apply import StateMachine, decode_entry
from swarmlet.state.command import (
    FEATURE_LEVEL,
    Command,
    CreateJoinToken,
    DeleteNamespace,
    EvaluateJob,
    FailEvaluation,
    InitializeCluster,
    Noop,
    RegisterJob,
    RegisterNode,
    RevokeJoinToken,
    UpdateAutopilot,
    UpdateNodeStatus,
    UpdateSettings,
    UpsertEvaluations,
    UpsertNamespace,
    UseJoinToken,
    command_codec,
)
from tests.state.replica import DEFAULT, Replica, job, node


def test_a_cluster_is_initialised_once() -> None:
    replica = Replica()
    assert [row.name for row in replica.state.namespaces()] == ["default"]
    again = InitializeCluster(settings=ClusterSettings(cluster_id=ClusterId("other")))
    assert replica.do(again).error == "Conflict"
    settings = replica.state.settings()
    assert settings is not None
    assert settings.cluster_id == "c"


def test_the_feature_level_never_goes_back() -> None:
    replica = Replica()
    replica.ok(UpdateSettings(feature_level=2, gossip_keys_sealed=b"k"))
    assert replica.do(UpdateSettings(feature_level=1)).error == "Conflict"
    settings = replica.state.settings()
    assert settings is not None
    assert (settings.feature_level, settings.gossip_keys_sealed) == (2, b"k")


def test_the_feature_level_rises_once_every_node_that_may_come_back_knows_it() -> None:
    replica = Replica("a", "b")
    refused = replica.do(UpdateSettings(feature_level=2))
    assert (refused.error, refused.message) == ("Conflict", 'node "a" knows feature level 1, not 2')
    replica.ok(RegisterNode(node=replace(node("a"), feature_level=2)))
    assert replica.do(UpdateSettings(feature_level=2)).error == "Conflict"
    replica.ok(UpdateNodeStatus(node_id=NodeId("id-b"), status=NodeStatus.DOWN))
    assert replica.do(UpdateSettings(feature_level=2)).error == "Conflict"
    replica.ok(UpdateNodeStatus(node_id=NodeId("id-b"), status=NodeStatus.LEFT))
    replica.ok(UpdateSettings(feature_level=2))


def test_a_node_below_the_feature_level_is_not_registered() -> None:
    replica = Replica()
    replica.ok(UpdateSettings(feature_level=2))
    refused = replica.do(RegisterNode(node=node("old")))
    assert refused.error == "Conflict"
    assert "the cluster is at 2: install the version" in refused.message
    replica.ok(RegisterNode(node=replace(node("new"), feature_level=2)))


def test_a_replica_halts_when_the_cluster_goes_beyond_what_it_knows() -> None:
    replica = Replica()
    with pytest.raises(StorageError, match=f"feature level {FEATURE_LEVEL + 1}, this build knows"):
        replica.do(UpdateSettings(feature_level=FEATURE_LEVEL + 1))


def test_a_level_that_nobody_knows_is_refused_and_halts_nobody() -> None:
    replica = Replica("a")
    refused = replica.do(UpdateSettings(feature_level=FEATURE_LEVEL + 9))
    assert refused.error == "Conflict"


def test_a_state_of_a_later_level_is_not_loaded() -> None:
    """A program that was put back to an older version must not go on from what a newer one wrote."""
    machine = StateMachine()
    settings = ClusterSettings(cluster_id=ClusterId("c"), feature_level=FEATURE_LEVEL + 1)
    machine._store.put_settings(settings)
    with pytest.raises(StorageError, match=f"of feature level {FEATURE_LEVEL + 1}, this build knows"):
        StateMachine.load(machine.save())


def test_the_autopilots_configuration_is_kept_and_checked_against_its_index() -> None:
    replica = Replica()
    wanted = AutopilotConfig(voters=5, voters_min=3, spreads_over_zones=False)
    applied = replica.ok(UpdateAutopilot(config=wanted, check_index=0))
    settings = replica.state.settings()
    assert settings is not None
    assert settings.autopilot == replace(wanted, modify_index=applied.index)
    assert replica.do(UpdateAutopilot(config=wanted, check_index=1)).error == "Conflict"
    assert replica.do(UpdateAutopilot(config=AutopilotConfig(voters=4))).error == "InvalidInput"
    assert replica.do(UpdateAutopilot(config=AutopilotConfig(lag_entries_max=-1))).error == "InvalidInput"


def test_a_namespace_with_jobs_stays() -> None:
    replica = Replica()
    team = Namespace("team")
    replica.ok(UpsertNamespace(name=team, description="ours"))
    replica.ok(RegisterJob(job=msgspec.structs.replace(job(), namespace=team)))
    assert replica.do(DeleteNamespace(name=team)).error == "Conflict"
    assert [row.namespace for row in replica.state.jobs()] == ["team"]
    assert list(replica.state.jobs(DEFAULT)) == []
    assert replica.do(DeleteNamespace(name=DEFAULT)).error == "Conflict"
    assert replica.do(UpsertNamespace(name=Namespace("a/b"))).error == "InvalidInput"


def token(name: str = "t", *, seconds: int = 100, uses: int = -1) -> JoinToken:
    return JoinToken(
        accessor=name,
        secret_hash=name.encode(),
        expires_at_ns=(1_000 + seconds) * SECOND_NS,
        uses_left=uses,
    )


def use(name: str = "t", node_name: str = "new") -> UseJoinToken:
    return UseJoinToken(secret_hash=name.encode(), node_id=NodeId(f"id-{node_name}"), node_name=node_name)


def test_a_use_is_counted_and_the_last_one_ends_the_token() -> None:
    replica = Replica()
    replica.ok(CreateJoinToken(token=token(uses=1)))
    assert replica.ok(use()).accessor == "t"
    assert replica.do(use()).error == "JoinRefused:token_used_up"


def test_each_refusal_of_a_joiner_has_its_own_code() -> None:
    replica = Replica("a")
    replica.ok(CreateJoinToken(token=token()))
    replica.ok(CreateJoinToken(token=token("revoked")))
    replica.ok(RevokeJoinToken(accessor="revoked"))
    assert replica.do(use("other")).error == "JoinRefused:token_wrong"
    assert replica.do(use("revoked")).error == "JoinRefused:token_revoked"
    assert replica.do(use(node_name="")).error == "InvalidInput"
    taken = UseJoinToken(secret_hash=b"t", node_id=NodeId("other"), node_name="a")
    assert replica.do(taken).error == "JoinRefused:name_taken"
    replica.status("a", NodeStatus.DOWN)
    replica.ok(taken)
    replica.wait(200)
    assert replica.do(use()).error == "JoinRefused:token_expired"


def test_dead_tokens_make_room_and_live_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_tokens, "JOIN_TOKENS_MAX", 2)
    replica = Replica()
    replica.ok(CreateJoinToken(token=token("a")))
    replica.ok(CreateJoinToken(token=token("b")))
    assert replica.do(CreateJoinToken(token=token("c"))).error == "Overloaded"
    replica.ok(RevokeJoinToken(accessor="a"))
    replica.ok(CreateJoinToken(token=token("c")))
    assert [row.accessor for row in replica.state.join_tokens()] == ["b", "c"]


def test_a_failed_evaluation_leaves_a_delayed_one_behind() -> None:
    replica = Replica()
    evaluation = replica.register(job())
    retry_at_ns = replica.now_ns + 60 * SECOND_NS
    body = FailEvaluation(evaluation_id=evaluation.id, description="too many", retry_at_ns=retry_at_ns)
    replica.ok(body)
    failed = replica.evaluation(evaluation.id)
    assert failed.status is EvaluationStatus.FAILED
    follow_up = replica.evaluation(failed.next_evaluation)
    assert (follow_up.wait_until_ns, follow_up.previous_evaluation) == (retry_at_ns, evaluation.id)
    assert replica.do(body).error == "Conflict"
    revived = msgspec.structs.replace(failed, status=EvaluationStatus.PENDING)
    replica.ok(UpsertEvaluations(evaluations=(revived,)))
    assert replica.evaluation(evaluation.id).status is EvaluationStatus.FAILED


def test_the_states_time_never_goes_back() -> None:
    machine = StateMachine()
    for index, wall_time_ns in enumerate((5, 3, 9), start=1):
        machine.apply(
            index,
            Command(
                version=1, request_id=RequestId(f"{index}"), actor="", wall_time_ns=wall_time_ns, body=Noop()
            ),
        )
        assert machine.snapshot().time_ns == max(5, wall_time_ns)


def test_a_command_without_a_request_id_is_refused() -> None:
    machine = StateMachine()
    command = Command(version=1, request_id=RequestId(""), actor="", wall_time_ns=1, body=Noop())
    assert machine.apply(1, command)[0].error == "InvalidInput"


def test_an_entry_that_this_build_does_not_know_stops_the_replica() -> None:
    command = Command(version=1, request_id=RequestId("r"), actor="a", wall_time_ns=1, body=Noop())
    assert decode_entry(1, command_codec.encode(command)) == command
    unknown = msgspec.msgpack.encode([1, "r", "a", 1, [99, "?"]])
    newer = command_codec.encode(msgspec.structs.replace(command, version=2))
    for data in (unknown, newer, b"\xc1", b""):
        with pytest.raises(StorageError, match="log entry 7"):
            decode_entry(7, data)


def test_what_is_not_there_is_named() -> None:
    replica = Replica()
    for body in (
        EvaluateJob(namespace=DEFAULT, job_id=JobId("ghost")),
        FailEvaluation(evaluation_id=EvaluationId("ghost"), description=""),
        RevokeJoinToken(accessor="ghost"),
        DeleteNamespace(name=Namespace("ghost")),
    ):
        applied = replica.do(body)
        assert applied.error == "NotFound"
        assert "ghost" in applied.message
