"""CPU time and memory of process trees, as the kernel counts them. Linux only.

The clocks are those of whole processes in nanoseconds, so that threads that have ended still count; a process that
ends between two readings takes its time with it, so measure trees that stay.
"""

import contextlib
import ctypes
import os
import time
from collections.abc import Iterable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)


def family(pids: Iterable[int]) -> list[int]:
    """These processes and all that descend from them."""
    found: list[int] = []
    todo = list(pids)
    while todo:
        pid = todo.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
            found.append(pid)
    return found


def cpu_ns(pids: Iterable[int]) -> int:
    """User and system time so far of these processes and all that descend from them."""
    total = 0
    for pid in family(pids):
        clock = ctypes.c_int()
        if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)) == 0:  # else it has just ended
            with contextlib.suppress(OSError):
                total += time.clock_gettime_ns(clock.value)
    return total


def pss_mib(pids: Iterable[int]) -> float:
    """Their proportional set size: a page that n processes share counts 1/n for each."""
    kib = 0
    for pid in family(pids):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def pin(core: int, pid: int = 0) -> None:
    """Let a process (0: this one, and what it starts from now on) run on this core alone."""
    os.sched_setaffinity(pid, {core})
