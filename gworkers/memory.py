"""How much memory this process has, as /proc tells it."""

from __future__ import annotations

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
