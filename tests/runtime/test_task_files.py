"""Templates in the life of a task: written before the start, waited for, followed, paced."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from swarmlet.ids import AllocationId
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.job import Artifact, ChangeMode, ChangeScript, Task, Template
from swarmlet.runtime import task_files
from swarmlet.runtime.drivers.command import CommandResult
from swarmlet.runtime.pace import Instance, waits_for
from tests.runtime.template_world import Values
from tests.runtime.world import (
    FakeDriver,
    Machine,
    Reports,
    RunningAgent,
    Source,
    allocation_of,
    fake_task,
    job_of,
    stopped,
)

RUNNING = ClientStatus.RUNNING
CONFIG = Template(
    destination="local/app.conf",
    data='password={{ key "nomad/jobs/web/password" }}',
    splay_ns=0,
    perms="0600",
)


def with_template(**changes: Any) -> Task:
    fields = {name: getattr(CONFIG, name) for name in CONFIG.__struct_fields__}
    return fake_task(templates=(Template(**{**fields, **changes}),))


class World:
    """An agent with one job of one allocation, and values for its templates."""

    def __init__(self, directory: Path, task: Task, values: Values) -> None:
        self.machine, self.source, self.reports = Machine(), Source(), Reports()
        self.values = values
        self.job = job_of(task)
        self.allocation = allocation_of(self.job)
        self.root = directory / "alloc" / self.allocation.id
        self.directory = directory
        self.source.publish(self.job, self.allocation)

    def agent(self) -> RunningAgent:
        return RunningAgent(
            self.directory, FakeDriver(self.machine), self.source, self.reports, templates=self.values
        )

    @property
    def config(self) -> Path:
        return self.root / "server" / "local" / "app.conf"

    def events(self) -> list[tuple[str, str]]:
        report = self.reports.latest[self.allocation.id]
        return [(event.kind, event.message) for event in report.task_states["server"].events]

    async def started(self, count: int) -> None:
        await self.machine.wait_for(lambda: len(self.machine.specs) == count)

    async def told(self, text: str) -> None:
        await self.reports.wait_until(
            lambda report: any(
                text in event.message for state in report.task_states.values() for event in state.events
            )
        )


async def test_a_template_is_written_before_the_task_starts(tmp_path: Path) -> None:
    world = World(tmp_path, with_template(), Values(password="one"))
    async with world.agent():
        await world.started(1)
        assert world.config.read_text() == "password=one"
        assert world.config.stat().st_mode & 0o777 == 0o600


async def test_a_task_waits_for_what_its_template_needs(tmp_path: Path) -> None:
    world = World(tmp_path, with_template(), Values())
    async with world.agent():
        await world.told("waits for item nomad/jobs/web/password of a variable")
        assert world.machine.specs == []
        world.values.set(password="late")
        await world.started(1)
        assert world.config.read_text() == "password=late"


async def test_a_task_that_waits_can_be_stopped(tmp_path: Path) -> None:
    world = World(tmp_path, with_template(), Values())
    async with world.agent():
        await world.told("waits for")
        world.source.publish(world.job, stopped(world.allocation))
        await world.reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
    assert world.machine.specs == []


async def test_a_change_restarts_the_task_with_the_new_file(tmp_path: Path) -> None:
    world = World(tmp_path, with_template(), Values(password="one"))
    async with world.agent():
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
        world.values.set(password="two")
        await world.started(2)
        assert world.config.read_text() == "password=two"
        await world.told("template local/app.conf has changed")
    assert all("one" not in text and "two" not in text for _, text in world.events())


async def test_what_does_not_show_the_change_does_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, with_template(change_mode=ChangeMode.NOOP), Values(password="one"))
    async with world.agent():
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
        world.values.set(password="one", other="x")
        world.values.set(password="two", other="x")
        await world.told("local/app.conf has changed")
        assert world.config.read_text() == "password=two"
    assert len(world.machine.specs) == 1


async def test_a_change_may_signal_the_task(tmp_path: Path) -> None:
    task = with_template(change_mode=ChangeMode.SIGNAL, change_signal="SIGHUP")
    world = World(tmp_path, task, Values(password="one"))
    async with world.agent():
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
        world.values.set(password="two")
        await world.told("SIGHUP was sent: a template has changed")
        assert world.config.read_text() == "password=two"
    assert world.machine.signals == ["SIGHUP"]
    assert len(world.machine.specs) == 1


@pytest.mark.parametrize(
    ("exit_code", "says"), [(0, "/reload was run"), (3, "/reload failed: ended with exit code 3")]
)
async def test_a_change_may_run_a_script(tmp_path: Path, exit_code: int, says: str) -> None:
    script = ChangeScript(command="/reload", is_fail_on_error=True)
    task = with_template(change_mode=ChangeMode.SCRIPT, change_script=script)
    world = World(tmp_path, task, Values(password="one"))
    world.machine.answers["/reload"] = CommandResult(exit_code=exit_code)
    async with world.agent():
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
        world.values.set(password="two")
        await world.told(says)
        await world.started(1 if exit_code == 0 else 2)


async def test_environment_templates_give_secrets_that_no_spec_writes_down(tmp_path: Path) -> None:
    task = with_template(
        data='A={{ env "NOMAD_TASK_NAME" }}\nB={{ key "nomad/jobs/web/password" }}', is_env=True
    )
    world = World(tmp_path, task, Values(password="one"))
    async with world.agent():
        await world.started(1)
        assert world.machine.specs[0].secret_env == {"A": "server", "B": "one"}
        assert "B" not in world.machine.specs[0].env
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
        world.values.set(password="two")
        await world.started(2)
        assert world.machine.specs[1].secret_env["B"] == "two"


async def test_the_drivers_configuration_knows_what_templates_put_into_the_environment(
    tmp_path: Path,
) -> None:
    template = with_template(data='PASSWORD={{ key "nomad/jobs/web/password" }}', is_env=True).templates
    config = {"auth": [{"username": "ann", "password": "${PASSWORD}"}], "args": ["${env.PASSWORD}", "${NO}"]}
    world = World(tmp_path, fake_task(templates=template, config=config), Values(password="one"))
    async with world.agent():
        await world.started(1)
    assert world.machine.specs[0].config == {
        "auth": [{"username": "ann", "password": "one"}],
        "args": ["one", "${NO}"],
    }


async def test_a_task_is_stopped_as_it_says_although_its_variable_is_gone(tmp_path: Path) -> None:
    task = fake_task(config={"auth": {"variable": "nomad/jobs/web"}}, kill_signal="SIGINT")
    world = World(tmp_path, task, Values(username="ann", password="pw"))
    async with world.agent():
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
        assert world.machine.specs[0].config == {"auth": {"username": "ann", "password": "pw"}}
        world.values.variables.clear()
        world.source.publish(world.job, stopped(world.allocation))
        await world.reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)


async def test_an_adopted_task_hears_of_what_changed_while_no_agent_looked(tmp_path: Path) -> None:
    world = World(tmp_path, with_template(), Values(password="one"))
    async with world.agent():
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
    world.source.publish(world.job, world.allocation)
    world.reports.latest.clear()
    async with world.agent():
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
        assert len(world.machine.specs) == 1
    world.values.set(password="two")
    world.source.publish(world.job, world.allocation)
    async with world.agent():
        await world.started(2)
        assert world.config.read_text() == "password=two"


async def test_a_mistake_in_a_template_fails_the_start_and_names_the_place(tmp_path: Path) -> None:
    world = World(tmp_path, with_template(data='\n{{ key "other/x" }}'), Values(password="one"))
    async with world.agent():
        await world.told(
            "template: local/app.conf:2:4: task server may not read variable other; it may read nomad/jobs"
        )
        assert world.machine.specs == []


async def test_a_variable_that_goes_leaves_the_task_as_it_is(tmp_path: Path) -> None:
    world = World(tmp_path, with_template(), Values(password="one"))
    async with world.agent():
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
        world.values.variables.clear()
        world.values.changed()
        await world.told("stays as it is: item nomad/jobs/web/password of a variable")
        assert world.config.read_text() == "password=one"
    assert len(world.machine.specs) == 1


async def test_a_restart_waits_for_the_instances_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_files, "PACE_SECONDS", 0.01)
    world = World(tmp_path, with_template(), Values(password="one"))
    first = AllocationId("first")
    world.values.others = [
        Instance(id=first, index=0, started_at_ns=1),
        Instance(id=world.allocation.id, index=1, started_at_ns=1),
    ]
    async with world.agent():
        await world.reports.wait_until(lambda report: report.client_status is RUNNING)
        world.values.set(password="two")
        await world.told("the restart waits until web.api[0] runs with it")
        assert len(world.machine.specs) == 1
        world.values.others[0] = Instance(id=first, index=0, started_at_ns=time.time_ns())
        await world.started(2)


async def test_a_template_may_come_from_an_artifact(tmp_path: Path) -> None:
    source = tmp_path / "shared" / "t.tpl"
    source.parent.mkdir()
    source.write_text('from file: {{ key "nomad/jobs/web/password" }}')
    template = Template(destination="local/out", source="local/t.tpl", splay_ns=0)
    task = fake_task(templates=(template,), artifacts=(Artifact(source=str(source)),))
    world = World(tmp_path, task, Values(password="one"))
    agent = world.agent()
    monkey = agent.agent._site
    object.__setattr__(monkey.artifacts, "_may_read", lambda path: True)
    async with agent:
        await world.started(1)
        assert (world.root / "server" / "local" / "out").read_text() == "from file: one"


@pytest.mark.parametrize(
    ("started", "max_parallel", "waits"),
    [
        # Nobody before me.
        ((5, 5, 5), 3, None),
        # The first slot has not changed yet.
        ((5, 5, 5), 1, 0),
        ((5, 5, 5), 2, 0),
        # It has, and runs long enough; then not long enough.
        ((20, 20, 5), 2, None),
        ((20, 96, 5), 2, 1),
        # It does not run: the change may be bad.
        ((20, 0, 5), 2, 1),
    ],
)
def test_instances_change_in_slots(started: tuple[int, ...], max_parallel: int, waits: int | None) -> None:
    second = 10**9
    instances = [
        Instance(id=AllocationId(f"a{number}"), index=number, started_at_ns=at * second)
        for number, at in enumerate(started)
    ]
    found = waits_for(
        AllocationId("a2"),
        instances,
        max_parallel=max_parallel,
        min_healthy_ns=10 * second,
        changed_at_ns=15 * second,
        patience_ns=300 * second,
        now_ns=100 * second,
    )
    assert (None if found is None else found.index) == waits


def test_an_instance_that_a_change_does_not_concern_is_not_waited_for_for_ever() -> None:
    second = 10**9
    instances = [
        Instance(id=AllocationId("a0"), index=0, started_at_ns=5 * second),
        Instance(id=AllocationId("a1"), index=1, started_at_ns=5 * second),
    ]
    waits = [
        waits_for(
            AllocationId("a1"),
            instances,
            max_parallel=1,
            min_healthy_ns=second,
            changed_at_ns=100 * second,
            patience_ns=300 * second,
            now_ns=now * second,
        )
        for now in (101, 399, 401)
    ]
    assert [item is None for item in waits] == [False, False, True]
