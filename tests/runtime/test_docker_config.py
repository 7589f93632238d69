"""What a docker task's config means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import DriverError
from swarmlet.model.allocation import AllocatedDevice
from swarmlet.model.job import LogRotation
from swarmlet.model.resources import AllocatedPort, Network
from swarmlet.runtime.drivers.docker_config import container, is_environment_other
from swarmlet.runtime.drivers.docker_rights import Rights
from swarmlet.runtime.drivers.driver import VolumeBind
from swarmlet.runtime.drivers.offered import validate as validate_for
from tests.runtime.process_task import spec


def body(root: Path, config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    wanted = spec(root, "", config={"image": "a:1", **config}, **changes)
    return container(wanted, Rights(is_privileged=True))


def test_a_driver_that_there_is_not_is_refused() -> None:
    assert validate_for("qemu", {}) == ["driver 'qemu' is not supported; there are docker, exec and raw_exec"]


def test_listed_ports_are_published_on_the_allocations_ports(tmp_path: Path) -> None:
    ports = (
        AllocatedPort(label="http", value=20_001, to=80, host_ip="10.0.0.1"),
        AllocatedPort(label="x", value=5),
    )
    made = body(tmp_path, {"ports": ["http"]}, ports=ports)
    assert made["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "20001"}],
        "80/udp": [{"HostIp": "10.0.0.1", "HostPort": "20001"}],
    }
    assert sorted(made["ExposedPorts"]) == ["80/tcp", "80/udp"]


def test_the_old_port_map_works_as_block_or_map(tmp_path: Path) -> None:
    ports = (AllocatedPort(label="http", value=20_001),)
    for written in ({"http": 8080}, [{"http": 8080}]):
        made = body(tmp_path, {"port_map": written}, ports=ports)
        assert sorted(made["HostConfig"]["PortBindings"]) == ["8080/tcp", "8080/udp"]


def test_a_bridge_group_publishes_every_port_and_the_hosts_network_none(tmp_path: Path) -> None:
    ports = (AllocatedPort(label="http", value=20_001, to=80),)
    made = body(tmp_path, {}, ports=ports, network=Network(mode="bridge"))
    assert "80/tcp" in made["HostConfig"]["PortBindings"]
    made = body(tmp_path, {"network_mode": "host"}, ports=ports, network=Network(mode="bridge"))
    assert made["HostConfig"]["PortBindings"] == {}


def test_an_unknown_port_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="port 'web' is not a port of the group"):
        body(tmp_path, {"ports": ["web"]})


def test_directories_and_volumes_are_mounted(tmp_path: Path) -> None:
    volumes = (VolumeBind(source="/srv/data", destination="/data", is_read_only=True),)
    binds = body(tmp_path, {"volumes": ["local/x:/x", "/etc/y:/y:ro"]}, volumes=volumes)["HostConfig"][
        "Binds"
    ]
    root = tmp_path / "11111111-0000-8000-8000-000000000000"
    assert binds == [
        f"{root}/alloc:/alloc",
        f"{root}/server/local:/local",
        f"{root}/server/secrets:/secrets",
        "/srv/data:/data:ro",
        f"{root}/server/local/x:/x",
        "/etc/y:/y:ro",
    ]


def test_a_relative_volume_cannot_leave_the_allocation(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="leaves the allocation"):
        body(tmp_path, {"volumes": ["../../../etc:/x"]})


def test_mount_blocks_take_the_engines_form(tmp_path: Path) -> None:
    block = {"type": "tmpfs", "target": "/t", "tmpfs_options": {"size": 1024}}
    volume = {"type": "volume", "target": "/v", "source": "data", "readonly": True}
    assert body(tmp_path, {"mount": [block, volume]})["HostConfig"]["Mounts"] == [
        {"Type": "tmpfs", "Target": "/t", "ReadOnly": False, "TmpfsOptions": {"SizeBytes": 1024}},
        {
            "Type": "volume",
            "Target": "/v",
            "ReadOnly": True,
            "Source": "data",
            "VolumeOptions": {"NoCopy": False, "Labels": {}},
        },
    ]


def test_the_engine_rotates_the_log_unless_it_is_disabled(tmp_path: Path) -> None:
    made = body(tmp_path, {}, logs=LogRotation(max_files=2, max_file_mib=5))
    assert made["HostConfig"]["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "10m", "max-file": "2"},
    }
    made = body(tmp_path, {}, logs=LogRotation(is_disabled=True))
    assert made["HostConfig"]["LogConfig"]["Type"] == "none"


def test_our_labels_cannot_be_overwritten(tmp_path: Path) -> None:
    made = body(tmp_path, {"labels": [{"swarmlet.node": "evil", "own": "1"}]})
    assert (made["Labels"]["swarmlet.node"], made["Labels"]["own"]) == ("node-1", "1")


def test_a_hard_limit_turns_the_reservation_into_a_soft_one(tmp_path: Path) -> None:
    host = body(tmp_path, {"memory_hard_limit": 128, "cpuset_cpus": "0"}, memory=64)["HostConfig"]
    assert (host["Memory"], host["MemoryReservation"], host["CpusetCpus"]) == (128 << 20, 64 << 20, "0")


def test_whole_cores_are_the_containers_cpuset(tmp_path: Path) -> None:
    host = body(tmp_path, {}, cores=(0, 1, 3), cpu=6_000)["HostConfig"]
    assert (host["CpusetCpus"], host["CpuShares"]) == ("0-1,3", 6_000)
    assert "CpusetCpus" not in body(tmp_path, {})["HostConfig"]


def test_devices_keep_their_path_unless_told(tmp_path: Path) -> None:
    host = body(tmp_path, {"devices": [{"host_path": "/dev/kmsg"}]})["HostConfig"]
    assert host["Devices"] == [
        {"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg", "CgroupPermissions": "rwm"}
    ]


def test_a_container_made_with_older_secrets_is_another_one(tmp_path: Path) -> None:
    old = body(tmp_path, {}, secret_env={"A": "value-1"})
    made = {"Labels": old["Labels"], "Env": [*old["Env"], "PATH=/bin"]}
    assert not is_environment_other(made, old)
    others: list[dict[str, str]] = [{"A": "value-2"}, {"A": "value-1", "B": "2"}, {}]
    for secrets in others:
        assert is_environment_other(made, body(tmp_path, {}, secret_env=secrets))
    assert "value-1" not in str(old["Labels"])


def test_a_hard_limit_below_the_reservation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="32 MiB is below the 64 MiB"):
        body(tmp_path, {"memory_hard_limit": 32}, memory=64)


def test_a_hard_cpu_limit_is_the_tasks_share_of_a_core(tmp_path: Path) -> None:
    host = body(tmp_path, {"cpu_hard_limit": True}, cpu=500, core_mhz=2_000)["HostConfig"]
    assert (host["CpuPeriod"], host["CpuQuota"], host["CpuShares"]) == (100_000, 25_000, 500)
    host = body(tmp_path, {"cpu_hard_limit": True, "cpu_cfs_period": 10_000}, cpu=1, core_mhz=2_000)
    assert (host["HostConfig"]["CpuPeriod"], host["HostConfig"]["CpuQuota"]) == (10_000, 1_000)
    with pytest.raises(DriverError, match="cpu_mhz"):
        body(tmp_path, {"cpu_hard_limit": True})


def test_gpus_of_the_allocation_are_asked_of_the_engine(tmp_path: Path) -> None:
    held = (AllocatedDevice(task="server", device="nvidia/gpu/a100", ids=("GPU-1", "GPU-2")),)
    host = body(tmp_path, {}, devices=held)["HostConfig"]
    assert host["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-1", "GPU-2"], "Capabilities": [["gpu"]]}
    ]
    assert "DeviceRequests" not in body(tmp_path, {"runtime": "nvidia"}, devices=held)["HostConfig"]


def test_devices_that_are_paths_are_given_without_a_permission(tmp_path: Path) -> None:
    held = (AllocatedDevice(task="server", device="intel/gpu/arc", ids=("/dev/dri/renderD128",)),)
    wanted = spec(tmp_path, "", config={"image": "a:1"}, devices=held)
    host = container(wanted, Rights(is_host=False))["HostConfig"]
    assert [device["PathOnHost"] for device in host["Devices"]] == ["/dev/dri/renderD128"]


def test_a_network_of_the_engines_user_takes_addresses_and_names(tmp_path: Path) -> None:
    keys = {"ipv4_address": "10.9.0.5", "mac_address": "02:42:0a:09:00:05", "network_aliases": ["db"]}
    made = body(tmp_path, {"network_mode": "backend", **keys})
    assert made["NetworkingConfig"]["EndpointsConfig"] == {
        "backend": {
            "MacAddress": "02:42:0a:09:00:05",
            "IPAMConfig": {"IPv4Address": "10.9.0.5"},
            "Aliases": ["db"],
        }
    }
    assert "NetworkingConfig" not in body(tmp_path, {"network_mode": "backend"})
