"""The filter of system calls: those by which a program could get around its limits, or look into others.

Limits of the kernel do not count the memory of `memfd_create` and of System V; the others of the list reach other
processes, keys or parts of the kernel that no solution of a task needs. A refused call fails with EPERM.
"""

import platform
import struct

from aipo.errors import ConfigError, one_of

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
"""Operations of classic BPF (linux/bpf_common.h)."""
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050001, 0x7FFF0000
"""What becomes of the call (linux/seccomp.h); 1 is EPERM."""
_NUMBER_AT, _MACHINE_AT = 0, 4
"""Where `struct seccomp_data` has the call's number and the machine."""
_X32 = 0x40000000
"""Numbers from here are the same calls of x86-64 once more, with 32-bit addresses."""

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_REFUSED = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
"""By name: its number on x86-64 and on ARM (asm/unistd.h)."""


def call_filter() -> bytes:
    """The filter for this machine, as bubblewrap's `--seccomp` reads it.

    Raises:
        ConfigError: no filter is written for this kind of processor.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise ConfigError(
            one_of("processor", machine, f"one of {list(_MACHINES)}", "the filter of system calls")
        )
    column = list(_MACHINES).index(machine)
    numbers = sorted(row[column] for row in _REFUSED.values())
    lines = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, _MACHINES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, len(numbers) + 1, 0, _X32),
        # From each of them as far as the last line.
        *((_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
