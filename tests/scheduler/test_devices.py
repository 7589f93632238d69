"""Devices: found by name and constraint, whole or in parts, never promised twice, and not wasted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.jobspec import job_from_json, job_to_json, parse_job
from swarmlet.model.job import DEVICE_WHOLE, Affinity, Constraint, DeviceRequest, TaskGroup
from swarmlet.model.node import Node, NodeDevice
from swarmlet.scheduler.what_if import WhatIf
from tests.scheduler.builders import a_group, a_job, a_node

NOW = 1_000_000 * 10**9


def with_gpus(name: str, count: int, model: str = "a100", memory: str = "40") -> Node:
    ids = tuple(f"{n}" for n in range(count))
    gpus = NodeDevice(vendor="nvidia", type="gpu", name=model, ids=ids, attributes={"memory": memory})
    return replace(a_node(name, cpu=40_000, memory=80_000), devices=(gpus,))


def asking(*requests: DeviceRequest, name: str = "web", count: int = 1) -> TaskGroup:
    group = a_group(name, count=count, cpu=100, memory=100)
    return replace(group, tasks=(replace(group.tasks[0], devices=requests),))


def held(trial: WhatIf) -> dict[tuple[str, str, str], int]:
    """(node, kind, id) -> thousandths that live allocations hold."""
    found: dict[tuple[str, str, str], int] = {}
    for row in trial.view.allocations():
        for device in row.devices if row.holds_resources() else ():
            for each in device.ids:
                key = (row.node_id, device.device, each)
                found[key] = found.get(key, 0) + device.milli
    return found


def trial_of(nodes: list[Node], *groups: TaskGroup) -> WhatIf:
    trial = WhatIf.invented(nodes, (), NOW)
    trial.submit([a_job(group, name=f"job{number}") for number, group in enumerate(groups)])
    trial.settle()
    return trial


def nodes_of(trial: WhatIf) -> list[str]:
    return sorted(row.node_id for row in trial.view.allocations() if not row.is_terminal())


def test_whole_devices_are_taken_once_and_what_does_not_fit_waits() -> None:
    trial = trial_of([with_gpus("g1", 2), a_node("plain")], asking(DeviceRequest(name="gpu"), count=3))
    assert held(trial) == {("g1", "nvidia/gpu/a100", "0"): 1000, ("g1", "nvidia/gpu/a100", "1"): 1000}
    (standing,) = trial.standings().values()
    assert standing.waiting == 1
    assert standing.failure is not None
    assert [each.reason for each in standing.failure.refusals] == [
        "device gpu short by 1",
        "device gpu missing",
    ]


def test_fractions_share_a_device_before_another_is_opened() -> None:
    quarter = DeviceRequest(name="nvidia/gpu", milli=250)
    trial = trial_of([with_gpus("g1", 2), with_gpus("g2", 2)], asking(quarter, count=4))
    assert list(held(trial).values()) == [1000]


def test_constraints_and_affinities_look_at_the_device() -> None:
    big = DeviceRequest(
        name="gpu", constraints=(Constraint(left="${device.attr.memory}", operand=">=", right="60"),)
    )
    trial = trial_of([with_gpus("small", 4), with_gpus("big", 4, "h100", "80")], asking(big))
    assert nodes_of(trial) == ["big"]
    mixed = with_gpus("mixed", 1)
    extra = NodeDevice(vendor="nvidia", type="gpu", name="h100", ids=("x",), attributes={"memory": "80"})
    mixed = replace(mixed, devices=(*mixed.devices, extra))
    liking = DeviceRequest(
        name="gpu", affinities=(Affinity(left="${device.model}", right="h100", weight=80),)
    )
    assert list(held(trial_of([mixed], asking(liking)))) == [("mixed", "nvidia/gpu/h100", "x")]


def test_what_asks_for_no_device_leaves_nodes_with_devices_alone() -> None:
    trial = trial_of([with_gpus("a", 4), a_node("plain")], a_group(count=2))
    assert nodes_of(trial) == ["plain", "plain"]


def test_a_small_task_does_not_break_a_node_that_large_ones_need() -> None:
    whole_node = asking(DeviceRequest(name="gpu", count=4), name="large", count=1)
    small = asking(DeviceRequest(name="gpu"), name="small", count=2)
    trial = trial_of([with_gpus("eight", 4), with_gpus("two", 2)], small, whole_node)
    assert sorted((row.group, row.node_id) for row in trial.view.allocations()) == [
        ("large", "eight"),
        ("small", "two"),
        ("small", "two"),
    ]


def test_devices_are_given_back_when_an_allocation_ends() -> None:
    trial = trial_of([with_gpus("g1", 1)], asking(DeviceRequest(name="gpu")))
    job = next(iter(trial.view.jobs()))
    trial.stop(job.namespace, job.id)
    trial.settle()
    assert held(trial) == {}
    trial.submit([a_job(asking(DeviceRequest(name="gpu")), name="next")])
    trial.settle()
    assert list(held(trial)) == [("g1", "nvidia/gpu/a100", "0")]


shapes = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.sampled_from([(1, 1000), (2, 1000), (3, 1000), (1, 250), (1, 400), (1, 700)]),
        st.sampled_from(["gpu", "nvidia/gpu", "nvidia/gpu/a100", "nvidia/gpu/h100"]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(
    shapes, st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["a100", "h100"])), min_size=1, max_size=4)
)
def test_no_device_is_ever_promised_twice_and_nothing_waits_that_fits(
    jobs: list[tuple[int, tuple[int, int], str]], machines: list[tuple[int, str]]
) -> None:
    nodes = [with_gpus(f"n{n}", count, model) for n, (count, model) in enumerate(machines)]
    groups = [
        asking(DeviceRequest(name=name, count=count, milli=milli), name=f"g{n}", count=number)
        for n, (number, (count, milli), name) in enumerate(jobs)
    ]
    trial = trial_of(nodes, *groups)
    taken = held(trial)
    assert all(amount <= DEVICE_WHOLE for amount in taken.values())
    waiting = {key[2] for key, each in trial.standings().items() if each.waiting}
    for group in groups:
        if group.name not in waiting:
            continue
        (_, request), *_ = group.device_requests()
        for node in nodes:
            for device in node.devices:
                room = sum(
                    DEVICE_WHOLE - taken.get((node.id, device.key, each), 0) >= request.milli
                    for each in device.ids
                )
                assert not device.is_called(request.name) or room < request.count


def test_the_job_language_knows_devices() -> None:
    text = """
job "train" {
  group "train" {
    task "main" {
      driver = "docker"
      config { image = "train:1" }
      resources {
        memory = 100
        device "nvidia/gpu" {
          count = 2
          constraint {
            attribute = "${device.attr.memory}"
            operator  = ">="
            value     = "40"
          }
          affinity {
            attribute = "${device.model}"
            value     = "h100"
            weight    = 70
          }
        }
        device "fpga" { fraction = 0.25 }
      }
    }
  }
}
"""
    job = parse_job(text, filename="train.hcl").job
    first, second = job.groups[0].tasks[0].devices
    assert (first.name, first.count, first.milli) == ("nvidia/gpu", 2, 1000)
    assert first.constraints == (Constraint(left="${device.attr.memory}", operand=">=", right="40"),)
    assert first.affinities == (Affinity(left="${device.model}", right="h100", weight=70),)
    assert (second.name, second.count, second.milli) == ("fpga", 1, 250)
    assert job_from_json(job_to_json(job)).groups == job.groups
