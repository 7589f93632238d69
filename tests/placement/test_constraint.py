"""Constraints: every operand, every kind of target, and what is refused."""

from __future__ import annotations

import pytest

from swarmlet.errors import InvalidJob
from swarmlet.model.job import Constraint
from swarmlet.model.node import DriverInfo
from swarmlet.placement.constraint import compile_constraint
from swarmlet.placement.feasibility import Ask
from tests.scheduler.builders import a_group, a_job, a_node

NODE = a_node(
    "n1",
    attributes={
        "kernel.name": "linux",
        "cpu.numcores": "8",
        "driver.docker.version": "27.1.3",
        "features": "a, b,c",
    },
    meta={"rack": "r1", "unique.serial": "77"},
)


@pytest.mark.parametrize(
    ("left", "operand", "right", "holds"),
    [
        ("${attr.kernel.name}", "=", "linux", True),
        ("${attr.kernel.name}", "==", "windows", False),
        ("${attr.kernel.name}", "is", "linux", True),
        ("${attr.kernel.name}", "!=", "windows", True),
        ("${attr.missing}", "!=", "windows", True),
        ("${attr.missing}", "=", "", False),
        ("${node.unique.name}", "not", "n1", False),
        ("${node.unique.id}", "=", "n1", True),
        ("${node.datacenter}", "=", "dc1", True),
        ("${node.pool}", "=", "default", True),
        ("${meta.rack}", "=", "r1", True),
        ("${attr.cpu.numcores}", ">", "10", False),
        ("${attr.cpu.numcores}", ">=", "8", True),
        ("${attr.cpu.numcores}", "<", "10", True),
        ("${attr.kernel.name}", "<=", "linux", True),
        ("${attr.kernel.name}", "regexp", "^lin", True),
        ("${attr.driver.docker.version}", "version", ">= 27.1, < 28", True),
        ("${attr.driver.docker.version}", "version", "~> 27.1.0", True),
        ("${attr.driver.docker.version}", "version", "~> 27.0.0", False),
        ("${attr.driver.docker.version}", "semver", "> 27.1.3-rc1", True),
        ("${attr.driver.docker.version}", "version", "= 27.1.3.0", True),
        ("${attr.features}", "set_contains", "a,c", True),
        ("${attr.features}", "set_contains_all", "a,d", False),
        ("${attr.features}", "set_contains_any", "d,c", True),
        ("${attr.kernel.name}", "is_set", "", True),
        ("${attr.missing}", "is_not_set", "", True),
    ],
)
def test_operands(left: str, operand: str, right: str, holds: bool) -> None:
    assert compile_constraint(Constraint(left=left, operand=operand, right=right)).holds(NODE) is holds


@pytest.mark.parametrize(
    ("operand", "right"),
    [
        ("distinct_property", "x"),
        ("regexp", "("),
        ("regexp", "a" * 600),
        ("version", "new"),
        ("semver", "~> 1.0"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(operand: str, right: str) -> None:
    with pytest.raises(InvalidJob, match=r"constraint|operand|pattern|version"):
        compile_constraint(Constraint(left="${attr.kernel.name}", operand=operand, right=right))


def test_unique_attributes_are_not_shared_by_a_class() -> None:
    one = a_node("n1", meta={"unique.serial": "1"}, computed_class="same")
    two = a_node("n2", meta={"unique.serial": "2"}, computed_class="same")
    constraint = Constraint(left="${meta.unique.serial}", right="2")
    job = a_job(a_group(constraints=(constraint,)))
    ask = Ask.of(job, job.groups[0])
    assert [bool(ask.refusal(node)) for node in (one, two)] == [True, False]
    assert not ask.is_class_bound


def test_datacenter_globs_and_pools() -> None:
    job = a_job(datacenters=("eu-*", "us-1"))
    ask = Ask.of(job, job.groups[0])
    refused = [bool(ask.refusal(a_node("n", datacenter=name))) for name in ("eu-west", "us-1", "us-11", "eu")]
    assert refused == [False, False, True, True]
    gpu = a_job(node_pool="gpu")
    assert Ask.of(gpu, gpu.groups[0]).refusal(NODE) == "node pool default is not gpu"


def test_an_unhealthy_driver_is_named_with_its_reason() -> None:
    job = a_job()
    node = type(NODE)(
        id=NODE.id,
        name="n1",
        status=NODE.status,
        drivers={"docker": DriverInfo(is_detected=False, reason="no socket at /run/docker.sock")},
    )
    refusal = Ask.of(job, job.groups[0]).refusal(node)
    assert refusal == "driver docker missing: no socket at /run/docker.sock"
