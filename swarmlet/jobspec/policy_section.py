"""Blocks that say how work is constrained, restarted, moved and rolled out."""

from __future__ import annotations

from typing import Any

from swarmlet.jobspec.section import Section
from swarmlet.model.job import (
    Affinity,
    Constraint,
    DelayFunction,
    DisconnectStrategy,
    HealthCheckKind,
    JobType,
    MigrateStrategy,
    ReschedulePolicy,
    RestartMode,
    RestartPolicy,
    Spread,
    SpreadTarget,
    UpdateStrategy,
)

#: What a block sets, by the field's name; what it leaves out comes from the next outer block or the default.
Fields = dict[str, Any]

_SUGAR = (
    "distinct_property",
    "regexp",
    "version",
    "semver",
    "set_contains",
    "set_contains_all",
    "set_contains_any",
)
_AFFINITY_SUGAR = _SUGAR[1:]


def present(**fields: Any) -> Fields:
    """The fields that were written."""
    return {name: value for name, value in fields.items() if value is not None}


def read_constraints(section: Section) -> tuple[Constraint, ...]:
    """All `constraint` blocks of a job, group or task."""
    found = []
    for block in section.blocks("constraint"):
        constraint = _constraint(block)
        block.finish()
        if constraint is not None:
            found.append(constraint)
    return tuple(found)


def _constraint(block: Section) -> Constraint | None:
    hosts = block.boolean("distinct_hosts")
    matched = _matched(block, _SUGAR)
    if hosts is not None:
        return Constraint(operand="distinct_hosts", right="true") if hosts else None
    return matched


def _matched(block: Section, sugars: tuple[str, ...]) -> Constraint:
    left = block.text("attribute") or ""
    right = block.text("value") or ""
    operand = block.text("operator") or "="
    for sugar in sugars:
        written = block.text(sugar)
        if written is None:
            continue
        operand = sugar
        if sugar == "distinct_property":
            left = written  # its limit is the value
        else:
            right = written
    return Constraint(left=left, right=right, operand=operand)


def read_affinities(section: Section) -> tuple[Affinity, ...]:
    """All `affinity` blocks of a job, group or task."""
    found = []
    for block in section.blocks("affinity"):
        constraint = _matched(block, _AFFINITY_SUGAR)
        weight = block.integer("weight")
        block.finish()
        found.append(
            Affinity(
                left=constraint.left,
                right=constraint.right,
                operand=constraint.operand,
                **present(weight=weight),
            )
        )
    return tuple(found)


def read_spreads(section: Section) -> tuple[Spread, ...]:
    """All `spread` blocks of a job or group."""
    found = []
    for block in section.blocks("spread"):
        targets = []
        for target in block.blocks("target", is_labelled=True):
            targets.append(SpreadTarget(value=target.label, percent=target.integer("percent") or 0))
            target.finish()
        found.append(
            Spread(
                attribute=block.text("attribute") or "",
                targets=tuple(targets),
                **present(weight=block.integer("weight")),
            )
        )
        block.finish()
    return tuple(found)


def restart_fields(section: Section) -> Fields:
    """`restart` of a group or task; a delay that is written holds before every attempt."""
    block = section.block("restart")
    if block is None:
        return {}
    mode = block.choice("mode", tuple(RestartMode))
    fields = present(
        attempts=block.integer("attempts"),
        interval_ns=block.duration_ns("interval"),
        delay_ns=block.duration_ns("delay"),
        mode=RestartMode(mode) if mode else None,
    )
    if "delay_ns" in fields:
        fields |= {"is_backoff": False, "delay_max_ns": fields["delay_ns"]}
    block.ignore({"render_templates": "templates are rendered before every start"})
    block.finish()
    return fields


def restart_policy(fields: Fields) -> RestartPolicy:
    """With our defaults for what is not set."""
    return RestartPolicy(**fields)


def reschedule_fields(section: Section) -> Fields:
    """`reschedule` of a job or group. Attempts without `unlimited` count."""
    block = section.block("reschedule")
    if block is None:
        return {}
    function = block.choice("delay_function", tuple(DelayFunction))
    fields = present(
        attempts=block.integer("attempts"),
        interval_ns=block.duration_ns("interval"),
        delay_ns=block.duration_ns("delay"),
        delay_function=DelayFunction(function) if function else None,
        max_delay_ns=block.duration_ns("max_delay"),
        is_unlimited=block.boolean("unlimited"),
    )
    if "attempts" in fields and "is_unlimited" not in fields:
        fields["is_unlimited"] = False
    block.finish()
    return fields


#: A batch job that fails is tried once more a day, as in Nomad: for ever would never end.
BATCH_RESCHEDULE: Fields = {
    "attempts": 1,
    "interval_ns": 24 * 3600 * 1_000_000_000,
    "delay_ns": 5 * 1_000_000_000,
    "delay_function": DelayFunction.CONSTANT,
    "is_unlimited": False,
}


def reschedule_policy(fields: Fields, job_type: JobType) -> ReschedulePolicy:
    """With the defaults of the job's type for what is not set."""
    return ReschedulePolicy(**({**BATCH_RESCHEDULE, **fields} if job_type.is_finite else fields))


def update_fields(section: Section) -> Fields:
    """`update` of a job or group."""
    block = section.block("update")
    if block is None:
        return {}
    health = block.choice("health_check", tuple(HealthCheckKind))
    fields = present(
        max_parallel=block.integer("max_parallel"),
        health_check=HealthCheckKind(health) if health else None,
        min_healthy_ns=block.duration_ns("min_healthy_time"),
        healthy_deadline_ns=block.duration_ns("healthy_deadline"),
        progress_deadline_ns=block.duration_ns("progress_deadline"),
        auto_revert=block.boolean("auto_revert"),
        stagger_ns=block.duration_ns("stagger"),
        canary=block.integer("canary"),
        auto_promote=block.boolean("auto_promote"),
    )
    block.finish()
    return fields


def update_strategy(fields: Fields, job_type: JobType) -> UpdateStrategy | None:
    """Service and system jobs always roll; batch jobs never do (of one with canaries `validation` says so)."""
    is_refused = fields.get("canary") or fields.get("auto_promote")
    return None if job_type.is_finite and not is_refused else UpdateStrategy(**fields)


def migrate_fields(section: Section) -> Fields:
    """`migrate` of a job or group."""
    block = section.block("migrate")
    if block is None:
        return {}
    block.choice("health_check", tuple(HealthCheckKind))
    fields = present(
        max_parallel=block.integer("max_parallel"),
        min_healthy_ns=block.duration_ns("min_healthy_time"),
        healthy_deadline_ns=block.duration_ns("healthy_deadline"),
    )
    block.finish()
    return fields


def migrate_strategy(fields: Fields) -> MigrateStrategy:
    """With the defaults for what is not set."""
    return MigrateStrategy(**fields)


def read_disconnect(section: Section) -> DisconnectStrategy:
    """`disconnect` of a group."""
    block = section.block("disconnect")
    fields: Fields = {}
    if block is not None:
        fields = present(
            replace=block.boolean("replace"),
            stop_on_client_after_ns=block.duration_ns("stop_on_client_after"),
            lost_after_ns=block.duration_ns("lost_after"),
        )
        block.ignore({"reconcile": "a returning original survives where its replacement is not healthy yet"})
        block.finish()
    old_stop = section.duration_ns("stop_after_client_disconnect")
    if old_stop is not None:
        section.warn(
            section.place("stop_after_client_disconnect"),
            "stop_after_client_disconnect is the old name of disconnect { stop_on_client_after }",
        )
        fields.setdefault("stop_on_client_after_ns", old_stop)
    return DisconnectStrategy(**fields)
