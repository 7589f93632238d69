"""Devices over HTTP, in Nomad's shape, and on the command line: what a node has, and which of them a task holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmlet.model.job import DeviceRequest
from swarmlet.model.node import NodeDevice
from swarmlet.scheduler.what_if import WhatIf
from tests.agents.cluster import Cli
from tests.api.trial import Served, served
from tests.scheduler.builders import a_group, a_job, a_node
from tests.scheduler.test_rebalancing import NOW

#: aiohttp would have another kind of key for what the server notes on a request.
pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Served]:
    gpus = NodeDevice(
        vendor="nvidia", type="gpu", name="a100", ids=("0", "1", "2"), attributes={"memory": "40"}
    )
    trial = WhatIf.invented([replace(a_node("n1"), devices=(gpus,)), a_node("n2")], (), NOW)
    group = a_group(memory=100)
    asked = (DeviceRequest(name="gpu", count=2), DeviceRequest(name="nvidia/gpu", milli=250))
    trial.submit([a_job(replace(group, tasks=(replace(group.tasks[0], devices=asked),)))])
    trial.settle()
    with served(trial, tmp_path) as made:
        yield made


def test_a_node_shows_its_devices(world: Served) -> None:
    (device,) = world.api.get("/v1/node/n1")["NodeResources"]["Devices"]
    assert device == {
        "Vendor": "nvidia",
        "Type": "gpu",
        "Name": "a100",
        "Instances": [{"ID": each, "Healthy": True, "HealthDescription": ""} for each in "012"],
        "Attributes": {"memory": {"String": "40"}},
    }
    assert world.api.get("/v1/node/n2")["NodeResources"]["Devices"] == []


def test_an_allocation_shows_the_devices_that_each_task_holds(world: Served) -> None:
    (row,) = world.trial.view.allocations()
    held = world.api.get(f"/v1/allocation/{row.id}")["AllocatedResources"]["Tasks"]["main"]["Devices"]
    assert [(each["Type"], each["DeviceIDs"], each["Milli"]) for each in held] == [
        ("gpu", ["0", "1"], 1000),
        ("gpu", ["2"], 250),
    ]


def test_the_command_line_shows_them_too(world: Served, cli: Cli) -> None:
    assert "device    nvidia/gpu/a100  0 1 2" in cli("node", "status", "n1").out.splitlines()
    (row,) = world.trial.view.allocations()
    lines = cli("alloc", "status", row.id).out.splitlines()
    assert "device     main: nvidia/gpu/a100 0 1" in lines
    assert "device     main: nvidia/gpu/a100 2  0.25 of it" in lines
