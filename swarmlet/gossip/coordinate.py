"""Network coordinates: the round trip between any two members, estimated without measuring it.

Vivaldi (Dabek, Cox, Kaashoek, Morris, SIGCOMM 2004) with a height for the access link, in eight dimensions, plus the
adjustment of Ledlie, Gardner and Seltzer (NSDI 2007); the parameters are serf's. All values in seconds.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from statistics import median

import msgspec

from swarmlet.errors import InvalidInput

DIMENSIONS = 8
ERROR_MAX = 1.5
HEIGHT_MIN = 10e-6
#: How fast errors and positions move towards a sample (the paper's c_e and c_c).
_ERROR_WEIGHT = 0.25
_POSITION_WEIGHT = 0.25
#: The adjustment is the mean of so many residuals.
_ADJUSTMENT_WINDOW = 20
#: The latest samples of a peer of which the median counts: one slow answer moves nothing.
_MEDIAN_OF = 3
#: Peers whose samples are kept.
PEERS_MAX = 1024
#: Pulls the cloud towards the origin, so that it does not drift away as a whole.
_GRAVITY_RHO = 150.0
#: A round trip of more than this is no property of a network.
ROUND_TRIP_MAX = 10.0
_ZERO = 1e-6
_PACKED = struct.Struct(f">{DIMENSIONS + 3}f")


class Coordinate(msgspec.Struct, frozen=True, gc=False):
    """Where a member is in the space of round trips."""

    position: tuple[float, ...] = (0.0,) * DIMENSIONS
    #: How wrong it believes to be, relative; 1.5: no idea.
    error: float = ERROR_MAX
    adjustment: float = 0.0
    #: What the access link adds to every path.
    height: float = HEIGHT_MIN

    def is_valid(self) -> bool:
        """Whether a coordinate from elsewhere may be used: right dimension, finite, within reason."""
        numbers = (*self.position, self.error, self.adjustment, self.height)
        # A sum is finite only where every term is; what is not a number would escape a comparison.
        return (
            len(self.position) == DIMENSIONS
            and math.isfinite(sum(numbers))
            and min(numbers) >= -ROUND_TRIP_MAX
            and max(numbers) <= ROUND_TRIP_MAX
        )


_ORIGIN = Coordinate()


def estimate(one: Coordinate, other: Coordinate) -> float:
    """The round trip between two coordinates, in seconds."""
    raw = _raw(one, other)
    adjusted = raw + one.adjustment + other.adjustment
    return adjusted if adjusted > 0.0 else raw


def _raw(one: Coordinate, other: Coordinate) -> float:
    return math.dist(one.position, other.position) + one.height + other.height


def pack(coordinate: Coordinate) -> bytes:
    """44 bytes."""
    numbers = (*coordinate.position, coordinate.error, coordinate.adjustment, coordinate.height)
    return _PACKED.pack(*numbers)


def unpack(data: bytes) -> Coordinate | None:
    """What was packed, or None for anything else."""
    if len(data) != _PACKED.size:
        return None
    *position, error, adjustment, height = _PACKED.unpack(data)
    found = Coordinate(tuple(position), error, adjustment, height)
    return found if found.is_valid() else None


class Locator:
    """One member's own coordinate, moved by every round trip it measures."""

    def __init__(self, rng: random.Random) -> None:
        """At the origin, with no idea."""
        self.coordinate = Coordinate()
        self._rng = rng
        self._samples: dict[str, list[float]] = {}
        self._residuals: list[float] = []

    def update(self, peer: str, theirs: Coordinate, round_trip: float) -> Coordinate:
        """A round trip to `peer`, whose coordinate is `theirs`; returns the own coordinate after it.

        Raises InvalidInput for a coordinate or a time that no network has; nothing is changed then.
        """
        if not theirs.is_valid():
            raise InvalidInput(
                f"coordinate of {peer!r} is not {DIMENSIONS} finite numbers up to {ROUND_TRIP_MAX:g} s"
            )
        if not 0.0 <= round_trip <= ROUND_TRIP_MAX:
            raise InvalidInput(f"round trip of {round_trip} s is outside 0 to {ROUND_TRIP_MAX:g} s")
        sample = self._smooth(peer, round_trip)
        error, force = self._spring(theirs, sample)
        own = self.coordinate
        position, height = self._push(own.position, own.height, theirs, force)
        self._residuals.append(sample - math.dist(position, theirs.position) - height - theirs.height)
        if len(self._residuals) > _ADJUSTMENT_WINDOW:
            del self._residuals[0]
        # What the space cannot express is averaged into a term of its own.
        adjustment = sum(self._residuals) / (2.0 * _ADJUSTMENT_WINDOW)
        gravity = -(((math.hypot(*position) + height + HEIGHT_MIN) / _GRAVITY_RHO) ** 2)
        position, height = self._push(position, height, _ORIGIN, gravity)
        moved = Coordinate(tuple(position), error, adjustment, height)
        # Rounding can never leave the space for good: begin anew instead.
        self.coordinate = moved if moved.is_valid() else _ORIGIN
        return self.coordinate

    def forget(self, peer: str) -> None:
        """The peer is gone."""
        self._samples.pop(peer, None)

    def _smooth(self, peer: str, round_trip: float) -> float:
        samples = self._samples.pop(peer, [])
        self._samples[peer] = samples = [*samples, round_trip][-_MEDIAN_OF:]
        if len(self._samples) > PEERS_MAX:
            del self._samples[next(iter(self._samples))]
        return median(samples) if len(samples) > 1 else round_trip

    def _spring(self, theirs: Coordinate, round_trip: float) -> tuple[float, float]:
        """How wrong this member is now, and the force between the two: more on whom is less certain."""
        own = self.coordinate
        round_trip = max(round_trip, _ZERO)
        distance = estimate(own, theirs)
        wrong = abs(distance - round_trip) / round_trip
        weight = own.error / max(own.error + theirs.error, _ZERO)
        error = min(ERROR_MAX, _ERROR_WEIGHT * weight * wrong + own.error * (1 - _ERROR_WEIGHT * weight))
        return error, _POSITION_WEIGHT * weight * (round_trip - distance)

    def _push(
        self, position: Sequence[float], height: float, other: Coordinate, force: float
    ) -> tuple[Sequence[float], float]:
        """Away from `other` by `force`; heights grow and shrink in proportion."""
        distance = math.dist(position, other.position)
        if distance <= _ZERO:
            drawn = self._direction()
            return [at + step * force for at, step in zip(position, drawn, strict=True)], height
        share = force / distance
        moved = [
            mine + (mine - theirs) * share for mine, theirs in zip(position, other.position, strict=True)
        ]
        return moved, max(HEIGHT_MIN, (height + other.height) * share + height)

    def _direction(self) -> list[float]:
        """Any unit vector."""
        drawn = [self._rng.random() - 0.5 for _ in range(DIMENSIONS)]
        length = math.hypot(*drawn)
        if length <= _ZERO:
            return [1.0, *[0.0] * (DIMENSIONS - 1)]
        return [number / length for number in drawn]
