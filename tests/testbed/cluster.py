"""A swarmlet cluster on a testbed: one agent per host, driven through the command line and the Unix socket only."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.testbed import unix_http
from tests.testbed.host import Host, Process, wait_for
from tests.testbed.testbed import Testbed

SWARMLET = (sys.executable, "-m", "swarmlet")
#: From the first command to three nodes that are ready, on a busy machine.
FORM_SECONDS_MAX = 60.0
#: How often a test looks at a condition that it cannot wait for.
POLL_SECONDS = 0.05
#: What `init` prints for the other machines.
JOIN_LINE = re.compile(r"swl1-[^\s@]+@\S+")
#: The label that names a container's job.
JOB_LABEL = "swarmlet.job"
#: From three ready nodes to three that vote: learners must have been stable for a while first.
SETTLE_SECONDS_MAX = 30.0
#: The program itself gives up a write after ten seconds.
WRITE_SECONDS_MAX = 15.0
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}


class CommandRefused(RuntimeError):
    """A swarmlet command ended with an error; the message holds what it said."""


class Cluster:
    """The agents of a testbed. Each keeps its data in its host's `data`, where its API socket is too."""

    def __init__(self, testbed: Testbed, program: Sequence[str] = SWARMLET) -> None:
        self.testbed = testbed
        self._program = program
        self.token = ""
        self._agents: dict[str, Process] = {}

    # --- agents ----------------------------------------------------------------------------------------

    def start(self, options: Mapping[str, Sequence[str]] | None = None) -> None:
        """Make the cluster on the first host, join the others, and wait until every node is ready.

        `options`: further arguments of `init` and `join` by host name; the nodes remember them.
        """
        first, *others = self.testbed
        more = options or {}
        agent = self._launch(first, "init", "--advertise", first.address, *more.get(first.name, ()))
        self.token = self._read_join_token(first, agent)
        for host in others:
            self._launch(host, "join", self.token, "--advertise", host.address, *more.get(host.name, ()))
        self.wait_until(
            lambda: self._all_run() and len(self.ready_nodes(first)) == len(self.testbed),
            FORM_SECONDS_MAX,
            "every node to be ready",
        )

    def wait_fault_tolerant(self) -> None:
        """Wait until the cluster survives the loss of a node."""
        self.wait_until(
            lambda: self.status(self.testbed[1]).get("FaultTolerant"), SETTLE_SECONDS_MAX, "enough voters"
        )

    def start_agent(self, host: Host, *options: str) -> None:
        """Start the agent of a node that is already a member, after a kill or a power cycle."""
        self._launch(host, "agent", *options)

    def terminate_agent(self, host: Host) -> None:
        """SIGTERM to the agent, and wait for its end."""
        agent = self._agents.pop(host.name)
        agent.send(signal.SIGTERM)
        agent.wait()

    def join(self, host: Host, through: Host) -> None:
        """Join a host that is not a member (any more), with a new token of a member's."""
        made = self.cli(through, "token", "create", check=True).stdout
        found = JOIN_LINE.search(made)
        assert found is not None, f"no token in: {made}"
        self._launch(host, "join", found[0], "--advertise", host.address)

    def kill_agent(self, host: Host) -> None:
        """SIGKILL to the agent; the host and its containers run on."""
        agent = self._agents.pop(host.name)
        host.kill_agent(agent.pid)
        agent.wait()

    def pause_agent(self, host: Host) -> None:
        """SIGSTOP to the agent: its kernel goes on answering."""
        self._agents[host.name].pause()

    def resume_agent(self, host: Host) -> None:
        """Let it go on."""
        self._agents[host.name].resume()

    def kill_every_agent(self) -> None:
        """SIGKILL to all agents within a moment; hosts and containers run on."""
        agents = [(host, self._agents.pop(host.name)) for host in self.testbed]
        for host, agent in agents:
            host.kill_agent(agent.pid)
        for _, agent in agents:
            agent.wait()

    def forget_agents(self) -> None:
        """After a power cut: no agent runs any more."""
        self._agents = {}

    def agent_pid(self, host: Host) -> int:
        """The agent's process number seen from outside; raises ProcessLookupError if it does not run."""
        return self._agents[host.name].pid

    def agent_runs(self, host: Host) -> bool:
        """Whether the host's agent runs."""
        return host.name in self._agents and self._agents[host.name].is_running()

    def agent_log(self, host: Host) -> str:
        """Everything that the host's agents have printed."""
        path = host.root / "agent.log"
        return path.read_text() if path.exists() else ""

    def stop(self) -> None:
        """SIGKILL to every agent that still runs."""
        for agent in self._agents.values():
            if agent.is_running():
                agent.kill()
        self._agents = {}

    def _launch(self, host: Host, *arguments: str) -> Process:
        command, *rest = arguments
        # On a machine with systemd, init and join would install a unit there.
        rest += ["--foreground"] if command in {"init", "join"} else []
        agent = host.spawn(
            *self._program, command, *rest, "--data-dir", str(host.data),
            output=host.root / "agent.log", environment=UNBUFFERED,
        )  # fmt: skip
        self._agents[host.name] = agent
        return agent

    def _all_run(self) -> bool:
        for host in self.testbed:
            if not self._agents[host.name].is_running():
                raise CommandRefused(f"the agent on {host.name} ended: {self.agent_log(host)[-2000:]}")
        return True

    def _read_join_token(self, host: Host, agent: Process) -> str:
        def printed() -> bool:
            if not agent.is_running():
                raise CommandRefused(f"swarmlet init on {host.name} ended: {self.agent_log(host)[-2000:]}")
            return JOIN_LINE.search(self.agent_log(host)) is not None

        wait_for(printed, "the join line of swarmlet init", FORM_SECONDS_MAX)
        found = JOIN_LINE.search(self.agent_log(host))
        assert found is not None
        return found[0]

    # --- asking ----------------------------------------------------------------------------------------

    def cli(
        self, host: Host, *arguments: str, check: bool = False, seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a swarmlet command on a host, as its admin would; `check` raises CommandRefused on failure."""
        done = host.run(*self._program, *arguments, seconds=seconds)
        if check and done.returncode:
            raise CommandRefused(
                f"swarmlet {' '.join(arguments)} on {host.name}: exit {done.returncode}: {done.stderr}"
            )
        return done

    def json(self, host: Host, *arguments: str) -> Any:
        """Run a command with --json and return what it says; raises CommandRefused."""
        return json.loads(self.cli(host, *arguments, "--json", check=True).stdout)

    def api(
        self, host: Host, path: str, *, method: str = "GET", body: object = None, seconds: float = 5.0
    ) -> Any:
        """Ask a host's agent over its Unix socket; raises unix_http.NoAnswer or Refused."""
        return unix_http.request(host.data / "api.sock", method, path, body, seconds=seconds)

    def status(self, host: Host) -> dict[str, Any]:
        """The cluster in one look, by a host's word; empty while its agent does not answer."""
        try:
            status: dict[str, Any] = self.api(host, "/v1/swarmlet/status")
        except (unix_http.NoAnswer, unix_http.Refused):
            return {}
        return status

    def leader(self, asked: Sequence[Host] = ()) -> Host | None:
        """The host that leads, by the word of the first agent that answers and knows; None while none does.

        `asked`: ask these hosts only.
        """
        for host in asked or self.testbed:
            try:
                address = str(self.api(host, "/v1/status/leader"))
            except (unix_http.NoAnswer, unix_http.Refused):
                continue
            for candidate in self.testbed:
                if candidate.is_on and address.rpartition(":")[0] == candidate.address:
                    return candidate
        return None

    def wait_leader(self) -> Host:
        """The host that leads, as soon as an agent knows one."""
        found: list[Host] = []

        def known() -> bool:
            leader = self.leader()
            if leader is not None:
                found.append(leader)
            return bool(found)

        self.wait_until(known, SETTLE_SECONDS_MAX, "a leader")
        return found[0]

    def ready_nodes(self, host: Host) -> list[str]:
        """Names of the nodes that this host's agent lists as ready, sorted; empty while it does not answer."""
        try:
            nodes = self.api(host, "/v1/nodes")
        except (unix_http.NoAnswer, unix_http.Refused):
            return []
        return sorted(node["Name"] for node in nodes if node["Status"] == "ready")

    def containers(self, host: Host, job: str = "") -> list[dict[str, Any]]:
        """The swarmlet containers (of one job) that run on a host, by its engine's word."""
        return host.engine.containers(label=f"{JOB_LABEL}={job}" if job else JOB_LABEL)

    def container_ids(self, job: str = "") -> dict[str, list[str]]:
        """Ids of the running containers (of one job) by host name; nothing for a host that is off."""
        return {
            host.name: sorted(found["Id"] for found in self.containers(host, job))
            for host in self.testbed
            if host.is_on
        }

    def submit(self, host: Host, text: str) -> dict[str, Any]:
        """Submit a job file's text through a host's API; raises unix_http.NoAnswer or Refused."""
        job = self.api(host, "/v1/jobs/parse", method="PUT", body={"JobHCL": text})
        answered: dict[str, Any] = self.api(
            host, "/v1/jobs", method="PUT", body={"Job": job}, seconds=WRITE_SECONDS_MAX
        )
        return answered

    def allocations(self, host: Host, job: str, *, every: bool = False) -> list[dict[str, Any]]:
        """A job's allocations that are wanted (or every one), by index and age, as a host tells them."""
        found = self.api(host, f"/v1/job/{job}/allocations")
        wanted = [each for each in found if every or each["DesiredStatus"] == "run"]
        return sorted(wanted, key=lambda each: (each["Name"], each["CreateIndex"]))

    def wait_running(self, job: str, count: int, seconds: float = 30.0) -> None:
        """Wait until a job has so many running containers, and the cluster says the same."""
        self.wait_until(
            lambda: sum(map(len, self.container_ids(job).values())) == count,
            seconds,
            f"{count} containers of {job}",
        )
        asked = next(host for host in self.testbed if host.name in self._agents)

        def said() -> bool:
            running = [each for each in self.allocations(asked, job) if each["ClientStatus"] == "running"]
            return len(running) == count

        self.wait_until(said, seconds, f"{count} running allocations of {job}")

    def wait_healthy(self, job: str, version: int = 0, seconds: float = 40.0) -> None:
        """Wait until the rollout of a job's version has succeeded."""
        asked = next(host for host in self.testbed if host.name in self._agents)

        def succeeded() -> bool:
            latest = self.api(asked, f"/v1/job/{job}/deployment")
            return bool(latest) and latest["JobVersion"] == version and latest["Status"] == "successful"

        self.wait_until(succeeded, seconds, f"version {version} of {job} to be healthy")

    def wait_until(self, predicate: Callable[[], object], seconds: float, what: str = "a condition") -> None:
        """Wait for something that a user would look for again and again; raises TimeoutError."""
        wait_for(predicate, what, seconds, POLL_SECONDS)
