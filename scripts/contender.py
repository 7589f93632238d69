"""Who competes in the benchmarks on real hosts: this project and Docker Swarm, each told one job and nothing else."""

from __future__ import annotations

import json
from typing import Any, Protocol

from tests.testbed import cluster as cluster_module
from tests.testbed import unix_http
from tests.testbed.cluster import WRITE_SECONDS_MAX, Cluster
from tests.testbed.host import Host, wait_for
from tests.testbed.images import IMAGE
from tests.testbed.testbed import Testbed

#: The job of all contenders: ends at once when asked to, so that a stop never hides behind a kill timeout.
SHELL = 'trap "exit 0" TERM; sleep 1000000 & wait'
SETTLE_SECONDS_MAX = 120.0
POLL_SECONDS = 0.1


def job_file(replicas: int) -> str:
    """The job in this project's language."""
    return f"""
job "bench" {{
  group "sleepers" {{
    count = {replicas}
    task "sleep" {{
      driver = "docker"
      config {{
        image   = "{IMAGE}"
        command = "sh"
        args    = ["-c", {json.dumps(SHELL)}]
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
  }}
}}
"""


class Contender(Protocol):
    """What the benchmark asks of a cluster, whoever made it."""

    name: str
    #: Marks the job's containers on every engine.
    label: str

    def slot(self, labels: dict[str, str]) -> str:
        """Which of the replicas a container with these labels is."""

    def start(self) -> None: ...
    def deploy(self, replicas: int) -> None: ...
    def remove(self) -> None: ...
    def leader(self) -> Host: ...
    def host_returned(self, host: Host) -> None: ...
    def is_whole(self) -> bool: ...
    def stop(self) -> None: ...


class Swarmlet:
    """This project, through its command line; the job file is all that it is told."""

    name = "swarmlet"
    label = f"{cluster_module.JOB_LABEL}=bench"

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed
        self._cluster = Cluster(testbed)

    def slot(self, labels: dict[str, str]) -> str:
        return labels["swarmlet.allocation_name"]

    def start(self) -> None:
        self._cluster.start()

    def deploy(self, replicas: int) -> None:
        # Through the API, as the peer's: the command line's own start is measured elsewhere.
        self._cluster.submit(self._testbed[1], job_file(replicas))

    def remove(self) -> None:
        self._cluster.api(
            self._testbed[1], "/v1/job/bench?purge=true", method="DELETE", seconds=WRITE_SECONDS_MAX
        )

    def leader(self) -> Host:
        found: list[Host] = []

        def known() -> bool:
            leader = self._cluster.leader()
            if leader is not None:
                found.append(leader)
            return bool(found)

        wait_for(known, "a leader", SETTLE_SECONDS_MAX, POLL_SECONDS)
        return found[0]

    def host_returned(self, host: Host) -> None:
        self._cluster.start_agent(host)

    def is_whole(self) -> bool:
        return all(len(self._cluster.ready_nodes(host)) == len(self._testbed) for host in self._testbed)

    def stop(self) -> None:
        self._cluster.stop()


class Swarm:
    """Docker Swarm with its defaults, every host a manager, so that it too survives the loss of any."""

    name = "swarm"
    label = "com.docker.swarm.service.name=bench"

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed

    def slot(self, labels: dict[str, str]) -> str:
        return labels["com.docker.swarm.task.name"].rpartition(".")[0]

    def start(self) -> None:
        for host in self._testbed:
            host.live_restore = False
            host.restart_engine()
        first, *others = self._testbed
        listen = {"ListenAddr": "0.0.0.0:2377"}
        first.engine.request("POST", "/swarm/init", {**listen, "AdvertiseAddr": first.address})
        token = first.engine.request("GET", "/swarm")["JoinTokens"]["Manager"]
        for host in others:
            join = {
                "AdvertiseAddr": host.address,
                "RemoteAddrs": [f"{first.address}:2377"],
                "JoinToken": token,
            }
            host.engine.request("POST", "/swarm/join", {**listen, **join})

    def deploy(self, replicas: int) -> None:
        task = {"ContainerSpec": {"Image": IMAGE, "Command": ["sh", "-c", SHELL]}}
        service = {"Name": "bench", "TaskTemplate": task, "Mode": {"Replicated": {"Replicas": replicas}}}
        self._testbed[1].engine.request("POST", "/services/create", service)

    def remove(self) -> None:
        self._testbed[1].engine.request("DELETE", "/services/bench")

    def leader(self) -> Host:
        wait_for(
            lambda: self._leader() is not None, "a leader of the swarm", SETTLE_SECONDS_MAX, POLL_SECONDS
        )
        found = self._leader()
        assert found is not None
        return found

    def host_returned(self, host: Host) -> None:
        """The engine is the agent: it is back already."""

    def is_whole(self) -> bool:
        return all(
            len([node for node in self._nodes(host) if _is_reachable_manager(node)]) == len(self._testbed)
            for host in self._testbed
        )

    def stop(self) -> None:
        for host in self._testbed:
            if host.is_on:  # a measurement that failed may have left one off
                host.engine.request("POST", "/swarm/leave", force=True)

    def _leader(self) -> Host | None:
        for host in self._testbed:
            for node in self._nodes(host):
                if node.get("ManagerStatus", {}).get("Leader"):
                    address = node["ManagerStatus"]["Addr"].rpartition(":")[0]
                    return next(each for each in self._testbed if each.address == address)
        return None

    @staticmethod
    def _nodes(host: Host) -> list[dict[str, Any]]:
        try:
            nodes: list[dict[str, Any]] = host.engine.request("GET", "/nodes")
        except (unix_http.NoAnswer, unix_http.Refused):
            return []
        return nodes


def _is_reachable_manager(node: dict[str, Any]) -> bool:
    state: str = node["Status"]["State"]
    return state == "ready" and node.get("ManagerStatus", {}).get("Reachability") == "reachable"
