"""Health checks of a service: what is asked of a task, how often, and what follows from the answers.

Names and meanings are Nomad's (`check` and `check_restart` in `service`). Durations are in nanoseconds.
"""

from __future__ import annotations

from enum import StrEnum

from swarmlet.wire import Record

SECOND_NS = 1_000_000_000
#: Nomad's own lower bound for both: more often is load, not knowledge.
INTERVAL_NS_MIN = TIMEOUT_NS_MIN = SECOND_NS
#: Checks of one group: each is a timer and a connection on every node that runs the group.
CHECKS_MAX = 64
#: Characters of a gRPC service's name, which goes out with every question.
GRPC_SERVICE_LENGTH_MAX = 512


class CheckKind(StrEnum):
    """How a task is asked."""

    HTTP = "http"
    TCP = "tcp"
    SCRIPT = "script"
    GRPC = "grpc"


class CheckStatus(StrEnum):
    """What the answers add up to (Nomad's words)."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"


class CheckRestart(Record):
    """Restart the task once a check has failed `limit` times in a row (0: never), `grace_ns` after its start."""

    limit: int = 0
    grace_ns: int = SECOND_NS


class Check(Record):
    """One check. `task` empty: of the whole group; a script runs inside its task."""

    name: str
    kind: CheckKind = CheckKind.TCP
    interval_ns: int = 10 * SECOND_NS
    timeout_ns: int = 2 * SECOND_NS
    #: Empty: the service's.
    port_label: str = ""
    task: str = ""
    #: `http`; of TLS both `http` and `grpc`.
    protocol: str = "http"
    method: str = "GET"
    path: str = "/"
    headers: dict[str, tuple[str, ...]] = {}
    body: str = ""
    is_tls_verified: bool = True
    tls_server_name: str = ""
    #: `script`.
    command: str = ""
    args: tuple[str, ...] = ()
    #: Answers in a row that change the status; 0 counts as 1.
    success_before_passing: int = 0
    failures_before_critical: int = 0
    #: Taken for its status before the first answer.
    is_passing_at_first: bool = False
    #: `on_update = "ignore"`: it does not decide about deployments.
    is_ignored_on_update: bool = False
    restart: CheckRestart = CheckRestart()
    #: `grpc`: whose health is asked for; empty: the whole server's.
    grpc_service: str = ""
    is_grpc_over_tls: bool = False


class CheckResult(Record):
    """One check of one allocation, as its node sees it."""

    id: str
    service: str
    group: str
    check: Check
    status: CheckStatus = CheckStatus.PENDING
    #: Of the last answer: what was said (cut), an HTTP status (0: none), wall time (0: never asked).
    output: str = ""
    status_code: int = 0
    at_ns: int = 0
