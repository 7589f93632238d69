"""Which containers run on an engine, kept up to date by its event stream: exact instants without load from polling."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.testbed import unix_http
from tests.testbed.engine import Engine


class RunningWatch:
    """A context manager over several engines; `wait` sees starts and ends within milliseconds."""

    def __init__(self, engines: list[Engine], label: str) -> None:
        self._engines = engines
        self._label = label
        self._running: list[set[str]] = [set() for _ in engines]
        #: Ids of the containers that have ended since the watch began (they may run again).
        self.ended: set[str] = set()
        #: Ids of the containers that have started since.
        self.started: set[str] = set()
        #: When each start was heard of (monotonic seconds), in order; it grows with the engines' events only.
        self.starts: list[float] = []
        self._changed = threading.Condition()
        self._streams: list[unix_http.UnixConnection] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for place, engine in enumerate(self._engines):
            connection = unix_http.UnixConnection(engine.socket_path, None)
            filters = {"type": ["container"], "label": [self._label], "event": ["start", "die"]}
            connection.request("GET", unix_http.target("/events", {"filters": filters}))
            answer = connection.getresponse()
            # The stream is open before the listing: nothing can fall between the two.
            with self._changed:
                self._running[place] = {container["Id"] for container in engine.containers(label=self._label)}
            self._streams.append(connection)
            thread = threading.Thread(target=self._follow, args=(place, answer), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for stream in self._streams:
            if stream.sock is not None:
                stream.sock.shutdown(2)
        for thread in self._threads:
            thread.join()
        for stream in self._streams:
            stream.close()

    def wait(self, condition: Callable[[list[set[str]]], bool], seconds: float) -> float:
        """Wait until the condition on the ids that run per engine holds; returns the instant (monotonic seconds).

        Raises TimeoutError with what ran then.
        """
        with self._changed:
            if self._changed.wait_for(lambda: condition(self._running), seconds):
                return time.monotonic()
            counts = [len(ids) for ids in self._running]
        raise TimeoutError(f"after {seconds} s these many containers run per engine: {counts}")

    def _follow(self, place: int, answer: http.client.HTTPResponse) -> None:
        try:
            while line := answer.readline():
                event = json.loads(line)
                with self._changed:
                    ids = self._running[place]
                    if event["Action"] == "start":
                        ids.add(event["id"])
                        self.started.add(event["id"])
                        self.starts.append(time.monotonic())
                    else:
                        ids.discard(event["id"])
                        self.ended.add(event["id"])
                    self._changed.notify_all()
        except (OSError, http.client.HTTPException):  # the engine is gone, and its containers with the host
            pass
        with self._changed:
            self._running[place] = set()
            self._changed.notify_all()
