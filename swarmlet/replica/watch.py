"""Waiting for the state to change, without polling: on a table, or on one scope ("node:<id>", "job:<ns>/<id>")."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from swarmlet.errors import Overloaded
from swarmlet.state.view import Change, Table, View

log = structlog.get_logger(__name__)

#: Waiters at once: each is one open blocking query or stream. Beyond it callers get 429.
WAITERS_MAX = 10_000

Listener = Callable[[View, tuple[Change, ...]], None]


class Watches:
    """Wakes those who wait for a table or a scope. One per replica; used from the event loop alone."""

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._count = 0
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(view, changes)` on the loop once commands were applied, all those of one go together, with the
        view behind the last of them. Returns how to stop.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def notify(self, view: View, changes: tuple[Change, ...]) -> None:
        """Commands were applied: wake whom it concerns."""
        if self._waiting:
            for change in changes:
                self._wake(change.table.value)
                for scope in change.scopes:
                    self._wake(scope)
                for node_id in change.nodes:
                    self._wake(f"node:{node_id}")
        self._tell(view, changes)

    def notify_all(self, view: View) -> None:
        """The whole state was replaced: wake everyone."""
        for key in tuple(self._waiting):
            self._wake(key)
        self._tell(view, ())

    def _tell(self, view: View, changes: tuple[Change, ...]) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(view, changes)
            except Exception:
                # The state has moved whatever a listener makes of it; applying must go on.
                log.exception("watch.listener_failed", index=view.index)

    async def wait_changed(
        self, keys: Iterable[Table | str], is_ready: Callable[[], bool], timeout_seconds: float
    ) -> bool:
        """Return True once `is_ready()` holds (checked now and after each change under `keys`), False at the
        timeout. Raises Overloaded when too many wait already.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        names = [str(key) for key in keys]
        while not is_ready():
            if self._count >= WAITERS_MAX:
                raise Overloaded(f"{WAITERS_MAX} clients wait for changes already; try again in a second")
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            for name in names:
                self._waiting.setdefault(name, set()).add(future)
            self._count += 1
            try:
                async with asyncio.timeout_at(deadline):
                    await future
            except TimeoutError:
                return is_ready()
            finally:
                self._count -= 1
                for name in names:
                    waiting = self._waiting.get(name)
                    if waiting is not None:
                        waiting.discard(future)
                        if not waiting:
                            del self._waiting[name]
        return True

    def _wake(self, key: str) -> None:
        for future in self._waiting.get(key, ()):
            if not future.done():
                future.set_result(None)
