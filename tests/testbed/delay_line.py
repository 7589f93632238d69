"""Delay and jitter in user space: a thread that carries frames between two interfaces, each when its time has come.

Works on packet sockets with virtio headers, so that unfinished checksums and large segments pass as they are.
Source: packet(7) (PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING).
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import selectors
import socket
import threading
import time

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
#: A 64 KiB segment, its link header and the virtio header.
FRAME_BYTES_MAX = 66_000
#: About a second of a busy wire; beyond it frames are lost, as in any queue.
FRAMES_HELD_MAX = 20_000
#: Frames taken from one socket before the clock is looked at again.
BATCH = 64


class DelayLine:
    """Carries frames of any number of hosts: outward ones are held for the delay, inward ones pass at once.

    So a frame between two hosts is held once, and a round trip costs twice the delay.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._delay = 0.0
        self._jitter = 0.0
        self._held: list[tuple[float, int, bytes, socket.socket]] = []
        self._count = 0
        self._sockets: dict[int, tuple[socket.socket, socket.socket]] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="delay-line", daemon=True)
        self._thread.start()

    @staticmethod
    def open(interface: str) -> socket.socket:
        """A packet socket on an interface of the calling thread's network namespace."""
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        opened.bind((interface, ETH_P_ALL))
        opened.setblocking(False)
        return opened

    def set(self, delay: float, jitter: float) -> None:
        """Hold frames from now on for `delay` s plus a random part of `jitter` s."""
        with self._lock:
            self._delay, self._jitter = delay, jitter

    def add(self, number: int, near: socket.socket, far: socket.socket) -> None:
        """Carry the frames of one host between its own interface (near) and the bridge's (far)."""
        with self._lock:
            self._sockets[number] = (near, far)
            self._selector.register(near, selectors.EVENT_READ, (far, True))
            self._selector.register(far, selectors.EVENT_READ, (near, False))
        self._wake()

    def remove(self, number: int) -> None:
        """Stop carrying for a host; what is held for it is lost."""
        with self._lock:
            pair = self._sockets.pop(number)
            for each in pair:
                self._selector.unregister(each)
                each.close()
            self._held = [frame for frame in self._held if frame[3] not in pair]
            heapq.heapify(self._held)
        self._wake()

    def close(self) -> None:
        """End the thread and close every socket."""
        self._stop = True
        self._wake()
        self._thread.join()
        for pair in self._sockets.values():
            for each in pair:
                each.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"w")

    def _run(self) -> None:
        while not self._stop:
            with self._lock:
                wait = max(0.0, self._held[0][0] - time.monotonic()) if self._held else None
            ready = self._selector.select(wait)
            with self._lock:
                for key, _ in ready:
                    if key.fd == self._wake_read:
                        os.read(self._wake_read, 4096)
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() >= 0:
                        self._take(key.fileobj, *key.data)
                self._release(time.monotonic())

    def _take(self, source: socket.socket, target: socket.socket, outward: bool) -> None:
        for _ in range(BATCH):
            try:
                frame = source.recv(FRAME_BYTES_MAX)
            except OSError:  # nothing more to read, or the link is down
                return
            if not outward:
                _send(target, frame)
            elif len(self._held) < FRAMES_HELD_MAX:
                self._count += 1
                due = time.monotonic() + self._delay + self._jitter * self._random.random()
                heapq.heappush(self._held, (due, self._count, frame, target))

    def _release(self, now: float) -> None:
        while self._held and self._held[0][0] <= now:
            _, _, frame, target = heapq.heappop(self._held)
            _send(target, frame)


def _send(target: socket.socket, frame: bytes) -> None:
    # A link that is down, or a full queue: a frame is lost, as on a wire.
    with contextlib.suppress(OSError):
        target.send(frame)
