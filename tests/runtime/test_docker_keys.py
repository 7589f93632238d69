"""What may stand in a docker task's config, and what a node allows of it."""

from __future__ import annotations

from typing import Any

import pytest

from swarmlet.config import DriverSwitches
from swarmlet.errors import DriverError
from swarmlet.jobspec.document import parse_job
from swarmlet.jobspec.problem import InvalidJobFile
from swarmlet.jobspec.validation import DOCKER_KEYS, Checks
from swarmlet.runtime.drivers.docker_keys import KEYS, REFUSED, seconds, validate
from swarmlet.runtime.drivers.docker_rights import Rights, check_rights, rights_of

#: One right value of every key.
RIGHT: dict[str, Any] = {
    "image": "nginx:1.27",
    "command": "serve",
    "args": ["-p", 80],
    "entrypoint": ["/bin/sh", "-c"],
    "hostname": "web",
    "work_dir": "/srv",
    "network_mode": "backend",
    "network_aliases": ["web"],
    "ipv4_address": "10.1.0.2",
    "ipv6_address": "fd00::2",
    "mac_address": "02:42:ac:11:00:02",
    "ports": ["http"],
    "port_map": [{"http": 80}],
    "volumes": ["named:/srv:ro", "local/x:/x"],
    "volume_driver": "local",
    "mount": [
        {"type": "bind", "source": "local", "target": "/a", "bind_options": [{"propagation": "rslave"}]},
        {"type": "tmpfs", "target": "/t", "tmpfs_options": [{"size": 1000, "mode": 511}]},
        {
            "target": "/v",
            "source": "data",
            "readonly": True,
            "volume_options": [
                {
                    "no_copy": True,
                    "labels": {"a": "b"},
                    "driver_config": [{"name": "local", "options": [{"type": "nfs"}]}],
                }
            ],
        },
    ],
    "mounts": [{"target": "/w", "source": "data"}],
    "labels": [{"a": "b", "n": 1}],
    "dns_servers": ["10.0.0.2", "fd00::1"],
    "dns_search_domains": ["a.example"],
    "dns_options": ["ndots:1"],
    "extra_hosts": ["db:10.0.0.3", "host:host-gateway", "v6:[fd00::1]", "${meta.host}"],
    "cap_add": ["net_admin", "CAP_SYS_TIME"],
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "group_add": ["video", 44],
    "privileged": False,
    "readonly_rootfs": "true",
    "init": True,
    "tty": True,
    "interactive": True,
    "ulimit": [{"nofile": "2048:4096", "nproc": 100, "core": "-1"}],
    "sysctl": {"net.core.somaxconn": 1024},
    "shm_size": 67_108_864,
    "pids_limit": 100,
    "memory_hard_limit": "512",
    "cpu_hard_limit": True,
    "cpu_cfs_period": 50_000,
    "cpuset_cpus": "0-1,3",
    "oom_score_adj": 100,
    "pid_mode": "host",
    "ipc_mode": "shareable",
    "uts_mode": "host",
    "userns_mode": "host",
    "cgroupns": "private",
    "runtime": "runc",
    "isolation": "default",
    "devices": [{"host_path": "/dev/kvm", "container_path": "/dev/kvm", "cgroup_permissions": "rw"}],
    "storage_opt": {"size": "10G"},
    "healthchecks": [{"disable": True}],
    "force_pull": "${meta.pull}",
    "image_pull_timeout": "10m",
    "auth": [{"username": "u", "password": "p", "server_address": "r.example"}],
    "auth_soft_fail": True,
    "logging": [{"type": "journald", "config": [{"tag": "web"}]}],
    "load": "image.tar",
    "container_exists_attempts": 5,
}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"imge": "b"}, "config key 'imge' is not supported"),
    ({"args": "x"}, "config key 'args' is 'x', expected a list of strings"),
    ({"hostname": 5}, "config key 'hostname' is 5, expected a string"),
    ({"ipv4_address": "10.1"}, "'ipv4_address' is '10.1', expected an IPv4 address"),
    ({"mac_address": "02"}, "config key 'mac_address' is '02'"),
    ({"port_map": {"http": 0}}, "expected a map from port labels"),
    ({"volumes": ["x"]}, "'volumes' holds 'x': expected \"source:destination[:ro]\""),
    ({"volumes": ["/x:y"]}, "expected an absolute path inside the container"),
    ({"volumes": ["/x:/y:rx"]}, "'rx' is no option"),
    ({"volumes": ["/x:/y"], "volume_driver": "nfs"}, "works with named volumes"),
    ({"mount": [{"target": "/x"}, {"type": "nfs", "target": "/x"}]}, "'mount[1].type' is 'nfs', expected"),
    ({"mount": [{"type": "bind"}]}, "config key 'mount[0]' has no target"),
    ({"mount": [{"target": "/x", "readnly": True}]}, "'mount[0].readnly' is not supported; known: bind_op"),
    ({"mounts": [{"target": "/x", "tmpfs_options": [{"size": "big"}]}]}, "mounts[0].tmpfs_options[0].size"),
    ({"dns_servers": ["ns.example"]}, "expected a list of addresses"),
    ({"extra_hosts": ["db=10.0.0.3"]}, "expected a list of hosts such as"),
    ({"cap_add": ["net admin?"]}, "expected a list of capabilities"),
    ({"ulimit": {"nofile": "many"}}, "expected limits such as"),
    ({"ulimit": {"nofile": "4096:1024"}}, "the soft limit is above the hard one"),
    ({"shm_size": "64m"}, "expected a whole number from 0 on (bytes)"),
    ({"cpu_cfs_period": 1}, "expected a whole number 1000 to 1000000 (microseconds)"),
    ({"cpuset_cpus": "0,a"}, "expected cores such as"),
    ({"oom_score_adj": -5}, "expected a whole number 0 to 1000"),
    ({"pid_mode": "hots"}, 'expected "host" or "container:NAME"'),
    ({"isolation": "hyperv"}, 'expected "default"'),
    ({"devices": [{"container_path": "/dev/x"}]}, "'devices[0]' has no host_path"),
    ({"devices": [{"host_path": "/dev/x", "cgroup_permissions": "rr"}]}, "devices[0].cgroup_permissions"),
    ({"healthchecks": {"disabled": True}}, "'healthchecks.disabled' is not supported; known: disable"),
    ({"image_pull_timeout": "soon"}, "expected a duration"),
    ({"auth": {"user": "x"}}, "'auth.user' is not supported"),
    ({"auth": {"variable": "nomad/jobs/web", "username": "x"}}, "names a variable and a username"),
    ({"privileged": "yes"}, "expected true or false"),
    ({"ipv4_address": "10.0.0.1", "network_mode": "bridge"}, "needs a network of the engine's own"),
    ({"mac_address": "02:42:ac:11:00:02", "network_mode": "host"}, "means nothing in the host's network"),
    ({"privileged": True, "cap_drop": ["ALL"]}, "which has all capabilities"),
    ({"advertise_ipv6_address": True}, "announced under their node's address"),
]


def test_every_key_has_a_right_value_here_and_the_job_language_knows_it() -> None:
    assert sorted(RIGHT) == sorted(KEYS)
    assert sorted(DOCKER_KEYS) == sorted([*KEYS, *REFUSED])


def test_right_values_are_taken() -> None:
    assert validate({key: value for key, value in RIGHT.items() if key != "uts_mode"}) == []
    for key, value in RIGHT.items():
        network = (
            {"network_mode": "backend"} if key in {"ipv4_address", "ipv6_address", "network_aliases"} else {}
        )
        assert validate({"image": "a", **network, key: value}) == []
        assert validate({"image": "a", "args": ["x"], **network, key: "${meta.later}"}) == []


@pytest.mark.parametrize(("config", "says"), WRONG)
def test_a_wrong_value_is_told_with_what_was_expected(config: dict[str, Any], says: str) -> None:
    [told] = validate({"image": "a", **config})
    assert says in told


def test_an_image_is_needed() -> None:
    assert validate({}) == ['docker: config needs an image, such as image = "nginx:1.27"']


def test_durations_are_read_in_gos_form() -> None:
    assert (seconds("1m30s"), seconds("500ms"), seconds("soon"), seconds("5")) == (90.0, 0.5, None, None)


def places_of(config: str) -> list[tuple[int, int, str]]:
    text = 'job "a" {\n  group "g" {\n    task "t" {\n      driver = "docker"\n      config {\n        image = "a"\n'
    checks = Checks(driver=lambda _, config: validate(config), constraint=lambda item: None)
    with pytest.raises(InvalidJobFile) as caught:
        parse_job(text + config + "\n      }\n    }\n  }\n}\n", filename="a.hcl", checks=checks)
    return [(problem.line, problem.column, problem.message) for problem in caught.value.details]


def test_each_problem_stands_at_its_line_and_column() -> None:
    mounts = '        mount {\n          target = "/a"\n        }\n        mount {\n          target = "/b"\n          type   = "nfs"\n        }'
    [(line, column, message)] = places_of(mounts)
    assert (line, column) == (12, 20)
    assert "mount[1].type" in message
    [(line, column, _)] = places_of('        network_mode = "x"\n        ipv4_address = "10.0"')
    assert (line, column) == (8, 24)
    [(line, column, _)] = places_of("        devices {\n        }")
    assert (line, column) == (7, 9)


@pytest.mark.parametrize(
    ("config", "rights", "says"),
    [
        ({"privileged": True}, {}, "docker_privileged = true"),
        ({"pid_mode": "host"}, {}, "docker_privileged = true"),
        ({"ipc_mode": "container:x"}, {}, "docker_privileged = true"),
        ({"security_opt": ["seccomp=unconfined"]}, {}, "docker_privileged = true"),
        ({"security_opt": ["apparmor:unconfined"]}, {}, "docker_privileged = true"),
        ({"security_opt": ["label=disable"]}, {}, "docker_privileged = true"),
        ({"cap_add": ["SYS_ADMIN"]}, {}, '"sys_admin"]'),
        ({"cap_add": ["all"]}, {}, "docker_allow_caps"),
        ({"runtime": "kata"}, {}, 'docker_allow_runtimes = ["runc", "nvidia", "kata"]'),
        ({"volumes": ["/etc:/x"]}, {"is_host": False}, "docker_volumes = true"),
        (
            {"mount": [{"type": "bind", "source": "/etc", "target": "/x"}]},
            {"is_host": False},
            "docker_volumes",
        ),
        (
            {"mount": [{"target": "/x", "volume_options": [{"driver_config": [{"name": "local"}]}]}]},
            {"is_host": False},
            "docker_volumes",
        ),
        ({"volume_driver": "nfs"}, {"is_host": False}, "docker_volumes"),
        ({"devices": [{"host_path": "/dev/kmsg"}]}, {"is_host": False}, "docker_volumes"),
    ],
)
def test_what_a_node_does_not_allow_is_refused_for_good(
    config: dict[str, Any], rights: dict[str, Any], says: str
) -> None:
    with pytest.raises(DriverError, match="not allowed on this node") as caught:
        check_rights(config, Rights(**rights))
    assert caught.value.temporary is False
    assert says in str(caught.value)
    check_rights(config, Rights(is_privileged=True, runtimes=("kata",)))


def test_what_the_switches_allow_is_allowed() -> None:
    switches = DriverSwitches(docker_allow_caps=("CAP_NET_ADMIN", "chown"), docker_volumes=False)
    rights = rights_of(switches)
    check_rights({"cap_add": ["net_admin", "CHOWN"], "volumes": ["local/a:/a", "named:/b"]}, rights)
    with pytest.raises(DriverError, match="net_raw"):
        check_rights({"cap_add": ["net_raw"]}, rights)
    check_rights({"cap_add": ["sys_admin"]}, Rights(capabilities=("all",)))
