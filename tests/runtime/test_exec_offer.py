"""Where the `exec` driver works, for whom, and which configuration it takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import DriverError
from swarmlet.model.resources import Network
from swarmlet.runtime.allocation_runner import directories_of
from swarmlet.runtime.drivers import capability
from swarmlet.runtime.drivers.driver import LogStream
from swarmlet.runtime.drivers.exec import Exec, validate
from swarmlet.runtime.secrets_directory import MemorySecrets
from tests.runtime.process_task import ignore, output, pids
from tests.runtime.test_exec import ALLOCATION, WAIT_SECONDS, left_behind, spec, wait_until

ROOT = Path(__file__).parents[2]
NOBODY = 65_534
#: A number that no user of the machine has: supervisors give agents one without an entry in the list of users.
NAMELESS = 64_321


# Where it works --------------------------------------------------------------------------------------------


async def test_the_driver_can_be_switched_off(tmp_path: Path) -> None:
    off = Exec(tmp_path, is_offered=False)
    assert "exec = false" in (await off.fingerprint()).reason
    with pytest.raises(DriverError, match="exec = false"):
        await off.start(spec(tmp_path, "true"), ignore)


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A directory of another user's, which that user can reach: the tests' own are root's alone."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    with tempfile.TemporaryDirectory(prefix="swarmlet-test-", ignore_cleanup_errors=True) as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def unprivileged(*command: str, user: int = NOBODY) -> list[str]:
    """Run Python with `command` as another user; skips where that is not possible."""
    drop = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]
    packages = ":".join(path for path in sys.path if path.endswith("site-packages"))
    environment = ["env", f"PYTHONPATH={ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE=1"]
    for python in (sys.executable, "/usr/bin/python3"):
        # What the interpreter itself starts is started by its path as well.
        probe = "import subprocess, sys, swarmlet.runtime.agent; subprocess.run([sys.executable, '-c', ''], check=True)"
        tried = subprocess.run(
            [*drop, *environment, python, "-c", probe], cwd="/", capture_output=True, check=False
        )
        if tried.returncode == 0:
            return [*drop, *environment, python, *command]
    pytest.skip("no interpreter here can be run by another user")


@pytest.mark.slow
@pytest.mark.parametrize("user", [NOBODY, NAMELESS])
def test_an_ordinary_users_agent_isolates_with_a_user_namespace(nobodys: Path, user: int) -> None:
    os.chown(nobodys, user, user)
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.runtime.test_exec_offer import unprivileged_main\n"
        "asyncio.run(unprivileged_main(Path(sys.argv[1])))\n"
    )
    command = unprivileged("-c", program, str(nobodys), user=user)
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, check=False, timeout=2 * WAIT_SECONDS
    )
    if "skip:" in done.stdout:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["isolation"] == "user namespace"
    assert said["secret"] == "hunter2\n"
    assert said["output"].splitlines() == [str(user), "0000000000000000", "2", "no", "kept", "2", "1"]
    assert said["beside"] == [0, f"{user}\n"]
    assert said["left"] == []
    assert [line for line in Path("/proc/mounts").read_text().splitlines() if str(nobodys) in line] == []


async def unprivileged_main(directory: Path) -> None:
    """The agent of an ordinary user: a task with a secret in memory, and a command beside it."""
    driver = Exec(directory / "alloc")
    info = await driver.fingerprint()
    if not info.is_healthy:
        print(f"skip: {info.reason}")  # noqa: T201 (the test reads it)
        return
    root = directory / "alloc"
    secrets = MemorySecrets(directory.name)
    place = directories_of(root / ALLOCATION, "server")
    Path(place.secrets).parent.mkdir(parents=True)
    secrets.make(Path(place.secrets))
    (Path(place.secrets) / "password").write_text("hunter2\n")
    command = (
        "id -u; grep CapEff /proc/self/status | cut -f2; set -- /proc/[0-9]*; echo $#; "
        "ls /home > /dev/null 2>&1 || echo no; echo kept > /local/file; cat /local/file; "
        "grep Seccomp: /proc/self/status | cut -f2; grep -c : /proc/net/dev; "
        "cat /secrets/password > /alloc/data/secret; echo ready > /alloc/data/ready; exec sleep 60"
    )
    try:
        handle = await driver.start(spec(root, command, network=Network(mode="none")), ignore)
        await wait_until((root / ALLOCATION / "alloc" / "data" / "ready").exists)
        beside = await driver.execute(handle, ("id", "-u"), WAIT_SECONDS)
        namespace = os.readlink(f"/proc/{pids(handle)['holder']}/ns/pid")
        await driver.stop(handle, "SIGTERM", 5_000_000_000)
        said = {
            "isolation": info.attributes["isolation"],
            "secret": (root / ALLOCATION / "alloc" / "data" / "secret").read_text(),
            "output": (await output(driver, handle, LogStream.STDOUT)).decode(),
            "beside": [beside.exit_code, beside.output.decode()],
            "left": left_behind(directory, handle, namespace),
        }
    finally:
        secrets.release(root / ALLOCATION)
    print(json.dumps(said))  # noqa: T201 (the test reads it)


@pytest.mark.slow
def test_a_machine_without_user_namespaces_is_told_apart_with_its_switch(nobodys: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from swarmlet.runtime.drivers.exec import Exec\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        "print(asyncio.run(Exec(Path(sys.argv[1])).fingerprint()).reason)\n"
    )
    command = unprivileged("-c", program, str(nobodys / "alloc"))
    interpreter = next(number for number, word in enumerate(command) if word == "env")
    command[interpreter:interpreter] = ["unshare", "--user", "--map-current-user", "--keep-caps"]
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, check=False, timeout=2 * WAIT_SECONDS
    )
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert "a new user namespace: No space left on device" in done.stdout, done.stderr
    assert "user.max_user_namespaces is 0" in done.stdout


# Configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "config needs a command"),
        ({"command": "x", "image": "y"}, "config key 'image' is not supported; known: command, args"),
        ({"command": ["x"]}, "config key 'command' is ['x'], expected a str"),
        ({"command": "x", "pid_mode": "shared"}, 'pid_mode is \'shared\', expected "private" or "host"'),
        ({"command": "x", "cap_add": ["fly"]}, "cap_add names 'fly', which is no capability"),
        (
            {"command": "x", "security_opt": ["label=disable"]},
            "security_opt names 'label=disable', expected \"seccomp=unconfined\"",
        ),
        ({"command": "x", "work_dir": "local"}, "work_dir is 'local', expected a path from the task's root"),
    ],
)
def test_a_wrong_config_is_named(config: dict[str, Any], says: str) -> None:
    [problem] = validate(config)
    assert problem.startswith(f"exec: {says}")


def test_every_key_of_nomads_driver_is_known() -> None:
    config = {
        "command": "/bin/true",
        "args": ["-x"],
        "work_dir": "/local",
        "cap_add": ["NET_RAW", "cap_sys_time"],
        "cap_drop": ["all"],
        "pid_mode": "private",
        "ipc_mode": "host",
    }
    assert validate(config) == []


@pytest.mark.parametrize(
    ("add", "drop", "kept"),
    [
        ((), (), capability.DEFAULT),
        ((), ("ALL",), ()),
        (("CAP_NET_RAW",), ("all",), ("net_raw",)),
        (("all",), (), capability.NAMES),
        ((), ("chown", "CAP_KILL"), tuple(set(capability.DEFAULT) - {"chown", "kill"})),
    ],
)
def test_capabilities_are_reckoned_as_nomad_does(
    add: tuple[str, ...], drop: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    assert sorted(capability.kept(add, drop)) == sorted(kept)
