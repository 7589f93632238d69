"""A cluster of three nodes on this machine: a job runs, a task dies, an agent dies, a node loses its power and returns.

Works as root or not, with a Docker Engine or without. What is counted at each step are the processes or containers
that really run here, not what the cluster says about them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.demo_engine import Engine, Image, NoEngine
from scripts.demo_node import DemoNode, Task, free_mesh_port
from swarmlet.api.client import Client
from swarmlet.errors import SwarmletError

ROOT = Path(__file__).resolve().parent.parent
REPLICAS = 6
POLL_SECONDS = 0.05
#: Everything takes a second or three; a machine that is busy with something else takes longer.
PATIENCE_SECONDS = 60.0
#: How long the node stays without power. Its replacements prove themselves meanwhile (the jobs' `min_healthy_time`
#: is shorter); a node that returns sooner may get its own tasks back, and what replaced them is stopped.
OFF_SECONDS = 10.0
#: Duplicates would show within this time after a node's return.
WATCH_SECONDS = 5.0


class DemoFailed(Exception):
    """Something did not happen; the message is for the person who watches."""


class Demo:
    """One run. Everything it makes is below `folder`, apart from containers, which carry the cluster's label."""

    def __init__(self, folder: Path, *, plain: bool = False) -> None:
        """`folder` exists and is empty. `plain`: processes even where containers are possible."""
        self.folder = folder
        self.plain = plain
        self.started = time.monotonic()
        self.nodes: list[DemoNode] = []
        self.engine: Engine | None = None
        self.image: Image | None = None
        self.cluster = ""

    # What is shown.

    def say(self, text: str) -> None:
        """One line with the seconds since the start."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", flush=True)

    def detail(self, text: str) -> None:
        """One line that belongs to the last."""
        print(f"           {text}", flush=True)

    def swarmlet(self, *arguments: str, node: DemoNode | None = None, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command as a person would, and show it with what it says. Raises DemoFailed on other exit codes."""
        where = f"  (asked at {node.name})" if node else ""
        self.say(f"$ swarmlet {' '.join(arguments)}{where}")
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SWARMLET_DATA_DIR": str((node or self.nodes[0]).data),
        }
        for name in ("SWARMLET_ADDR", "NOMAD_ADDR", "SWARMLET_NAMESPACE", "NOMAD_NAMESPACE"):
            environment.pop(name, None)
        process = subprocess.Popen(
            [sys.executable, "-m", "swarmlet", *arguments],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        lines = []
        try:
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                self.detail(lines[-1])
            process.wait()
        finally:
            # Interrupted here, it must not start an agent after everything has been removed.
            process.kill()
            process.wait()
        if process.returncode not in codes:
            raise DemoFailed(f"'swarmlet {arguments[0]}' ended with exit code {process.returncode}")
        return "\n".join(lines)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> float:
        """Wait until the condition holds; how long that took. Raises DemoFailed naming `what`."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                raise DemoFailed(f"after {seconds:.0f} s still waiting for {what}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - began

    # What runs.

    def running(self) -> list[Task]:
        """The tasks that run on this machine now."""
        if self.engine is not None:
            names = {node.node_id: node.name for node in self.nodes}
            return list(self.engine.tasks(self.cluster, names))
        return [task for node in self.nodes for task in node.processes()]

    def show_places(self) -> None:
        """How many tasks run on which node."""
        tasks = self.running()
        counts = ", ".join(
            f"{node.name}: {sum(task.node == node.name for task in tasks)}" for node in self.nodes
        )
        kind = "containers" if self.engine is not None else "processes"
        self.say(f"{len(tasks)} {kind} run here ({counts})")

    def runs_all_on(self, nodes: list[DemoNode]) -> bool:
        """Whether all replicas run, on these nodes only."""
        tasks = self.running()
        return len(tasks) == REPLICAS and {task.node for task in tasks} <= {node.name for node in nodes}

    def statuses(self, node: DemoNode) -> dict[str, str]:
        """Node names with their status, by the word of one node; empty while it does not answer."""
        try:
            listed = Client(address=node.socket).get("/v1/nodes", timeout=5.0)
        except SwarmletError:
            return {}
        return {item["Name"]: item["Status"] for item in listed}

    def leader(self) -> DemoNode | None:
        """The leader, by the word of the first node that knows."""
        for node in self.nodes:
            with contextlib.suppress(SwarmletError):
                host = str(Client(address=node.socket).get("/v1/status/leader", timeout=5.0)).rpartition(":")[
                    0
                ]
                for candidate in self.nodes:
                    if candidate.address == host:
                        return candidate
        return None

    # The story.

    def play(self) -> None:
        """All of it, in order. Raises DemoFailed."""
        self.choose_driver()
        self.form()
        self.run_job()
        self.kill_task()
        self.kill_agent()
        off = self.power_off()
        self.bring_back(off)

    def choose_driver(self) -> None:
        """Containers where that is possible, else plain processes."""
        try:
            if self.plain:
                raise NoEngine("--raw-exec asks for them")
            self.engine = Engine.find(self.folder, self.say)
            self.image = self.engine.prepare_image()
            self.say(
                f"tasks are containers of the Docker Engine at {self.engine.socket}; image: {self.image.origin}"
            )
        except NoEngine as reason:
            if self.engine is not None:
                self.engine.close()
                self.engine = None
            self.say(f"tasks are plain processes (driver raw_exec), because {reason}")
        self.remember()

    def remember(self) -> None:
        """What `--clean` has to know."""
        found = {
            "cluster": self.cluster,
            "engine": str(self.engine.socket) if self.engine else "",
            "image": self.image.name if self.image and self.image.is_ours else "",
        }
        (self.folder / "demo.json").write_text(json.dumps(found))

    def form(self) -> None:
        """Three nodes, one command each."""
        port = free_mesh_port()
        for number in (1, 2, 3):
            node = DemoNode(self.folder, number, port)
            node.write_config(str(self.engine.socket) if self.engine else "")
            self.nodes.append(node)
        first, *others = self.nodes
        began = time.monotonic()
        self.swarmlet("init", "--config", str(first.config), "--detach")
        self.cluster = str(first.agent()["ClusterID"])
        self.remember()
        token = (first.data / "join.token").read_text().strip()
        for node in others:
            self.swarmlet("join", token, "--config", str(node.config), "--detach")
        self.wait("three nodes that are ready", lambda: list(self.statuses(first).values()) == ["ready"] * 3)
        self.wait("three voters", self.is_fault_tolerant)
        for item in Client(address=first.socket).get("/v1/nodes"):
            next(node for node in self.nodes if node.name == item["Name"]).node_id = item["ID"]
        self.say(f"three nodes ready after {time.monotonic() - began:.1f} s")
        self.swarmlet("status", node=first)

    def is_fault_tolerant(self) -> bool:
        """Whether the cluster survives the loss of a node now."""
        try:
            return bool(
                Client(address=self.nodes[0].socket).get("/v1/swarmlet/status", timeout=5.0)["FaultTolerant"]
            )
        except SwarmletError:
            return False

    def run_job(self) -> None:
        """The example, six times."""
        arguments = ["job", "run", "-var", f"count={REPLICAS}"]
        if self.image is not None:
            arguments += ["-var", f"image={self.image.name}", "examples/web.hcl"]
        else:
            arguments += ["examples/hello.hcl"]
        self.swarmlet(*arguments)
        self.wait(f"{REPLICAS} running tasks", lambda: self.runs_all_on(self.nodes))
        self.show_places()

    def kill_task(self) -> None:
        """One task dies; its node starts it again."""
        victim = self.running()[0]
        before = {task.identity for task in self.running()}
        self.say(f"kill -9 of one task: {victim.what} on {victim.node}")
        self.end_task(victim)

        def is_back() -> bool:
            again = [task for task in self.running() if task.allocation == victim.allocation]
            return [
                task for task in again if task.identity != victim.identity and task.node == victim.node
            ] != []

        took = self.wait("the killed task to run again", is_back)
        others = before - {victim.identity}
        if not others <= {task.identity for task in self.running()}:
            raise DemoFailed("another task than the killed one was restarted")
        self.say(f"it runs again on the same node after {took:.1f} s; nothing else was touched")

    def end_task(self, task: Task) -> None:
        """SIGKILL."""
        if self.engine is not None:
            self.engine.kill(task.identity)
        else:
            os.kill(task.pid, signal.SIGKILL)

    def kill_agent(self) -> None:
        """An agent dies and comes back: its tasks run on."""
        node = self.nodes[1]
        before = sorted(task.identity for task in self.running())
        self.say(f"kill -9 of the agent of {node.name}: its tasks outlive it")
        node.kill_agent()
        self.swarmlet("agent", "--data-dir", str(node.data), "--detach")
        self.wait(f"{node.name} to be ready again", lambda: self.statuses(node).get(node.name) == "ready")
        time.sleep(1.0)
        if sorted(task.identity for task in self.running()) != before:
            raise DemoFailed("tasks were restarted or moved although only an agent had died")
        self.say("the same tasks run as before: none was restarted, none was moved")

    def power_off(self) -> DemoNode:
        """The leader's node goes dark; its work moves."""
        off = self.leader()
        if off is None:
            raise DemoFailed("no node knows a leader")
        left = [node for node in self.nodes if node is not off]
        lost = [task for task in self.running() if task.node == off.name]
        self.say(
            f"power-off of {off.name}, the leader, with {len(lost)} tasks: agent and tasks are killed, and from now"
        )
        self.detail(
            "on its address answers nothing, as that of a machine without power (not even 'connection refused')"
        )
        began = time.monotonic()
        off.power_off()
        for task in lost:
            self.end_lost(task)
        self.wait("a new leader", lambda: self.leads_elsewhere(left))
        self.say(f"{(self.leader() or left[0]).name} leads after {time.monotonic() - began:.1f} s")
        self.wait(f"{off.name} to be declared down", lambda: self.statuses(left[0]).get(off.name) == "down")
        self.say(f"{off.name} is declared down after {time.monotonic() - began:.1f} s")
        self.wait(f"{REPLICAS} tasks on the other two nodes", lambda: self.runs_all_on(left))
        self.say(
            f"all {REPLICAS} tasks run on {left[0].name} and {left[1].name} after {time.monotonic() - began:.1f} s"
        )
        self.show_places()
        self.swarmlet("status", node=left[0], codes=(0, 1))
        self.say(
            f"{off.name} stays off until {OFF_SECONDS:.0f} s have passed; the replacements prove themselves meanwhile"
        )
        time.sleep(max(0.0, began + OFF_SECONDS - time.monotonic()))
        return off

    def end_lost(self, task: Task) -> None:
        """Containers of a node without power; plain processes were killed with it."""
        if self.engine is not None:
            self.engine.kill(task.identity)

    def leads_elsewhere(self, left: list[DemoNode]) -> bool:
        """Whether one of these leads."""
        leader = self.leader()
        return leader is not None and leader in left

    def bring_back(self, off: DemoNode) -> None:
        """The node's power returns; nothing runs twice."""
        left = [node for node in self.nodes if node is not off]
        self.say(f"power returns to {off.name}; its agent starts, as it would at boot")
        began = time.monotonic()
        off.power_on()
        self.swarmlet("agent", "--data-dir", str(off.data), "--detach", node=off)
        self.wait(f"{off.name} to be ready", lambda: self.statuses(left[0]).get(off.name) == "ready")
        self.say(
            f"{off.name} is ready after {time.monotonic() - began:.1f} s; watching for duplicates for {WATCH_SECONDS:.0f} s"
        )
        most = 0
        until = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < until:
            most = max(most, len(self.running()))
            time.sleep(POLL_SECONDS)
        tasks = self.running()
        if most > REPLICAS or len(tasks) != REPLICAS or len({task.allocation for task in tasks}) != REPLICAS:
            raise DemoFailed(
                f"{most} tasks ran at the same time and {len(tasks)} run now; expected {REPLICAS}"
            )
        self.say(f"never more than {most} tasks ran: no duplicates")
        self.show_places()
        self.swarmlet("status", node=off)


def clean(folder: Path) -> None:
    """End everything that a demo in `folder` started, and remove it."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / "demo.json").read_text())
    for number in (1, 2, 3):
        if (folder / f"n{number}").is_dir():
            node = DemoNode(folder, number, 0)
            node.kill_agent()
            node.kill_processes()
    if found.get("engine"):
        Engine(Path(found["engine"]), folder).clean(found["cluster"], found["image"])
    Engine.stop_own(folder)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends the demo like Ctrl-C: it cleans up."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(*, keep: bool, plain: bool) -> int:
    """One demo; the exit code."""
    demo = Demo(Path(tempfile.mkdtemp(prefix="swarmlet-demo-")), plain=plain)
    try:
        with interruptible():
            demo.play()
    except (DemoFailed, SwarmletError, OSError) as error:
        logs = demo.folder.with_name(demo.folder.name + "-logs")
        for node in demo.nodes:
            with contextlib.suppress(OSError):
                logs.mkdir(exist_ok=True)
                shutil.copy(node.data / "agent.log", logs / f"{node.name}.log")
        clean(demo.folder)
        print(f"the demo failed: {error}; the agents' logs are in {logs}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        clean(demo.folder)
        print("interrupted; everything is removed", file=sys.stderr)
        return 130
    except BaseException:
        clean(demo.folder)
        raise
    took = time.monotonic() - demo.started
    if keep:
        demo.say("the cluster runs on. Try:")
        demo.detail(f"export SWARMLET_DATA_DIR={demo.nodes[0].data} PATH={Path(sys.executable).parent}:$PATH")
        demo.detail("swarmlet status")
        demo.detail(f"end it:  scripts/demo --clean {demo.folder}")
        return 0
    clean(demo.folder)
    demo.say(f"done; nothing is left on this machine ({took:.0f} s)")
    return 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    parser.add_argument("--raw-exec", action="store_true", help="plain processes, even where there is Docker")
    parser.add_argument("--clean", metavar="DIR", help="end and remove a cluster that --keep left")
    options = parser.parse_args()
    if options.clean:
        folder = Path(options.clean)
        if not (folder / "demo.json").is_file():
            print(f"{folder} is no folder of a demo", file=sys.stderr)
            return 1
        clean(folder)
        print(f"{folder} is removed")
        return 0
    return run(keep=options.keep, plain=options.raw_exec)


if __name__ == "__main__":
    sys.exit(main())
