"""Which system calls an `exec` task is refused, as a filter that the kernel runs. Pure.

The list is what Docker's default profile keeps from a container: calls that change the machine, reach into other
processes' memory or keys, make namespaces (with them an ordinary user gets at parts of the kernel that are root's
otherwise), or have had more holes than users. Those that belong to a capability are let through with it.

Numbers: the kernel's tables (arch/*/syscall*.tbl, asm-generic/unistd.h). Form: seccomp(2), linux/filter.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Iterator

#: By machine as uname(2) names it: the kinds of programs that run there, each with its `AUDIT_ARCH_*` and the column
#: of its numbers below.
ABIS = {
    "x86_64": ((0xC000_003E, 0), (0x4000_0003, 1)),
    "aarch64": ((0xC000_00B7, 2), (0x4000_0028, 3)),
}
#: Call -> number for x86_64, i386, aarch64, arm (EABI); -1 where it does not exist. From 424 on all count alike.
NUMBERS = {
    "_sysctl": (156, 149, -1, 149),
    "acct": (163, 51, 89, 51),
    "add_key": (248, 286, 217, 309),
    "bpf": (321, 357, 280, 386),
    "clock_adjtime": (305, 343, 266, 372),
    "clock_adjtime64": (-1, 405, -1, 405),
    "clock_settime": (227, 264, 112, 262),
    "clock_settime64": (-1, 404, -1, 404),
    "create_module": (174, 127, -1, -1),
    "delete_module": (176, 129, 106, 129),
    "fanotify_init": (300, 338, 262, 367),
    "finit_module": (313, 350, 273, 379),
    "fsconfig": (431, 431, 431, 431),
    "fsmount": (432, 432, 432, 432),
    "fsopen": (430, 430, 430, 430),
    "fspick": (433, 433, 433, 433),
    "get_kernel_syms": (177, 130, -1, -1),
    "get_mempolicy": (239, 275, 236, 320),
    "init_module": (175, 128, 105, 128),
    "io_uring_enter": (426, 426, 426, 426),
    "io_uring_register": (427, 427, 427, 427),
    "io_uring_setup": (425, 425, 425, 425),
    "ioperm": (173, 101, -1, -1),
    "iopl": (172, 110, -1, -1),
    "kcmp": (312, 349, 272, 378),
    "kexec_file_load": (320, -1, 294, 401),
    "kexec_load": (246, 283, 104, 347),
    "keyctl": (250, 288, 219, 311),
    "lookup_dcookie": (212, 253, 18, 249),
    "mbind": (237, 274, 235, 319),
    "migrate_pages": (256, 294, 238, 400),
    "mount": (165, 21, 40, 21),
    "mount_setattr": (442, 442, 442, 442),
    "move_mount": (429, 429, 429, 429),
    "move_pages": (279, 317, 239, 344),
    "nfsservctl": (180, 169, 42, 169),
    "open_by_handle_at": (304, 342, 265, 371),
    "open_tree": (428, 428, 428, 428),
    "open_tree_attr": (467, 467, 467, 467),
    "perf_event_open": (298, 336, 241, 364),
    "pidfd_getfd": (438, 438, 438, 438),
    "pivot_root": (155, 217, 41, 218),
    "query_module": (178, 167, -1, -1),
    "quotactl": (179, 131, 60, 131),
    "quotactl_fd": (443, 443, 443, 443),
    "reboot": (169, 88, 142, 88),
    "request_key": (249, 287, 218, 310),
    "set_mempolicy": (238, 276, 237, 321),
    "set_mempolicy_home_node": (450, 450, 450, 450),
    "setns": (308, 346, 268, 375),
    "settimeofday": (164, 79, 170, 79),
    "stime": (-1, 25, -1, -1),
    "swapoff": (168, 115, 225, 115),
    "swapon": (167, 87, 224, 87),
    "sysfs": (139, 135, -1, 135),
    "syslog": (103, 103, 116, 103),
    "umount": (-1, 22, -1, -1),
    "umount2": (166, 52, 39, 52),
    "unshare": (272, 310, 97, 337),
    "uselib": (134, 86, -1, 86),
    "userfaultfd": (323, 374, 282, 388),
    "ustat": (136, 62, -1, 62),
    "vhangup": (153, 111, 58, 111),
    "vm86": (-1, 166, -1, -1),
    "vm86old": (-1, 113, -1, -1),
}
#: Looked at more closely.
CLONE, CLONE3 = (56, 120, 220, 120), (435, 435, 435, 435)
PERSONALITY = (135, 136, 92, 136)
SOCKET = (41, 359, 198, 281)
#: Capability -> the calls that come with it; the others come with none.
LET_THROUGH = {
    "bpf": ("bpf",),
    "dac_read_search": ("open_by_handle_at",),
    "perfmon": ("perf_event_open",),
    "sys_admin": (
        "bpf", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount", "mount_setattr",
        "move_mount", "open_tree", "open_tree_attr", "perf_event_open", "pivot_root", "quotactl", "quotactl_fd",
        "setns", "swapoff", "swapon", "syslog", "umount", "umount2", "unshare",
    ),
    "sys_boot": ("reboot",),
    "sys_module": ("delete_module", "finit_module", "init_module"),
    "sys_nice": ("get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node"),
    "sys_pacct": ("acct",),
    "sys_ptrace": ("kcmp", "pidfd_getfd"),
    "sys_rawio": ("ioperm", "iopl"),
    "sys_time": ("clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "settimeofday", "stime"),
    "sys_tty_config": ("vhangup",),
    "syslog": ("syslog",),
}  # fmt: skip
#: CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET.
CLONE_NAMESPACES = 0x7E02_0000
#: PER_LINUX and PER_LINUX32, each with and without UNAME26, and the question what it is.
PERSONALITIES = (0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)
#: The hypervisor's sockets know no network namespace.
AF_VSOCK = 40
#: Numbers of x86_64 from here on are the ABI x32, which hardly any kernel has and which would be a way around.
X32_FIRST = 0x4000_0000

#: Where in `struct seccomp_data` things are (little-endian, as all of `ABIS` are).
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
LOAD, JUMP, JUMP_EQUAL, JUMP_FROM, JUMP_BITS, RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
ALLOW = 0x7FFF_0000
REFUSE = 0x0005_0000 | errno.EPERM
#: As a kernel that has no such call: the C library then takes the older one.
NOT_THERE = 0x0005_0000 | errno.ENOSYS

#: Operation, how far to jump if true and if false, operand.
Instruction = tuple[int, int, int, int]


def is_known(machine: str) -> bool:
    """Whether there is a filter for this machine."""
    return machine in ABIS


def filter_program(machine: str, capabilities: Collection[str]) -> bytes:
    """The filter for a task with these capabilities: an array of `struct sock_filter`; empty for a machine not known."""
    found: list[Instruction] = []
    for architecture, column in ABIS.get(machine, ()):
        body = list(_calls(column, capabilities, is_x32_possible=machine == "x86_64" and column == 0))
        found += [
            (LOAD, 0, 0, ARCHITECTURE_AT),
            (JUMP_EQUAL, 1, 0, architecture),
            (JUMP, 0, 0, len(body)),
            *body,
        ]
    if found:
        found.append((RETURN, 0, 0, REFUSE))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in found)


def refused(capabilities: Collection[str]) -> list[str]:
    """The calls that a task with these capabilities is refused whatever their arguments, by name."""
    through = {name for capability in capabilities for name in LET_THROUGH.get(capability, ())}
    return [name for name in NUMBERS if name not in through]


def _calls(column: int, capabilities: Collection[str], *, is_x32_possible: bool) -> Iterator[Instruction]:
    """What happens to the calls of one kind of programs; always ends with a return."""
    yield LOAD, 0, 0, NUMBER_AT
    if is_x32_possible:
        yield JUMP_FROM, 0, 1, X32_FIRST
        yield RETURN, 0, 0, NOT_THERE
    for name in refused(capabilities):
        if NUMBERS[name][column] >= 0:
            yield JUMP_EQUAL, 0, 1, NUMBERS[name][column]
            yield RETURN, 0, 0, REFUSE
    if "sys_admin" not in capabilities:
        # Its flags lie in memory, where a filter cannot look.
        yield JUMP_EQUAL, 0, 1, CLONE3[column]
        yield RETURN, 0, 0, NOT_THERE
        yield from _on_argument(CLONE[column], [(JUMP_BITS, 0, 1, CLONE_NAMESPACES)], REFUSE, ALLOW)
    known = [(JUMP_EQUAL, 0, 1, each) for each in PERSONALITIES]
    yield from _on_argument(PERSONALITY[column], known, ALLOW, REFUSE)
    yield from _on_argument(SOCKET[column], [(JUMP_EQUAL, 0, 1, AF_VSOCK)], REFUSE, ALLOW)
    yield RETURN, 0, 0, ALLOW


def _on_argument(number: int, tests: list[Instruction], found: int, otherwise: int) -> Iterator[Instruction]:
    """For one call: `found` where the low half of its first argument passes any of the tests."""
    yield JUMP_EQUAL, 0, 2 * len(tests) + 2, number
    yield LOAD, 0, 0, FIRST_ARGUMENT_AT
    for test in tests:
        yield test
        yield RETURN, 0, 0, found
    yield RETURN, 0, 0, otherwise
