"""Metrics as text: what is counted and measured, in Prometheus's exposition format and in Nomad's JSON.

Sources: the text format 0.0.4 of Prometheus ("Exposition formats"), and the answer of Nomad's `/v1/metrics`. Pure: a
part of the program makes `Family` values, this module writes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

#: What the text format's first line of HTTP says.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: All names begin so.
PREFIX = "swarmlet"


class Kind(StrEnum):
    """What a number is."""

    #: Only grows, until the agent restarts.
    COUNTER = "counter"
    GAUGE = "gauge"


class Sample(NamedTuple):
    """One number, with what tells it from others of its family."""

    value: float
    labels: Mapping[str, str] = {}


class Family(NamedTuple):
    """Numbers of one meaning. `name` in words with underscores, its unit last; a counter's without "_total"."""

    name: str
    kind: Kind
    #: One sentence without a full stop.
    meaning: str
    samples: tuple[Sample, ...]


def single(name: str, kind: Kind, meaning: str, value: float, **labels: str) -> Family:
    """A family of one number."""
    return Family(name, kind, meaning, (Sample(value, labels),))


def to_prometheus(families: Iterable[Family]) -> str:
    """The text that a Prometheus server scrapes."""
    lines: list[str] = []
    for family in families:
        name = f"{PREFIX}_{family.name}" + ("_total" if family.kind is Kind.COUNTER else "")
        meaning = family.meaning.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {family.kind.value}"]
        lines += [f"{name}{_labels(sample.labels)} {_number(sample.value)}" for sample in family.samples]
    return "\n".join([*lines, ""])


def to_json(families: Iterable[Family], timestamp: str) -> dict[str, Any]:
    """The answer that Nomad's `/v1/metrics` gives: names with dots, counters apart from gauges."""
    counters: list[dict[str, Any]] = []
    gauges: list[dict[str, Any]] = []
    for family in families:
        name = f"{PREFIX}.{family.name.replace('_', '.', 1)}"
        for sample in family.samples:
            labels = dict(sample.labels)
            if family.kind is Kind.COUNTER:
                counters.append({"Name": name, "Labels": labels, "Count": sample.value, "Sum": sample.value})
            else:
                gauges.append({"Name": name, "Labels": labels, "Value": sample.value})
    return {"Timestamp": timestamp, "Counters": counters, "Gauges": gauges, "Points": [], "Samples": []}


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(labels[name])}"' for name in sorted(labels)) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
