"""Quantities. CPU in MHz, memory and disk in MiB, as in Nomad's job language."""

from __future__ import annotations

from collections.abc import Iterable

from swarmlet.errors import InvalidInput
from swarmlet.wire import Record

#: Dynamic ports come from this range (both ends included), as in Nomad.
DYNAMIC_PORT_MIN = 20_000
DYNAMIC_PORT_MAX = 32_000

#: Cores of one task, and of a node: more than any machine has.
CORES_MAX = 4_096
#: Of a core's number.
CORE_DIGITS = 4
#: The order of the dimensions wherever quantities are compared or reported.
DIMENSIONS = ("cpu", "memory", "disk")


class Quantity(Record):
    """An amount of each packed dimension: CPU in MHz, memory and disk in MiB."""

    cpu: int = 0
    memory: int = 0
    disk: int = 0

    def plus(self, other: Quantity) -> Quantity:
        """Dimension by dimension."""
        return Quantity(
            cpu=self.cpu + other.cpu, memory=self.memory + other.memory, disk=self.disk + other.disk
        )

    def minus(self, other: Quantity) -> Quantity:
        """Dimension by dimension; may go below zero."""
        return Quantity(
            cpu=self.cpu - other.cpu, memory=self.memory - other.memory, disk=self.disk - other.disk
        )

    def covers(self, other: Quantity) -> bool:
        """Whether `other` fits into this amount."""
        return self.cpu >= other.cpu and self.memory >= other.memory and self.disk >= other.disk


def times(each: Quantity, count: int) -> Quantity:
    """`count` of them."""
    if count == 1:
        return each
    return Quantity(cpu=each.cpu * count, memory=each.memory * count, disk=each.disk * count)


class Port(Record):
    """A port that a group asks for. `static` is 0 for a dynamic one; `to` is the port inside the container
    (0: the same as outside; -1: the same as the assigned host port).
    """

    label: str
    static: int = 0
    to: int = 0
    host_network: str = "default"


class AllocatedPort(Record):
    """A port that an allocation holds on its node."""

    label: str
    value: int
    to: int = 0
    host_ip: str = ""


class Network(Record):
    """A group's network. `mode` is "host", "bridge" or "none"."""

    mode: str = "host"
    ports: tuple[Port, ...] = ()
    hostname: str = ""
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()


class TaskResources(Record):
    """What one task reserves; `memory_max` of 0 means: the reservation is the limit."""

    cpu: int = 100
    memory: int = 300
    memory_max: int = 0
    #: Whether the job said nothing (an OOM message then says that the limit was the default).
    is_default: bool = False
    #: Whole cores for it alone; above 0 they are its CPU, and `cpu` does not count.
    cores: int = 0


def cpu_list(cores: Iterable[int]) -> str:
    """Numbers of cores as the kernel, Docker and Nomad write them.

    >>> cpu_list((3, 0, 1)), cpu_list(())
    ('0-1,3', '')
    """
    spans: list[list[int]] = []
    for core in sorted(cores):
        if spans and spans[-1][1] + 1 == core:
            spans[-1][1] = core
        else:
            spans.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The numbers in such a list, in order. Raises InvalidInput for anything else.

    >>> parse_cpu_list("3,0-1"), parse_cpu_list("")
    ((0, 1, 3), ())
    """
    found: set[int] = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        is_span = all(
            each.isascii() and each.isdigit() and len(each) <= CORE_DIGITS for each in (first, last)
        )
        if not is_span or int(first) > int(last):
            raise InvalidInput(f'"{text[:80]}" is no list of cores; expected numbers such as "0-3,5"')
        found.update(range(int(first), int(last) + 1))
    return tuple(sorted(found))
