"""Local health (Lifeguard section IV-A): a member that is slow itself gives others more time."""

from __future__ import annotations

#: Lifeguard's S: at worst everything takes eight times as long.
SCORE_MAX = 7


class Awareness:
    """A score from 0 (well) to 7; every timeout is multiplied by `factor`."""

    def __init__(self, score_max: int = SCORE_MAX) -> None:
        """Well. With `score_max` 0 it stays so."""
        self.score = 0
        self.score_max = score_max

    @property
    def factor(self) -> int:
        """What to multiply timeouts by: 1 to 8."""
        return self.score + 1

    def worse(self, by: int) -> None:
        """Something suggests that this member is the slow one."""
        self.score = min(self.score_max, self.score + by)

    def better(self) -> None:
        """A probe succeeded."""
        self.score = max(0, self.score - 1)
