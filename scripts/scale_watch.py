"""What a process spends its time on, seen from inside: stalls of its event loop, and which part of the code runs.

The loop is asked every few milliseconds whether it is there; how late it answers is a stall, whatever the cause. A
thread looks a fifty times a second where the loop's thread is, and charges the processor time since then to that part.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import threading
import time
from types import FrameType
from typing import Any

#: The loop is asked this often.
ASK_SECONDS = 0.01
SAMPLE_SECONDS = 0.02
FRAMES_MAX = 40
#: Less than this of all other threads is mostly the watch itself.
BUSY_SECONDS = 0.0005
#: Innermost first: the first function of a stack that is named here says what the time was for.
PARTS = {
    ("snapshot_bytes.py", "save"): "snapshot",
    ("apply_reports.py", "report"): "apply reports",
    ("apply_plan.py", "apply_plan"): "apply plans",
    ("apply.py", "apply"): "apply others",
    ("apply.py", "decode_entry"): "decode entries",
    ("watch.py", "notify"): "tell watches",
    ("node_feed.py", "serve"): "stream to nodes",
    ("node_feed.py", "run"): "stream to nodes",
    ("node_service.py", "on_report"): "take reports",
    ("report_gathering.py", "run"): "gather reports",
    ("service.py", "_look_loop"): "leader: looks",
    ("service.py", "_schedule_loop"): "leader: evaluations",
    ("service.py", "_outbox_loop"): "leader: outbox",
    ("batch.py", "schedule_batch"): "schedule",
    ("consensus.py", "receive"): "raft",
    ("consensus.py", "pump"): "raft",
    ("consensus.py", "on_durable"): "raft",
    ("consensus.py", "_on_timer"): "raft",
    ("shell.py", "_read"): "gossip",
    ("connection.py", "data_received"): "mesh: read",
    ("connection.py", "_flush"): "mesh: write",
    ("connection.py", "_check_alive"): "mesh: keepalive",
    ("jobs.py", "submit_job"): "HTTP",
}
REST, LOOP = "other", "loop and TLS"


class Watch:
    """Watches the loop that `run` runs on."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.stall_seconds = 0.0
        #: Processor time of the loop's thread between two questions: stalls that no other process causes.
        self.turn_seconds = 0.0
        self.turns: list[tuple[float, str]] = []
        self.stalls: list[tuple[float, float, str]] = []
        self.parts: dict[str, float] = {}
        self.pause_seconds = 0.0
        self._collecting_since = 0.0
        self._part = ""
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._is_over = threading.Event()
        self._scheduler: dict[int, tuple[int, float]] = {}
        gc.callbacks.append(self._on_collection)

    def reset(self) -> None:
        """Begin to measure now."""
        self.stall_seconds = self.turn_seconds = self.pause_seconds = 0.0
        self.stalls, self.turns, self.parts = [], [], {}

    async def run(self) -> None:
        """Ask the loop whether it is there, until cancelled."""
        sampler = threading.Thread(target=self._sample, name="watch", daemon=True)
        sampler.start()
        try:
            while True:
                asked, spent = time.monotonic(), time.thread_time()
                await asyncio.sleep(ASK_SECONDS)
                late = time.monotonic() - asked - ASK_SECONDS
                spent = time.thread_time() - spent
                if spent > 0.04:
                    self.turns.append((round(spent, 3), self._part))
                    self.turns = sorted(self.turns, reverse=True)[:12]
                self.turn_seconds = max(self.turn_seconds, spent)
                if late > 0.02:
                    self.stalls.append((round(asked, 3), round(late, 4), self._part))
                    self.stalls = sorted(self.stalls, key=lambda each: -each[1])[:20]
                self.stall_seconds = max(self.stall_seconds, late)
        finally:
            self._is_over.set()

    def facts(self) -> dict[str, Any]:
        """What was measured since the reset."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "longest_loop_stall_ms": round(self.stall_seconds * 1000, 1),
            "longest_turn_cpu_ms": round(self.turn_seconds * 1000, 1),
            "longest_collection_ms": round(self.pause_seconds * 1000, 1),
            "stalls": self.stalls,
            "turns": self.turns,
            "peak_rss_mib": round(usage.ru_maxrss / 1024, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "parts": {
                name: round(seconds, 2)
                for name, seconds in sorted(self.parts.items(), key=lambda each: -each[1])
            },
        }

    def _on_collection(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = time.monotonic()
        else:
            self.pause_seconds = max(self.pause_seconds, time.monotonic() - self._collecting_since)

    def _sample(self) -> None:
        main = time.clock_gettime(self._clock)
        others = time.process_time() - main
        while not self._is_over.wait(SAMPLE_SECONDS):
            frames = sys._current_frames()  # noqa: SLF001 -- there is no other way to see a thread from outside
            now = time.clock_gettime(self._clock)
            all_others = time.process_time() - now
            self._part = _part_of(frames.get(self._thread), LOOP)
            self.parts[self._part] = self.parts.get(self._part, 0.0) + now - main
            if all_others - others > BUSY_SECONDS:
                busy = {
                    _part_of(frame, "")
                    for thread, frame in frames.items()
                    if thread not in {self._thread, threading.get_ident()}
                } - {""}
                name = "thread: " + (" + ".join(sorted(busy)) or REST)
                self.parts[name] = self.parts.get(name, 0.0) + all_others - others
            main, others = now, all_others


def _part_of(frame: FrameType | None, rest: str) -> str:
    seen = 0
    while frame is not None and seen < FRAMES_MAX:
        code = frame.f_code
        part = PARTS.get((code.co_filename.rpartition("/")[2], code.co_name))
        if part is not None:
            return part
        if seen == 0 and "swarmlet" in code.co_filename:
            rest = REST if rest == LOOP else rest
        frame = frame.f_back
        seen += 1
    return rest
