"""`check` and `check_restart` in a `service`."""

from __future__ import annotations

from dataclasses import dataclass

from swarmlet.jobspec.policy_section import present
from swarmlet.jobspec.section import Section
from swarmlet.model.check import Check, CheckKind, CheckRestart

ON_UPDATE = ("require_healthy", "ignore_warnings", "ignore")
INITIAL = ("", "passing", "critical", "warning", "pending")
#: Check types by name, with what to do instead.
CHECKS_REFUSED = {
    "ttl": "it concerns Consul; use http, tcp, grpc or script",
}
_REFUSED = {
    "address_mode": "checks go to the allocation's address on its node",
}
_IGNORED = {
    "failures_before_warning": "a check passes or fails",
    "expose": "there is no service mesh",
    "notes": "it concerns Consul",
}
_HTTP_ONLY = dict.fromkeys(("protocol", "method", "path", "header", "body"), "it concerns http checks")
_GRPC_ONLY = dict.fromkeys(("grpc_service", "grpc_use_tls"), "it concerns grpc checks")


@dataclass(frozen=True, kw_only=True)
class CheckDefaults:
    """What a check takes from its service."""

    service: str
    task: str
    on_update: str | None
    restart: CheckRestart


def read_check_restart(section: Section, outer: CheckRestart) -> CheckRestart:
    """The `check_restart` of a service or check; `outer` holds where there is none."""
    block = section.block("check_restart")
    if block is None:
        return outer
    found = CheckRestart(**present(limit=block.integer("limit"), grace_ns=block.duration_ns("grace")))
    block.ignore({"ignore_warnings": "a check passes or fails"})
    block.finish()
    return found


def read_checks(section: Section, defaults: CheckDefaults) -> tuple[Check, ...]:
    """All `check` blocks of a service."""
    return tuple(
        _check(block, defaults, number) for number, block in enumerate(section.blocks("check"), start=1)
    )


def _check(block: Section, defaults: CheckDefaults, number: int) -> Check:
    kind = _kind(block)
    for name in ("interval", "timeout"):
        if not block.has(name):
            block.problem(block.start, f'check has no {name}; expected a duration such as {name} = "10s"')
    on_update = block.choice("on_update", ON_UPDATE) or defaults.on_update
    check = Check(
        name=block.text("name") or f"{defaults.service} check {number}",
        kind=kind,
        task=block.text("task") or defaults.task,
        headers=_headers(block),
        is_tls_verified=not block.boolean("tls_skip_verify"),
        is_passing_at_first=block.choice("initial_status", INITIAL) == "passing",
        is_ignored_on_update=on_update == "ignore",
        restart=read_check_restart(block, defaults.restart),
        is_grpc_over_tls=bool(block.boolean("grpc_use_tls")),
        **present(
            interval_ns=block.duration_ns("interval"),
            timeout_ns=block.duration_ns("timeout"),
            port_label=block.text("port"),
            protocol=block.choice("protocol", ("http", "https")),
            method=block.text("method"),
            path=block.text("path"),
            body=block.text("body"),
            tls_server_name=block.text("tls_server_name"),
            grpc_service=block.text("grpc_service"),
            command=block.text("command"),
            args=block.texts("args"),
            success_before_passing=block.integer("success_before_passing"),
            failures_before_critical=block.integer("failures_before_critical"),
        ),
    )
    block.refuse(_REFUSED)
    block.ignore(_IGNORED)
    block.ignore(_HTTP_ONLY if kind is CheckKind.GRPC else _GRPC_ONLY)
    block.finish()
    return check


def _kind(block: Section) -> CheckKind:
    written = block.text("type") or ""
    if written in CHECKS_REFUSED:
        block.problem(
            block.place("type"),
            f'type "{written}" is not supported: {CHECKS_REFUSED[written]}',
        )
        return CheckKind.TCP
    if not written:
        block.problem(block.start, f"check has no type; expected {', '.join(CheckKind)}")
        return CheckKind.TCP
    chosen = block.choice("type", tuple(CheckKind))
    return CheckKind(chosen) if chosen else CheckKind.TCP


def _headers(block: Section) -> dict[str, tuple[str, ...]]:
    """`header { Name = ["value"] }`: each name may have several values."""
    headers: dict[str, tuple[str, ...]] = {}
    header = block.block("header")
    if header is not None:
        for name in header.body.attributes:
            headers[name] = header.texts(name) or ()
        header.finish()
    return headers
