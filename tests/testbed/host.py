"""One host: Linux namespaces with their own first process, address, /run, /etc, /var/lib and Docker Engine.

The first process waits on a pipe from the test process, so a killed test run takes its hosts along.
Source: namespaces(7), pid_namespaces(7); tini as the first process because a dockerd there leaves zombies.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.testbed import control_groups
from tests.testbed.engine import Engine
from tests.testbed.namespace import NetworkNamespace
from tests.testbed.network import Network

REPOSITORY = Path(__file__).resolve().parents[2]
#: A boot takes about a second on two busy cores.
BOOT_SECONDS_MAX = 60.0
RUN_SECONDS_MAX = 60.0

# /proc still shows the outer namespace in the first line: that is how the host's first process learns the
# number by which the test process knows it. A fresh sysfs hides the control groups, so they are carried over.
# /etc/docker is not only laid over: an engine of this machine keeps its identity and its settings there.
INIT = """
set -e
read -r outer rest </proc/self/stat
mount --make-rprivate /
mount -t proc proc /proc
hostname "$HOST_NAME"
cd "$HOST_ROOT"
mkdir -p etc etc.work etc.docker lib lib.work carry
mount --rbind /sys/fs/cgroup carry
mount -t sysfs sysfs /sys
mount --rbind carry /sys/fs/cgroup
umount -l carry
mount -t overlay -o lowerdir=/etc,upperdir=etc,workdir=etc.work host-etc /etc
mkdir -p /etc/docker
mount --bind etc.docker /etc/docker
mount -t overlay -o lowerdir=/var/lib,upperdir=lib,workdir=lib.work host-lib /var/lib
mkdir -p /var/lib/swarmlet
mount --bind swarmlet /var/lib/swarmlet
mount -t tmpfs tmpfs /run
mkdir /run/lock
echo "$outer" >first.new
mv first.new first
cd /
exec tini -- cat >/dev/null
"""


class HostOff(RuntimeError):
    """The call needs a running host, and this one is off."""


def wait_for(condition: Callable[[], object], what: str, seconds: float, interval: float = 0.01) -> None:
    """Wait until the condition holds; raises TimeoutError naming what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds} s still waiting for {what}")
        time.sleep(interval)


class Process:
    """A long-running process inside a host; its output goes to `output`."""

    def __init__(self, outside: subprocess.Popen[bytes], output: Path) -> None:
        self._outside = outside
        self.output = output

    @property
    def pid(self) -> int:
        """The process's number as seen from outside; raises ProcessLookupError once it has ended."""

        def child() -> int | None:
            if self._outside.poll() is not None:
                raise ProcessLookupError(
                    f"the process of {self.output} has ended with {self._outside.returncode}"
                )
            listed = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children")
            numbers = listed.read_text().split()
            return int(numbers[0]) if numbers else None

        deadline = time.monotonic() + RUN_SECONDS_MAX
        while (number := child()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the process of {self.output} did not start")
            time.sleep(0.002)
        return number

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._outside.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended is left in peace."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def pause(self) -> None:
        """SIGSTOP."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT; also to nsenter, which stops itself along with what it started."""
        self.send(signal.SIGCONT)
        self._outside.send_signal(signal.SIGCONT)

    def wait(self, seconds: float = RUN_SECONDS_MAX) -> int:
        """Wait for its end; returns the exit status."""
        self._outside.send_signal(signal.SIGCONT)
        return self._outside.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()


class Host:
    """One host of a testbed. What is under `root` (the engine's data, /etc, `data`) outlives a power-off."""

    def __init__(self, name: str, number: int, root: Path, network: Network) -> None:
        self.name = name
        self.number = number
        self.root = root
        self.network = network
        self.address = network.address(number)
        #: For the agent under test, which sees it as /var/lib/swarmlet too; survives power-off.
        self.data = root / "swarmlet"
        self.engine = Engine(root / "docker.sock")
        #: Swarm mode refuses an engine that keeps containers over its own restart.
        self.live_restore = True
        self.group = f"{network.name}-{name}"
        self._namespace: NetworkNamespace | None = None
        self._boot: subprocess.Popen[bytes] | None = None
        self._engine_process: Process | None = None
        self._processes: list[Process] = []
        self._count = 0
        self.data.mkdir(parents=True, exist_ok=True)

    # --- power -----------------------------------------------------------------------------------------

    def begin_start(self) -> None:
        """First half of `start`: gets everything going and waits for nothing."""
        assert self._boot is None, f"{self.name} is already on"
        self._replace_network()
        assert self._namespace is not None
        first = self.root / "first"
        first.unlink(missing_ok=True)
        control_groups.create(self.group)
        with (self.root / "boot.log").open("ab") as log:
            self._boot = subprocess.Popen(
                [*self._grouped(), "nsenter", f"--net={self._namespace.path}", "--",
                 "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "sh", "-c", INIT],
                stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(self._namespace.fd,),
                env={**os.environ, "HOST_NAME": self.name, "HOST_ROOT": str(self.root)},
                start_new_session=True,
            )  # fmt: skip
        wait_for(
            lambda: first.exists() or self._boot_failed(),
            f"the first process of {self.name}",
            BOOT_SECONDS_MAX,
            0.002,
        )
        self.begin_engine()

    def finish_start(self) -> None:
        """Second half: returns when the engine serves."""
        wait_for(
            lambda: self.engine.answers() or self._engine_failed(),
            f"the engine of {self.name}",
            BOOT_SECONDS_MAX,
        )

    def start(self) -> None:
        """Boot, and wait until the engine serves."""
        self.begin_start()
        self.finish_start()

    power_on = start

    def power_off(self) -> float:
        """Silence: the link goes down first, then everything dies. Returns the instant before (monotonic seconds)."""
        instant = time.monotonic()
        self.network.link_down(self.number)
        self.kill_processes()
        return instant

    def kill_processes(self) -> None:
        """Kill everything that runs here and leave the link up: the kernel still answers for the address."""
        if self._boot is None:
            return
        with contextlib.suppress(ProcessLookupError, HostOff):
            os.kill(self.first_pid, signal.SIGKILL)
        assert self._boot.stdin is not None
        self._boot.stdin.close()
        self._boot.wait(RUN_SECONDS_MAX)
        for process in [*self._processes, *([self._engine_process] if self._engine_process else [])]:
            process.wait()
        self._boot, self._engine_process, self._processes = None, None, []

    def destroy(self) -> None:
        """Power off and let go of the network and the control groups; the data is the testbed's to remove."""
        if self._namespace is None:
            return
        self.power_off()
        self.network.detach(self.number)
        self._namespace.close()
        self._namespace = None
        control_groups.remove(self.group)

    @property
    def is_on(self) -> bool:
        """Whether its first process runs."""
        return self._boot is not None and self._boot.poll() is None

    @property
    def first_pid(self) -> int:
        """The host's first process, as numbered outside; raises HostOff."""
        if not self.is_on:
            raise HostOff(f"{self.name} is off")
        return int((self.root / "first").read_text())

    def _replace_network(self) -> None:
        # A cold boot must not inherit routes, rules or tunnels: they belong to the old namespace.
        if self._namespace is not None:
            self.network.detach(self.number)
            self._namespace.close()
        self._namespace = NetworkNamespace()
        self.network.attach(self.number, self._namespace)

    def _boot_failed(self) -> bool:
        if self.is_on:
            return False
        raise HostOff(f"{self.name} did not boot: {(self.root / 'boot.log').read_text()[-2000:]}")

    # --- the engine ------------------------------------------------------------------------------------

    def begin_engine(self) -> None:
        """Start the Docker Engine without waiting for it."""
        self.run("rm", "-f", "/run/docker.pid")
        options = ["--live-restore"] if self.live_restore else []
        self._engine_process = self._spawn(
            ["dockerd", "--data-root", str(self.root / "docker"), "--pidfile", "/run/docker.pid",
             "--host", f"unix://{self.engine.socket_path}", "--host", "unix:///run/docker.sock",
             "--cgroup-parent", f"/{self.group}", "--storage-driver", "overlay2", *options],
            self.root / "engine.log", {},
        )  # fmt: skip

    def kill_engine(self) -> None:
        """SIGKILL to the engine; with live restore its containers live on."""
        assert self._engine_process is not None
        self._engine_process.kill()
        self._engine_process = None

    def restart_engine(self) -> None:
        """Stop the engine in order and start it, with the options that hold now."""
        self.stop_engine()
        self.begin_engine()
        self.finish_start()

    def stop_engine(self) -> None:
        """SIGTERM to the engine, and wait for its end."""
        assert self._engine_process is not None
        self._engine_process.send(signal.SIGTERM)
        self._engine_process.wait()
        self._engine_process = None

    def _engine_failed(self) -> bool:
        if self._engine_process is not None and self._engine_process.is_running():
            return False
        raise HostOff(f"the engine of {self.name} ended: {(self.root / 'engine.log').read_text()[-2000:]}")

    # --- programs inside -------------------------------------------------------------------------------

    def run(
        self, *command: str, seconds: float = RUN_SECONDS_MAX, check: bool = False, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end."""
        return subprocess.run(
            [*self._inside(), *command],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=check,
            input=stdin,
        )

    def python(
        self, code: str, *arguments: str, seconds: float = RUN_SECONDS_MAX
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code inside, with this interpreter."""
        return self.run(sys.executable, "-c", code, *arguments, seconds=seconds)

    def spawn(
        self, *command: str, output: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a long-running command inside; its output is appended to a file under `root` if none is named."""
        self._count += 1
        path = output or self.root / f"output-{self._count}.log"
        process = self._spawn(command, path, environment or {})
        self._processes.append(process)
        return process

    def kill_agent(self, pid: int) -> None:
        """SIGKILL to a process by its number seen from outside."""
        os.kill(pid, signal.SIGKILL)

    def _spawn(self, command: Sequence[str], output: Path, environment: Mapping[str, str]) -> Process:
        with output.open("ab") as log:
            outside = subprocess.Popen(
                [*self._inside(), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **environment}, start_new_session=True,
            )  # fmt: skip
        return Process(outside, output)

    def _inside(self) -> list[str]:
        enter = ["nsenter", "-t", str(self.first_pid), "-n", "-m", "-p", "-u", "-i", "--"]
        return [*self._grouped(), *enter, "env", "-C", str(REPOSITORY)]

    def _grouped(self) -> list[str]:
        """A prefix that puts the command into the host's control groups."""
        writes = "; ".join(
            f"echo 0 >{shlex.quote(path)}" for path in control_groups.process_files(self.group)
        )
        return ["sh", "-ec", f'{writes}; exec "$@"', "sh"]
