"""The filter of system calls, run here instead of in the kernel."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.runtime.drivers import capability
from swarmlet.runtime.drivers.system_calls import (
    ABIS,
    CLONE,
    CLONE3,
    LET_THROUGH,
    NUMBERS,
    PERSONALITY,
    SOCKET,
    filter_program,
    refused,
)

ALLOWED = 0x7FFF_0000
#: What the kernel takes at most (BPF_MAXINSNS).
INSTRUCTIONS_MAX = 4_096
CLONE_NEWUSER, CLONE_THREAD, SIGCHLD = 0x1000_0000, 0x0001_0000, 17
#: Architecture and column of each kind of program.
KINDS = [(machine, *abi) for machine, abis in ABIS.items() for abi in abis]


def judged(program: bytes, architecture: int, number: int, argument: int = 0) -> int | str:
    """What the filter says to a call: "allowed", or the errno."""
    data = struct.pack("<IIQQ", number, architecture, 0, argument & (2**64 - 1))
    instructions = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    for _ in instructions:
        code, yes, no, operand = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x05:
                at += operand
            case 0x15:
                at += yes if accumulator == operand else no
            case 0x35:
                at += yes if accumulator >= operand else no
            case 0x45:
                at += yes if accumulator & operand else no
            case 0x06:
                return "allowed" if operand == ALLOWED else operand & 0xFFFF
            case _:
                pytest.fail(f"instruction {code:#x}")
    pytest.fail("the filter does not end")


@pytest.mark.parametrize(("machine", "architecture", "column"), KINDS)
def test_what_is_on_the_list_is_refused_and_the_rest_is_not(
    machine: str, architecture: int, column: int
) -> None:
    program = filter_program(machine, ())
    listed = {numbers[column] for numbers in NUMBERS.values()}
    special = {numbers[column] for numbers in (CLONE3,)}
    for number in range(600):
        expected: int | str = (
            errno.EPERM if number in listed else errno.ENOSYS if number in special else "allowed"
        )
        assert judged(program, architecture, number) == expected, number


@pytest.mark.parametrize(("machine", "architecture", "column"), KINDS)
def test_namespaces_are_not_made_threads_are(machine: str, architecture: int, column: int) -> None:
    program = filter_program(machine, ())
    assert judged(program, architecture, CLONE[column], CLONE_NEWUSER | SIGCHLD) == errno.EPERM
    assert judged(program, architecture, CLONE[column], CLONE_THREAD) == "allowed"
    trusted = filter_program(machine, ("sys_admin",))
    assert judged(trusted, architecture, CLONE[column], CLONE_NEWUSER) == "allowed"
    assert judged(trusted, architecture, CLONE3[column]) == "allowed"


@pytest.mark.parametrize(("machine", "architecture", "column"), KINDS)
def test_arguments_that_matter_are_looked_at(machine: str, architecture: int, column: int) -> None:
    program = filter_program(machine, ())
    assert judged(program, architecture, SOCKET[column], 40) == errno.EPERM
    assert judged(program, architecture, SOCKET[column], 2) == "allowed"
    assert judged(program, architecture, PERSONALITY[column], 0xFFFF_FFFF) == "allowed"
    assert judged(program, architecture, PERSONALITY[column], 0x0040_0000) == errno.EPERM


def test_other_kinds_of_programs_are_no_way_around() -> None:
    program = filter_program("x86_64", ())
    assert judged(program, ABIS["x86_64"][0][0], 0x4000_0000 + 1) == errno.ENOSYS
    assert judged(program, 0x1234, 1) == errno.EPERM
    assert filter_program("vax", ()) == b""


@pytest.mark.parametrize("name", sorted(LET_THROUGH))
def test_a_capability_brings_its_calls(name: str) -> None:
    assert name in capability.NAMES
    assert set(LET_THROUGH[name]) <= set(NUMBERS)
    program = filter_program("x86_64", (name,))
    for call in LET_THROUGH[name]:
        if NUMBERS[call][0] >= 0:
            assert judged(program, ABIS["x86_64"][0][0], NUMBERS[call][0]) == "allowed"


def test_the_default_capabilities_bring_none() -> None:
    assert refused(capability.DEFAULT) == list(NUMBERS)


@given(st.sets(st.sampled_from(capability.NAMES)), st.sampled_from(sorted(ABIS)))
def test_every_filter_fits_the_kernel_and_its_jumps_stay_inside(names: set[str], machine: str) -> None:
    instructions = list(struct.iter_unpack("<HBBI", filter_program(machine, sorted(names))))
    assert len(instructions) <= INSTRUCTIONS_MAX
    for at, (code, yes, no, operand) in enumerate(instructions):
        furthest = operand if code == 0x05 else max(yes, no)
        assert at + 1 + furthest <= len(instructions) - (code != 0x06)
    assert instructions[-1][0] == 0x06


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("x86_64-linux-gnu/asm/unistd_64.h", 0),
        ("x86_64-linux-gnu/asm/unistd_32.h", 1),
        ("asm-generic/unistd.h", 2),
    ],
)
def test_the_numbers_are_those_of_the_kernels_headers(header: str, column: int) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip(f"needs {path}")
    found = {
        name: int(number)
        for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", path.read_text())
    }
    special = {"clone": CLONE, "clone3": CLONE3, "personality": PERSONALITY, "socket": SOCKET}
    for name, numbers in {**NUMBERS, **special}.items():
        if name in found and numbers[column] >= 0:
            assert numbers[column] == found[name], name
        elif numbers[column] >= 0:
            # Later than these headers.
            assert numbers[column] > max(found.values()), name
