"""How much two versions of a group differ: not at all, without a restart, or so that it must be replaced."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from swarmlet.model.job import (
    DisconnectStrategy,
    Job,
    MigrateStrategy,
    ReschedulePolicy,
    RestartPolicy,
    Task,
    TaskGroup,
)


class Difference(StrEnum):
    """What an allocation of the old version needs to become one of the new."""

    NONE = "none"
    IN_PLACE = "in-place"
    DESTRUCTIVE = "destructive"


def difference(old: Job | None, new: Job, group_name: str) -> Difference:
    """Compare the group in two versions of a job. An old version that is not kept any more counts as different."""
    if old is not None and old.version == new.version and old.create_index == new.create_index:
        return Difference.NONE
    old_group = old.group(group_name) if old is not None else None
    new_group = new.group(group_name)
    if old is None or old_group is None or new_group is None or old.create_index != new.create_index:
        return Difference.DESTRUCTIVE
    same_job = (old.type, old.meta) == (new.type, new.meta)
    if same_job and _essence(old_group) == _essence(new_group):
        return Difference.IN_PLACE
    return Difference.DESTRUCTIVE


def _essence(group: TaskGroup) -> TaskGroup:
    """The group without what may change while its tasks run on. Constraints are judged against the node."""
    return msgspec.structs.replace(
        group,
        count=0,
        constraints=(),
        spreads=(),
        affinities=(),
        is_gang=False,
        restart=RestartPolicy(),
        reschedule=ReschedulePolicy(),
        update=None,
        migrate=MigrateStrategy(),
        disconnect=DisconnectStrategy(),
        shutdown_delay_ns=0,
        tasks=tuple(_task_essence(task) for task in group.tasks),
    )


def _task_essence(task: Task) -> Task:
    return msgspec.structs.replace(task, constraints=(), affinities=(), restart=None)
