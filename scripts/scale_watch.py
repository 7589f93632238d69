"""What a process spends its time on, seen from inside: stalls of its event loop, and which part of the code runs.

The loop is asked every few milliseconds whether it is there; how late it answers is a stall, whatever the cause. What a
stall was made of the kernel tells: processor time of the loop's own thread, time in which that thread was ready and
another thread or process had the processor, and the rest, in which it waited for the interpreter (another thread of the
process held it) or for the disk; beside these, what the hypervisor took of all processors meanwhile. A thread looks fifty
times a second where the loop's thread is, and charges the processor time since then to that part.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

#: The loop is asked this often.
ASK_SECONDS = 0.01
SAMPLE_SECONDS = 0.02
#: Stalls from this on are taken apart; so many of the longest are kept.
STALL_SECONDS = 0.02
STALLS_MAX = 12
#: Stalls are counted from these lengths on, in milliseconds.
COUNTED_MS = (20, 50, 100)
#: Samples kept to say what ran during a stall: of the last ten seconds.
SAMPLES_MAX = 1000
FRAMES_MAX = 40
#: Less than this of all other threads is mostly the watch itself.
BUSY_SECONDS = 0.0005
#: Innermost first: the first function of a stack that is named here says what the time was for.
PARTS = {
    ("snapshot_bytes.py", "save"): "snapshot",
    ("disk_log.py", "save_snapshot"): "snapshot to disk",
    ("apply_reports.py", "report"): "apply reports",
    ("apply_plan.py", "apply_plan"): "apply plans",
    ("apply.py", "apply"): "apply others",
    ("apply.py", "decode_entry"): "decode entries",
    ("node_feed.py", "_on_changes"): "tell streams",
    ("service.py", "_take_changes"): "tell the leader",
    ("watch.py", "notify"): "tell watches",
    ("node_feed.py", "serve"): "stream to nodes",
    ("node_feed.py", "run"): "stream to nodes",
    ("node_service.py", "on_report"): "take reports",
    ("report_gathering.py", "run"): "gather reports",
    ("report_gathering.py", "_submit_some"): "gather reports",
    ("node_failure.py", "look"): "leader: failures",
    ("deployment_watch.py", "looking"): "leader: deployments",
    ("autopilot.py", "look"): "leader: autopilot",
    ("drain.py", "drain_nodes"): "leader: drains",
    ("service.py", "_look_loop"): "leader: looks",
    ("service.py", "_rebalance_loop"): "leader: rebalancing",
    ("service.py", "_schedule_loop"): "leader: evaluations",
    ("service.py", "_outbox_loop"): "leader: outbox",
    ("batch.py", "schedule_batch"): "schedule",
    ("consensus.py", "receive"): "raft",
    ("consensus.py", "pump"): "raft",
    ("consensus.py", "on_durable"): "raft",
    ("consensus.py", "_on_timer"): "raft",
    ("heap.py", "keep_collections_short"): "garbage",
    ("shell.py", "_read"): "gossip",
    ("connection.py", "data_received"): "mesh: read",
    ("connection.py", "_flush"): "mesh: write",
    ("connection.py", "_check_alive"): "mesh: keepalive",
    ("jobs.py", "submit_job"): "HTTP",
}
REST, LOOP = "other", "loop and TLS"
#: The kernel counts in these what the hypervisor took.
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


class Moment(NamedTuple):
    """When the loop was asked, and what had been until then (seconds)."""

    at: float
    #: Of the loop's thread since it began: on a processor, and ready without one.
    running: float
    waiting: float
    #: By the hypervisor, of all processors.
    stolen: float
    collected: float
    events: Counter[str]


class Sample(NamedTuple):
    """Where the threads were at one moment (monotonic seconds)."""

    at: float
    loop: str
    others: str


@dataclass
class Collections:
    """Of one generation; seconds of processor time."""

    number: int = 0
    seconds: float = 0.0
    longest_seconds: float = 0.0


class Watch:
    """Watches the loop that `run` runs on."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.stall_seconds = 0.0
        #: The longest stall but for the time in which others had the processor.
        self.served_stall_seconds = 0.0
        #: Processor time of the loop's thread between two questions: stalls that no other process causes.
        self.turn_seconds = 0.0
        self.stalls: list[dict[str, Any]] = []
        self.turns: list[dict[str, Any]] = []
        self.counted = dict.fromkeys(COUNTED_MS, 0)
        self.parts: dict[str, float] = {}
        #: By generation.
        self.collections: dict[int, Collections] = {}
        self._collected = 0.0
        self._collecting_since = 0.0
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._is_over = threading.Event()
        self._begun = time.monotonic()
        #: What else happened, counted by whoever has this watch.
        self.events: Counter[str] = Counter()
        gc.callbacks.append(self._on_collection)

    def reset(self) -> None:
        """Begin to measure now."""
        self.stall_seconds = self.served_stall_seconds = self.turn_seconds = 0.0
        self.stalls, self.turns, self.parts, self.collections = [], [], {}, {}
        self.counted = dict.fromkeys(COUNTED_MS, 0)
        self._begun = time.monotonic()
        self.events.clear()

    async def run(self) -> None:
        """Ask the loop whether it is there, until cancelled."""
        sampler = threading.Thread(target=self._sample, name="watch", daemon=True)
        sampler.start()
        told = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        machine = os.open("/proc/stat", os.O_RDONLY)
        try:
            while True:
                before = self._moment(told, machine)
                await asyncio.sleep(ASK_SECONDS)
                self._note(before, self._moment(told, machine))
        finally:
            self._is_over.set()
            os.close(told)
            os.close(machine)

    def _moment(self, told: int, machine: int) -> Moment:
        running, waiting = _spent(told)
        return Moment(
            at=time.monotonic(),
            running=running,
            waiting=waiting,
            stolen=_stolen(machine),
            collected=self._collected,
            events=self.events.copy(),
        )

    def _note(self, before: Moment, after: Moment) -> None:
        late = after.at - before.at - ASK_SECONDS
        own, waiting = after.running - before.running, after.waiting - before.waiting
        if late > STALL_SECONDS or own > STALL_SECONDS:
            self._keep(before, after, late)
        self.turn_seconds = max(self.turn_seconds, own)
        self.stall_seconds = max(self.stall_seconds, late)
        self.served_stall_seconds = max(self.served_stall_seconds, late - waiting)

    def _keep(self, before: Moment, after: Moment, late: float) -> None:
        for limit in self.counted:
            self.counted[limit] += late * 1000 >= limit
        # The question waited for its time first: what else happened then is no part of the stall, but small.
        own, waiting = after.running - before.running, after.waiting - before.waiting
        rest = max(0.0, late - own - waiting)
        ran = [each for each in tuple(self._samples) if before.at + ASK_SECONDS / 2 <= each.at <= after.at]
        stall = {
            "at": round(before.at - self._begun, 2),
            "ms": round(late * 1000),
            "own": round(own * 1000),
            "no processor": round(waiting * 1000),
            "interpreter or disk": round(rest * 1000),
            "stolen of all": round((after.stolen - before.stolen) * 1000),
            "collecting": round((after.collected - before.collected) * 1000),
            "events": dict(sorted((after.events - before.events).items())),
            "loop": dict(Counter(each.loop for each in ran).most_common(5)),
            "others": dict(Counter(each.others for each in ran if each.others).most_common(3)),
        }
        self.stalls = sorted([*self.stalls, stall], key=lambda each: -each["ms"])[:STALLS_MAX]
        self.turns = sorted([*self.turns, stall], key=lambda each: -each["own"])[:STALLS_MAX]

    def facts(self) -> dict[str, Any]:
        """What was measured since the reset."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "longest_loop_stall_ms": round(self.stall_seconds * 1000, 1),
            "longest_served_stall_ms": round(self.served_stall_seconds * 1000, 1),
            "longest_turn_cpu_ms": round(self.turn_seconds * 1000, 1),
            "collections": {
                str(generation): {
                    "number": each.number,
                    "ms": round(each.seconds * 1000),
                    "longest": round(each.longest_seconds * 1000, 1),
                }
                for generation, each in sorted(self.collections.items())
            },
            "stalls_from_ms": {str(limit): number for limit, number in self.counted.items()},
            "stalls": self.stalls,
            "turns": self.turns,
            "events": dict(sorted(self.events.items())),
            "peak_rss_mib": round(usage.ru_maxrss / 1024, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "parts": {
                name: round(seconds, 2)
                for name, seconds in sorted(self.parts.items(), key=lambda each: -each[1])
            },
        }

    def _on_collection(self, phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = time.thread_time()
            return
        pause = time.thread_time() - self._collecting_since
        self._collected += pause
        known = self.collections.setdefault(about["generation"], Collections())
        known.number += 1
        known.seconds += pause
        known.longest_seconds = max(known.longest_seconds, pause)

    def _sample(self) -> None:
        main = time.clock_gettime(self._clock)
        others = time.process_time() - main
        while not self._is_over.wait(SAMPLE_SECONDS):
            frames = sys._current_frames()  # noqa: SLF001 -- there is no other way to see a thread from outside
            now = time.clock_gettime(self._clock)
            all_others = time.process_time() - now
            part = _part_of(frames.get(self._thread), LOOP)
            self.parts[part] = self.parts.get(part, 0.0) + now - main
            name = ""
            if all_others - others > BUSY_SECONDS:
                busy = {
                    _part_of(frame, "")
                    for thread, frame in frames.items()
                    if thread not in {self._thread, threading.get_ident()}
                } - {""}
                name = "thread: " + (" + ".join(sorted(busy)) or REST)
                self.parts[name] = self.parts.get(name, 0.0) + all_others - others
            self._samples.append(Sample(time.monotonic(), part, name))
            main, others = now, all_others


def _spent(told: int) -> tuple[float, float]:
    """From a thread's open `schedstat`: seconds on a processor, and ready without one."""
    running, waiting, _ = os.pread(told, 128, 0).split()
    return int(running) / 1e9, int(waiting) / 1e9


def _stolen(machine: int) -> float:
    """From the open `/proc/stat`: seconds that the hypervisor took of all processors together."""
    return int(os.pread(machine, 256, 0).split(maxsplit=9)[8]) * TICK_SECONDS


def _part_of(frame: FrameType | None, rest: str) -> str:
    seen = 0
    while frame is not None and seen < FRAMES_MAX:
        code = frame.f_code
        part = PARTS.get((code.co_filename.rpartition("/")[2], code.co_name))
        if part is not None:
            return part
        if seen == 0 and "swarmlet" in code.co_filename:
            rest = f"{REST}: {code.co_name}" if rest == LOOP else rest
        frame = frame.f_back
        seen += 1
    return rest
