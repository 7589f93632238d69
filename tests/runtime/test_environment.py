"""What a task sees in its environment."""

from __future__ import annotations

from swarmlet.ids import NodeId
from swarmlet.model.allocation import AllocatedCores
from swarmlet.model.node import Node
from swarmlet.model.resources import AllocatedPort
from swarmlet.runtime.drivers.driver import Directories
from swarmlet.runtime.environment import Interpolation, build, facts
from tests.runtime.world import allocation_of, fake_task, job_of

NODE = Node(
    id=NodeId("n"),
    name="n1",
    datacenter="dc7",
    attributes={"cpu.arch": "amd64"},
    meta={"rack": "r1"},
)
DIRECTORIES = Directories(root="/r", shared="/alloc", local="/local", secrets="/secrets")


def environment_of(
    task_env: dict[str, str], *, is_port_mapped: bool = False, cores: tuple[AllocatedCores, ...] = ()
) -> dict[str, str]:
    task = fake_task(env=task_env, meta={"tier-1": "task"})
    job = job_of(task, meta={"tier-1": "group", "owner": "me"})
    allocation = allocation_of(
        job,
        2,
        ports=(
            AllocatedPort(label="http", value=20_001, to=80),
            AllocatedPort(label="v6", value=1, host_ip="::1"),
        ),
        cores=cores,
    )
    values = facts(
        allocation,
        job,
        job.groups[0],
        task,
        NODE,
        DIRECTORIES,
        host_address="10.0.0.1",
        is_port_mapped=is_port_mapped,
    )
    return build(task, values, NODE)[0]


def test_names_are_nomads_and_the_same_facts_have_our_prefix() -> None:
    env = environment_of({})
    assert env["NOMAD_ALLOC_INDEX"] == "2"
    assert env["NOMAD_TASK_DIR"] == "/local"
    assert env["NOMAD_DC"] == "dc7"
    assert env["NOMAD_MEMORY_LIMIT"] == "300"
    assert {key[6:]: value for key, value in env.items() if key.startswith("NOMAD_")} == {
        key[9:]: value for key, value in env.items() if key.startswith("SWARMLET_")
    }


def test_whole_cores_are_told_by_number_with_the_cpu_that_they_count_for() -> None:
    name = fake_task().name
    env = environment_of({}, cores=(AllocatedCores(task=name, ids=(0, 1, 3), cpu=6_000),))
    assert (env["NOMAD_CPU_CORES"], env["NOMAD_CPU_LIMIT"]) == ("0-1,3", "6000")
    other = environment_of({}, cores=(AllocatedCores(task="other", ids=(2,), cpu=2_000),))
    assert ("NOMAD_CPU_CORES" in other, other["NOMAD_CPU_LIMIT"]) == (False, "100")


def test_the_port_is_the_one_that_the_task_listens_on_and_the_address_the_one_others_use() -> None:
    assert environment_of({})["NOMAD_PORT_http"] == "20001"
    mapped = environment_of({}, is_port_mapped=True)
    assert mapped["NOMAD_PORT_http"] == "80"
    assert mapped["NOMAD_HOST_PORT_http"] == "20001"
    assert mapped["NOMAD_ADDR_http"] == "10.0.0.1:20001"
    assert mapped["NOMAD_ADDR_v6"] == "[::1]:1"


def test_the_narrowest_meta_wins_under_a_valid_name() -> None:
    env = environment_of({})
    assert env["NOMAD_META_tier_1"] == "task"
    assert env["NOMAD_META_OWNER"] == "me"


def test_values_are_interpolated_from_node_attributes_meta_and_the_environment() -> None:
    env = environment_of(
        {"A": "${attr.cpu.arch}/${meta.rack}/${node.datacenter}/${NOMAD_TASK_NAME}", "B": "${unknown.thing}"}
    )
    assert env["A"] == "amd64/r1/dc7/server"
    assert env["B"] == "${unknown.thing}"


def test_config_values_of_any_shape_are_interpolated() -> None:
    interpolation = Interpolation({"env.X": "1"})
    assert interpolation.value({"a": ["${env.X}", 2], "b": {"c": "x${env.X}"}}) == {
        "a": ["1", 2],
        "b": {"c": "x1"},
    }
