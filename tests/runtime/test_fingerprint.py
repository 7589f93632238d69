"""What a machine says of itself."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from swarmlet.config import HostVolume, NodeConfig, parse
from swarmlet.errors import InvalidInput
from swarmlet.ids import NodeId
from swarmlet.model.node import DriverInfo, HostVolumeInfo
from swarmlet.model.resources import cpu_list, parse_cpu_list
from swarmlet.runtime.cgroup import Cgroups, weight_of
from swarmlet.runtime.fingerprint import (
    computed_class,
    fingerprint,
    frequency_mhz,
    memory_mib,
    reserved_memory,
)


def test_a_tenth_of_the_memory_is_kept_within_bounds() -> None:
    assert [reserved_memory(total) for total in (256, 2_000, 10_000, 64_000)] == [128, 256, 1000, 2048]


def test_the_memory_is_the_lower_of_machine_and_cgroup() -> None:
    meminfo = "MemTotal:  2048000 kB\nMemFree: 1 kB\n"
    assert memory_mib(meminfo, []) == 2000
    assert memory_mib(meminfo, [str(512 << 20), "max\n"]) == 512
    assert memory_mib(meminfo, ["9223372036854771712"]) == 2000


def test_the_fastest_core_counts_and_an_unknown_speed_has_a_default() -> None:
    assert frequency_mhz("cpu MHz\t\t: 2400.1\ncpu MHz\t\t: 3000.0\n") == 3000
    assert frequency_mhz("processor: 0\n") == 1000


def test_this_machine_is_a_node(tmp_path: Path) -> None:
    config = NodeConfig(
        data_dir=str(tmp_path / "not" / "yet"),
        name="n1",
        memory_mib=4000,
        host_volumes={"data": HostVolume(path="/srv", read_only=True)},
    )
    drivers = {"docker": DriverInfo(is_detected=True, is_healthy=True, attributes={"version": "27"})}
    node = fingerprint(config, NodeId("id"), "10.0.0.1:4747", drivers, "0.1.0")
    assert node.resources.memory == 4000
    assert node.available().memory == 3600
    assert node.attributes["kernel.name"] == "linux"
    assert (node.attributes["driver.docker"], node.attributes["driver.docker.version"]) == ("1", "27")
    assert node.host_volumes == {"data": HostVolumeInfo(path="/srv", is_read_only=True)}
    assert node.boot_id
    assert node.computed_class == computed_class(node)


def test_unique_attributes_do_not_make_a_class_of_their_own(tmp_path: Path) -> None:
    node = fingerprint(NodeConfig(data_dir=str(tmp_path)), NodeId("id"), "", {}, "0")
    renamed = msgspec.structs.replace(node, attributes={**node.attributes, "unique.hostname": "other"})
    faster = msgspec.structs.replace(node, attributes={**node.attributes, "cpu.arch": "other"})
    assert computed_class(renamed) == node.computed_class
    assert computed_class(faster) != node.computed_class


def test_shares_map_onto_weights_at_both_ends() -> None:
    assert (weight_of(2), weight_of(262_144), weight_of(1)) == (1, 10_000, 1)


def test_a_cgroup_that_cannot_be_made_is_left_out(tmp_path: Path) -> None:
    cgroups = Cgroups({"memory": tmp_path / "missing", "cpu": tmp_path}, is_unified=False)
    assert cgroups.make("task", 100, 64) == [str(tmp_path / "swarmlet-task")]
    assert (tmp_path / "swarmlet-task" / "cpu.shares").read_text() == "100"


def test_all_cores_may_be_reserved_unless_the_configuration_names_some(tmp_path: Path) -> None:
    mine = tuple(sorted(os.sched_getaffinity(0)))
    node = fingerprint(NodeConfig(data_dir=str(tmp_path), cpu_mhz=3_000), NodeId("id"), "", {}, "0")
    assert (node.cores, node.core_mhz) == (mine, 3_000 // len(mine))
    assert node.attributes["cpu.reservablecores"] == node.attributes["cpu.numcores"] == str(len(mine))
    some = NodeConfig(data_dir=str(tmp_path), cpu_mhz=3_000, reservable_cores=f"{mine[-1]},999")
    node = fingerprint(some, NodeId("id"), "", {}, "0")
    assert (node.cores, node.core_mhz) == (mine[-1:], 3_000 // len(mine))
    assert (node.attributes["cpu.reservablecores"], node.resources.cpu) == ("1", 3_000)


def test_lists_of_cores_are_read_and_written_as_the_kernel_does() -> None:
    assert [cpu_list(each) for each in ((), (5,), (3, 1, 0), (0, 2, 3, 4))] == ["", "5", "0-1,3", "0,2-4"]
    assert parse_cpu_list("0-1, 3") == (0, 1, 3)
    for text in ("a", "1-", "3-1", "0x1", "99999", "-1"):
        with pytest.raises(InvalidInput, match="expected numbers such as"):
            parse_cpu_list(text)
    with pytest.raises(InvalidInput, match="reservable_cores"):
        parse('reservable_cores = "0-"', "node.toml")
    assert parse('reservable_cores = "0-3,5"', "node.toml").reservable_cores == "0-3,5"
