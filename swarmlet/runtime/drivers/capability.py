"""Linux capabilities as job files name them. Pure. Source: capabilities(7), linux/capability.h."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: In the kernel's numbering.
NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
#: What a task has unless it drops or adds: Nomad's list for exec.
DEFAULT = (
    "audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod", "net_bind_service", "setfcap",
    "setgid", "setpcap", "setuid", "sys_chroot",
)  # fmt: skip
#: Those of them that do not make an ordinary user as good as root.
HARMLESS = ("audit_write", "fsetid", "kill", "net_bind_service", "setpcap", "sys_chroot")
ALL = "all"


def name_of(text: str) -> str:
    """`CAP_NET_RAW`, `NET_RAW` or `net_raw` as `net_raw`."""
    return text.lower().removeprefix("cap_")


def unknown(texts: Iterable[str]) -> list[str]:
    """Those that are no capability."""
    return [text for text in texts if name_of(text) not in {*NAMES, ALL}]


def numbers(names: Iterable[str]) -> list[int]:
    """The kernel's numbers, ascending."""
    return sorted({NAMES.index(name) for name in names})


def kept(add: Sequence[str], drop: Sequence[str]) -> tuple[str, ...]:
    """The default ones without `drop` and then with `add`, as Nomad reckons; `all` is each that there is."""
    dropped = {name_of(text) for text in drop}
    found = set() if ALL in dropped else set(DEFAULT) - dropped
    return tuple(name for name in NAMES if name in found | set(added(add)))


def added(add: Sequence[str]) -> tuple[str, ...]:
    """What `add` names."""
    names = {name_of(text) for text in add}
    return NAMES if ALL in names else tuple(name for name in NAMES if name in names)
