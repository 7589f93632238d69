"""Which field of a job is called what in Nomad's JSON: one table for both directions, so that none is written and not read.

What is not the same thing under another name is not here: it is in `json_job` and `json_writing`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from swarmlet.jobspec.json_object import JsonObject
from swarmlet.jobspec.policy_section import Fields, present
from swarmlet.model.job import ChangeMode, DelayFunction, HealthCheckKind, RestartMode


class Named(NamedTuple):
    """A field, its name in JSON, and the ways there and back."""

    json: str
    field: str
    read: Callable[[JsonObject, str], Any]
    write: Callable[[Any], Any] = lambda value: value


Table = tuple[Named, ...]


def fields_of(data: JsonObject | None, table: Table) -> Fields:
    """What `data` sets of the table's fields, by the fields' names."""
    if data is None:
        return {}
    return present(**{each.field: each.read(data, each.json) for each in table})


def written(record: Any, table: Table) -> dict[str, Any]:
    """The table's fields of `record`, by their names in JSON."""
    return {each.json: each.write(getattr(record, each.field)) for each in table}


def _positive_duration(data: JsonObject, name: str) -> int | None:
    """Zero counts as not set."""
    return data.duration_ns(name) or None


def _choice(json: str, field: str, kind: type[StrEnum]) -> Named:
    def read(data: JsonObject, name: str) -> StrEnum | None:
        found = data.choice(name, tuple(kind))
        return kind(found) if found else None

    return Named(json, field, read, str)


_TEXT, _FILLED, _INTEGER, _BOOLEAN, _DURATION = (
    JsonObject.text,
    JsonObject.filled,
    JsonObject.integer,
    JsonObject.boolean,
    JsonObject.duration_ns,
)

CONSTRAINT: Table = (
    Named("LTarget", "left", _TEXT),
    Named("RTarget", "right", _TEXT),
    Named("Operand", "operand", _FILLED),
)
AFFINITY: Table = (*CONSTRAINT, Named("Weight", "weight", _INTEGER))
SPREAD: Table = (Named("Attribute", "attribute", _TEXT), Named("Weight", "weight", _INTEGER))
SPREAD_TARGET: Table = (Named("Value", "value", _TEXT), Named("Percent", "percent", _INTEGER))
RESTART: Table = (
    Named("Attempts", "attempts", _INTEGER),
    Named("Interval", "interval_ns", _DURATION),
    Named("Delay", "delay_ns", _DURATION),
    _choice("Mode", "mode", RestartMode),
)
RESCHEDULE: Table = (
    Named("Attempts", "attempts", _INTEGER),
    Named("Interval", "interval_ns", _DURATION),
    Named("Delay", "delay_ns", _DURATION),
    _choice("DelayFunction", "delay_function", DelayFunction),
    Named("MaxDelay", "max_delay_ns", _DURATION),
    Named("Unlimited", "is_unlimited", _BOOLEAN),
)
UPDATE: Table = (
    Named("MaxParallel", "max_parallel", _INTEGER),
    _choice("HealthCheck", "health_check", HealthCheckKind),
    Named("MinHealthyTime", "min_healthy_ns", _DURATION),
    Named("HealthyDeadline", "healthy_deadline_ns", _positive_duration),
    Named("ProgressDeadline", "progress_deadline_ns", _DURATION),
    Named("AutoRevert", "auto_revert", _BOOLEAN),
    Named("Stagger", "stagger_ns", _DURATION),
    Named("Canary", "canary", _INTEGER),
    Named("AutoPromote", "auto_promote", _BOOLEAN),
)
MIGRATE: Table = (
    Named("MaxParallel", "max_parallel", _INTEGER),
    Named("MinHealthyTime", "min_healthy_ns", _DURATION),
    Named("HealthyDeadline", "healthy_deadline_ns", _DURATION),
)
DISCONNECT: Table = (
    Named("Replace", "replace", _BOOLEAN),
    Named("StopOnClientAfter", "stop_on_client_after_ns", _DURATION),
    Named("LostAfter", "lost_after_ns", _DURATION),
)
DISK: Table = (
    Named("SizeMB", "size", _INTEGER),
    Named("Sticky", "is_sticky", _BOOLEAN),
    Named("Migrate", "is_migrated", _BOOLEAN),
)
VOLUME: Table = (
    Named("Type", "kind", _FILLED),
    Named("Source", "source", _TEXT),
    Named("ReadOnly", "is_read_only", _BOOLEAN),
    Named("PerAlloc", "is_per_alloc", _BOOLEAN),
)
MOUNT: Table = (
    Named("Volume", "volume", _TEXT),
    Named("Destination", "destination", _TEXT),
    Named("ReadOnly", "is_read_only", _BOOLEAN),
)
PORT: Table = (
    Named("Label", "label", _TEXT),
    Named("Value", "static", _INTEGER),
    Named("To", "to", _INTEGER),
    Named("HostNetwork", "host_network", _FILLED),
)
DNS: Table = (
    Named("Servers", "dns_servers", JsonObject.texts, list),
    Named("Searches", "dns_searches", JsonObject.texts, list),
    Named("Options", "dns_options", JsonObject.texts, list),
)
SERVICE: Table = (
    Named("Name", "name", _TEXT),
    Named("PortLabel", "port_label", _TEXT),
    Named("Provider", "provider", _FILLED),
    Named("AddressMode", "address_mode", _FILLED),
    Named("Tags", "tags", JsonObject.texts, list),
    Named("Meta", "meta", JsonObject.text_map, dict),
    Named("CanaryTags", "canary_tags", JsonObject.texts, list),
    Named("CanaryMeta", "canary_meta", JsonObject.text_map, dict),
)
GROUP: Table = (
    Named("Count", "count", _INTEGER),
    # Ours.
    Named("AllAtOnce", "is_gang", _BOOLEAN),
    Named("Meta", "meta", JsonObject.text_map, dict),
    Named("ShutdownDelay", "shutdown_delay_ns", _DURATION),
)
TASK: Table = (
    Named("User", "user", _TEXT),
    Named("Env", "env", JsonObject.text_map, dict),
    Named("Meta", "meta", JsonObject.text_map, dict),
    Named("KillTimeout", "kill_timeout_ns", _DURATION),
    Named("KillSignal", "kill_signal", _TEXT),
    Named("Leader", "is_leader", _BOOLEAN),
    Named("ShutdownDelay", "shutdown_delay_ns", _DURATION),
)
RESOURCES: Table = (
    Named("CPU", "cpu", _INTEGER),
    Named("Cores", "cores", _INTEGER),
    Named("MemoryMB", "memory", _INTEGER),
    Named("MemoryMaxMB", "memory_max", _INTEGER),
)
DEVICE: Table = (
    Named("Name", "name", _TEXT),
    Named("Count", "count", _INTEGER),
    # Ours: thousandths of a device.
    Named("Milli", "milli", _INTEGER),
)
LOGS: Table = (
    Named("MaxFiles", "max_files", _INTEGER),
    Named("MaxFileSizeMB", "max_file_mib", _INTEGER),
    Named("Disabled", "is_disabled", _BOOLEAN),
)
TEMPLATE: Table = (
    Named("SourcePath", "source", _FILLED),
    Named("DestPath", "destination", _TEXT),
    Named("EmbeddedTmpl", "data", _FILLED),
    _choice("ChangeMode", "change_mode", ChangeMode),
    Named("ChangeSignal", "change_signal", _FILLED),
    Named("Splay", "splay_ns", _DURATION),
    Named("Perms", "perms", _FILLED),
    Named("Uid", "uid", _INTEGER),
    Named("Gid", "gid", _INTEGER),
    Named("LeftDelim", "left_delimiter", _FILLED),
    Named("RightDelim", "right_delimiter", _FILLED),
    Named("Envvars", "is_env", _BOOLEAN),
    Named("ErrMissingKey", "is_error_on_missing_key", _BOOLEAN),
)
CHANGE_SCRIPT: Table = (
    Named("Command", "command", _TEXT),
    Named("Args", "args", JsonObject.texts, list),
    Named("Timeout", "timeout_ns", _DURATION),
    Named("FailOnError", "is_fail_on_error", _BOOLEAN),
)
ARTIFACT: Table = (
    Named("GetterSource", "source", _TEXT),
    Named("RelativeDest", "destination", _FILLED),
    Named("GetterMode", "mode", lambda data, name: data.choice(name, ("any", "file", "dir"))),
    Named("GetterOptions", "options", JsonObject.text_map, dict),
    Named("GetterHeaders", "headers", JsonObject.text_map, dict),
    Named("GetterInsecure", "is_insecure", _BOOLEAN),
)
