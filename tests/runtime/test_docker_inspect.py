"""Every key of a docker task's config, as a real Docker Engine understood it: what its inspect shows."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from swarmlet.model.allocation import AllocatedDevice
from swarmlet.runtime.drivers.docker import Docker
from swarmlet.runtime.drivers.docker_config import container
from swarmlet.runtime.drivers.docker_rights import Rights
from swarmlet.runtime.drivers.driver import LogStream
from tests.runtime.engine import IMAGE, Engine, driver_of, needs, running, started_engine, why_not
from tests.runtime.process_task import ignore, spec

pytestmark = needs(why_not())
ALLOWED = Rights(is_privileged=True)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with started_engine() as made:
        yield made


@pytest.fixture
async def driver(engine: Engine) -> AsyncIterator[Docker]:
    async with running(driver_of(engine, rights=ALLOWED)) as made:
        yield made
    engine.remove_containers()


async def inspected(
    driver: Docker, engine: Engine, root: Path, config: dict[str, Any], **changes: Any
) -> tuple[dict[str, Any], str]:
    """A container of the keys: what the engine says of it once it has ended, and what it printed."""
    handle = await driver.start(spec(root, "", config={"image": IMAGE, **config}, **changes), ignore)
    await driver.wait(handle)
    printed = b"".join([chunk async for chunk in driver.logs(handle, LogStream.STDOUT)])
    found: dict[str, Any] = engine.client().inspect_container(handle.identifier)
    return found, printed.decode()


async def test_process_keys(driver: Docker, engine: Engine, tmp_path: Path) -> None:
    keys = {
        "entrypoint": ["/bin/sh", "-c"],
        "args": ["hostname; pwd; id -G; ulimit -n; cat /proc/sys/net/core/somaxconn; ls -a /; cat /etc/hosts"],
        "hostname": "web-1",
        "work_dir": "/tmp",
        "group_add": ["44"],
        "ulimit": [{"nofile": "128:256"}],
        "sysctl": {"net.core.somaxconn": 321},
        "tty": True,
        "interactive": True,
        "init": True,
        "labels": [{"team": "a"}],
        "extra_hosts": ["db.example:10.9.8.7"],
        "dns_servers": ["10.0.0.2"],
        "dns_search_domains": ["a.example"],
        "dns_options": ["ndots:1"],
        "healthchecks": {"disable": True},
        "network_mode": "none",
        "readonly_rootfs": True,
    }  # fmt: skip
    found, printed = await inspected(driver, engine, tmp_path, keys)
    config, host = found["Config"], found["HostConfig"]
    assert printed.splitlines()[:2] == ["web-1", "/tmp"]
    assert "44" in printed.splitlines()[2].split()
    assert printed.splitlines()[3:5] == ["128", "321"]
    assert (config["Tty"], config["OpenStdin"], host["Init"], host["ReadonlyRootfs"]) == (True,) * 4
    assert (config["Labels"]["team"], config["Healthcheck"]) == ("a", {"Test": ["NONE"]})
    assert (host["ExtraHosts"], host["NetworkMode"]) == (["db.example:10.9.8.7"], "none")
    assert (host["Dns"], host["DnsSearch"], host["DnsOptions"]) == (["10.0.0.2"], ["a.example"], ["ndots:1"])


async def test_limits_and_rights(driver: Docker, engine: Engine, tmp_path: Path) -> None:
    keys = {
        "command": "/bin/true",
        "network_mode": "none",
        "shm_size": 1 << 20,
        "pids_limit": 50,
        "memory_hard_limit": 96,
        "cpu_hard_limit": True,
        "cpu_cfs_period": 50_000,
        "cpuset_cpus": "0",
        "oom_score_adj": 200,
        "cap_add": ["net_admin"],
        "cap_drop": ["MKNOD", "net_raw"],
        "security_opt": ["no-new-privileges"],
        "runtime": "runc",
        "isolation": "default",
        "ipc_mode": "private",
        "cgroupns": "private",
        "uts_mode": "host",
        "pid_mode": "host",
        "devices": [{"host_path": "/dev/null", "container_path": "/dev/nil", "cgroup_permissions": "r"}],
        "logging": [{"type": "local", "config": [{"max-size": "1m"}]}],
    }
    found, _ = await inspected(driver, engine, tmp_path, keys, memory=64, cpu=500, core_mhz=2_000)
    host = found["HostConfig"]
    assert (host["ShmSize"], host["PidsLimit"], host["OomScoreAdj"]) == (1 << 20, 50, 200)
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (96 << 20, 96 << 20, 64 << 20)
    assert (host["CpuPeriod"], host["CpuQuota"], host["CpuShares"]) == (50_000, 12_500, 500)
    assert (host["CpusetCpus"], host["Runtime"], host["IpcMode"]) == ("0", "runc", "private")
    assert (host["UTSMode"], host["PidMode"]) == ("host", "host")
    assert "no-new-privileges" in host["SecurityOpt"]
    assert {name.removeprefix("CAP_").lower() for name in host["CapAdd"]} == {"net_admin"}
    assert {name.removeprefix("CAP_").lower() for name in host["CapDrop"]} == {"mknod", "net_raw"}
    assert host["Devices"] == [
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/nil", "CgroupPermissions": "r"}
    ]
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-size": "1m"}}


async def test_a_container_runs_on_the_cores_of_its_task_alone(
    driver: Docker, engine: Engine, tmp_path: Path
) -> None:
    last = max(os.sched_getaffinity(0))
    keys = {"command": "/bin/sh", "args": ["-c", "nproc; grep Cpus_allowed_list /proc/self/status"]}
    found, printed = await inspected(
        driver, engine, tmp_path, keys | {"network_mode": "none"}, cores=(last,), cpu=1_000
    )
    assert found["HostConfig"]["CpusetCpus"] == str(last)
    assert printed.split() == ["1", "Cpus_allowed_list:", str(last)]


async def test_mounts(driver: Docker, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "file").write_text("of the host\n")
    keys = {
        "command": "/bin/sh",
        "args": [
            "-c",
            "cat /h/file; cat /l/x; echo w > /named/f; awk '$2 == \"/t\" {print $4}' /proc/mounts",
        ],
        "network_mode": "none",
        "volumes": [f"{tmp_path}/host:/h:ro"],
        "mount": [
            {"type": "bind", "source": "local", "target": "/l", "readonly": True},
            {"type": "tmpfs", "target": "/t", "tmpfs_options": [{"size": 1 << 20, "mode": 0o700}]},
        ],
        "mounts": [
            {
                "type": "volume",
                "source": "swl-test-data",
                "target": "/named",
                "volume_options": [{"no_copy": True, "labels": [{"team": "a"}]}],
            }
        ],
    }
    wanted = spec(tmp_path, "", config={"image": IMAGE, **keys})
    (Path(wanted.directories.local) / "x").write_text("of the task\n")
    found, printed = await inspected(driver, engine, tmp_path, keys)
    lines = printed.splitlines()
    assert lines[:2] == ["of the host", "of the task"]
    assert {"size=1024k", "mode=700"} <= set(lines[2].split(","))
    mounts = {each["Destination"]: each for each in found["Mounts"]}
    assert (mounts["/h"]["RW"], mounts["/l"]["RW"], mounts["/named"]["RW"]) == (False, False, True)
    assert engine.client().inspect_volume("swl-test-data")["Labels"]["team"] == "a"


async def test_addresses_and_names_in_a_network_of_the_engines_user(
    driver: Docker, engine: Engine, tmp_path: Path
) -> None:
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.213.7.0/24")])
    engine.client().create_network("swl-backend", driver="bridge", ipam=pool)
    keys = {
        "command": "/bin/sh",
        "args": ["-c", "cat /sys/class/net/eth0/address"],
        "network_mode": "swl-backend",
        "network_aliases": ["db"],
        "ipv4_address": "10.213.7.9",
        "mac_address": "02:42:0a:d5:07:09",
    }
    found, printed = await inspected(driver, engine, tmp_path, keys)
    endpoint = found["NetworkSettings"]["Networks"]["swl-backend"]
    assert endpoint["IPAMConfig"]["IPv4Address"] == "10.213.7.9"
    assert "db" in endpoint["Aliases"]
    assert printed == "02:42:0a:d5:07:09\n"


async def test_what_this_machine_cannot_run_is_asked_as_the_engine_takes_it(
    engine: Engine, tmp_path: Path
) -> None:
    """GPUs, remapped users, all privileges: created, not started."""
    held = (AllocatedDevice(task="server", device="nvidia/gpu/a100", ids=("GPU-1",)),)
    keys = {
        "image": IMAGE,
        "command": "/bin/true",
        "userns_mode": "host",
        "network_mode": "none",
        "privileged": True,
    }
    made = engine.client().create_container_from_config(
        container(spec(tmp_path, "", config=keys, devices=held), ALLOWED), "swl-gpu"
    )
    host = engine.client().inspect_container(made["Id"])["HostConfig"]
    engine.client().remove_container(made["Id"])
    assert (host["UsernsMode"], host["Privileged"]) == ("host", True)
    [request] = host["DeviceRequests"]
    assert (request["Driver"], request["DeviceIDs"], request["Capabilities"]) == (
        "nvidia",
        ["GPU-1"],
        [["gpu"]],
    )
