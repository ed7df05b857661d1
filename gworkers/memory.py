"""How much memory this process has, and how many threads and files, as /proc tells it."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path


def resident() -> int:
    """Bytes in memory; where /proc does not tell, the most there ever were."""
    return _statm(1) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def addresses() -> int:
    """Bytes of its address space, 0 where /proc does not tell."""
    return _statm(0) or 0


def _statm(column: int) -> int | None:
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[column]) * resource.getpagesize()
    return None


def threads() -> int | None:
    """How many native threads it has; None where /proc does not tell."""
    return _entries("/proc/self/task")


def descriptors() -> int | None:
    """How many files and connections it has open; None where /proc does not tell."""
    return _entries("/proc/self/fd")


def _entries(folder: str) -> int | None:
    with suppress(OSError):
        return len(os.listdir(folder))
    return None
