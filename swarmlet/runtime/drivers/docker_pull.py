"""How a pull goes, and what its failure means. Pure."""

from __future__ import annotations

from typing import Any

#: Words of engine and registry for what no repetition will change.
LASTING = (
    "not found",
    "denied",
    "manifest unknown",
    "unauthorized",
    "no basic auth credentials",
    "no matching manifest",
    "invalid reference",
)
#: Steps of a layer that say how much of it is here.
DOWNLOADING, DOWNLOADED = "Downloading", frozenset({"Download complete", "Pull complete", "Already exists"})
MIB = 1024 * 1024
#: A notice comes after so long, then after twice as long, and so on: a task keeps few events.
NOTICE_SECONDS = 10.0
LAYERS_MAX = 1_000


def is_lasting(reason: str) -> bool:
    """Whether trying again would fail again."""
    return any(word in reason for word in LASTING)


class PullProgress:
    """What the engine has told of one pull."""

    def __init__(self, now: float) -> None:
        """`now` in seconds, of any clock that does not jump."""
        self._layers: dict[str, tuple[int, int]] = {}
        self._began, self._wait = now, NOTICE_SECONDS
        self._next = now + NOTICE_SECONDS

    def take(self, line: dict[str, Any]) -> None:
        """One line of the engine's."""
        layer, status = str(line.get("id", "")), line.get("status")
        if not layer or (layer not in self._layers and len(self._layers) >= LAYERS_MAX):
            return
        detail = line.get("progressDetail") or {}
        if status == DOWNLOADING and detail.get("total"):
            self._layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
        elif status in DOWNLOADED and layer in self._layers:
            total = self._layers[layer][1]
            self._layers[layer] = (total, total)

    def notice(self, now: float) -> str | None:
        """A sentence for the task's history, when it is time for one again."""
        if now < self._next:
            return None
        self._wait *= 2
        self._next = now + self._wait
        done = sum(current for current, _ in self._layers.values())
        total = sum(size for _, size in self._layers.values())
        if not total:
            return f"nothing has come for {now - self._began:.0f} s"
        return f"{100 * done // total} % of {total / MIB:.0f} MiB after {now - self._began:.0f} s"
