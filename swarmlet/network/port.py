"""Who holds a port, as far as /proc lets us see it."""

from __future__ import annotations

import contextlib
import os

#: "listening" in /proc/net/tcp.
_LISTEN = "0A"


def owner_of(port: int, protocol: str = "tcp") -> str:
    """Name the process that has a TCP (or UDP) port: "nginx (pid 812)", or "another process"."""
    inodes = set()
    for table in (f"/proc/net/{protocol}", f"/proc/net/{protocol}6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            for line in lines:
                fields = line.split()
                is_open = len(fields) > 9 and (protocol == "udp" or fields[3] == _LISTEN)
                if is_open and fields[1].endswith(f":{port:04X}"):
                    inodes.add(f"socket:[{fields[9]}]")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}") in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8") as name:
                        return f"{name.read().strip()} (pid {pid})"
    return "another process"
