"""Jobs: versions, stopping, purging, and what makes an evaluation needless."""

from __future__ import annotations

import msgspec

from swarmlet.ids import JobId, Namespace
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.evaluation import EvaluationStatus, Trigger
from swarmlet.model.job import JobStatus
from swarmlet.model.plan import Stop
from swarmlet.state.apply_jobs import JOB_VERSIONS_KEPT
from swarmlet.state.command import DeregisterJob, EvaluateJob, MarkJobStable, RegisterJob
from tests.state.replica import DEFAULT, Replica, group, job


def test_a_new_job_is_version_zero_and_opens_an_evaluation() -> None:
    replica = Replica()
    applied = replica.ok(RegisterJob(job=job()))
    stored = replica.job()
    assert (stored.version, stored.job_modify_index, stored.create_index) == (0, applied.index, applied.index)
    evaluation = replica.evaluation(applied.evaluation_id)
    assert (evaluation.status, evaluation.trigger) == (EvaluationStatus.PENDING, Trigger.JOB_REGISTER)
    assert replica.state.job_status(DEFAULT, JobId("shop")) is JobStatus.PENDING


def test_the_same_definition_makes_no_new_version_but_an_evaluation() -> None:
    replica = Replica()
    first = replica.ok(RegisterJob(job=job()))
    again = replica.ok(RegisterJob(job=msgspec.structs.replace(job(), source="# other text")))
    assert replica.job().version == 0
    assert again.job_modify_index == first.job_modify_index
    assert again.evaluation_id not in {None, first.evaluation_id}


def test_a_changed_definition_makes_a_new_version_and_keeps_the_old() -> None:
    replica = Replica()
    replica.register(job())
    replica.register(job("shop", group(count=2)))
    assert replica.job().version == 1
    assert [row.version for row in replica.state.job_versions(DEFAULT, JobId("shop"))] == [1, 0]


def test_a_stopped_job_registered_again_gets_a_new_version() -> None:
    replica = Replica()
    replica.register(job())
    replica.ok(DeregisterJob(namespace=DEFAULT, job_id=JobId("shop")))
    replica.register(job())
    assert (replica.job().version, replica.job().is_stopped) == (1, False)


def test_a_check_index_that_differs_is_refused_and_changes_nothing() -> None:
    replica = Replica()
    replica.register(job())
    index = replica.job().job_modify_index
    assert replica.do(RegisterJob(job=job("shop", group(count=3)), check_index=0)).error == "Conflict"
    assert replica.do(RegisterJob(job=job("shop", group(count=3)), check_index=index + 1)).error == "Conflict"
    assert replica.job().version == 0
    replica.ok(RegisterJob(job=job("shop", group(count=3)), check_index=index))
    replica.ok(RegisterJob(job=job("new"), check_index=0))


def test_a_job_in_an_unknown_namespace_is_refused() -> None:
    replica = Replica()
    wanted = msgspec.structs.replace(job(), namespace=Namespace("nowhere"))
    assert replica.do(RegisterJob(job=wanted)).error == "NotFound"


def test_an_unsound_job_is_refused_by_name() -> None:
    replica = Replica()
    applied = replica.do(RegisterJob(job=job("shop", group(count=-1), group(memory=-5, cores=5_000))))
    assert applied.error == "InvalidJob"
    assert "two groups have the same name" in applied.message
    assert "count -1 is below zero" in applied.message
    assert "5000 cores; expected 0 to 4096" in applied.message


def test_old_versions_are_forgotten_unless_something_runs_under_them() -> None:
    replica = Replica("a")
    replica.running(job(), ("a", 1))
    for count in range(2, JOB_VERSIONS_KEPT + 5):
        replica.register(job("shop", group(count=count)))
    versions = [row.version for row in replica.state.job_versions(DEFAULT, JobId("shop"))]
    newest = replica.job().version
    assert versions == [*range(newest, newest - JOB_VERSIONS_KEPT, -1), 0]


def test_the_newest_stable_version_is_kept_to_revert_to() -> None:
    replica = Replica()
    replica.register(job())
    replica.ok(MarkJobStable(namespace=DEFAULT, job_id=JobId("shop"), version=0))
    assert replica.job().is_stable
    for count in range(2, JOB_VERSIONS_KEPT + 5):
        replica.register(job("shop", group(count=count)))
    kept = replica.state.job_version(DEFAULT, JobId("shop"), 0)
    assert kept is not None
    assert kept.is_stable


def test_a_purged_job_is_forgotten_once_nothing_of_it_runs() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(), ("a", 1))
    applied = replica.ok(DeregisterJob(namespace=DEFAULT, job_id=JobId("shop"), purge=True))
    replica.place(
        replica.evaluation(applied.evaluation_id), stops=(Stop(allocation_id=row.id, description="x"),)
    )
    assert replica.state.job(DEFAULT, JobId("shop")) is not None
    replica.report(row, ClientStatus.COMPLETE)
    assert replica.state.job(DEFAULT, JobId("shop")) is None
    assert replica.allocations() == []
    assert list(replica.state.job_versions(DEFAULT, JobId("shop"))) == []


def test_a_purge_is_called_off_when_the_job_is_registered_again() -> None:
    replica = Replica()
    replica.register(job())
    replica.ok(DeregisterJob(namespace=DEFAULT, job_id=JobId("shop"), purge=True))
    replica.register(job())
    for evaluation in list(replica.state.open_evaluations()):
        replica.place(evaluation)
    assert list(replica.state.open_evaluations()) == []
    assert replica.job().version == 1


def test_of_many_pending_evaluations_the_oldest_and_the_newest_stay() -> None:
    replica = Replica()
    replica.register(job())
    for _ in range(4):
        replica.ok(EvaluateJob(namespace=DEFAULT, job_id=JobId("shop")))
    rows = list(replica.state.evaluations_of_job(DEFAULT, JobId("shop")))
    assert [row.status.value for row in rows] == ["pending", "canceled", "canceled", "canceled", "pending"]
    assert rows[3].next_evaluation == rows[4].id


def test_a_retried_request_gives_its_first_answer_and_acts_once() -> None:
    replica = Replica()
    first = replica.do(RegisterJob(job=job()), request_id="same")
    digest_rows = list(replica.state.evaluations())
    again = replica.do(RegisterJob(job=job()), request_id="same")
    assert again == first
    assert replica.changes == ()
    assert list(replica.state.evaluations()) == digest_rows
