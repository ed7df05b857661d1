"""What ``ps`` and ``top`` show of a process, where setproctitle is installed (the extra ``title``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

_set: Callable[[str], None] | None = None
with contextlib.suppress(ImportError):
    from setproctitle import setproctitle as _set


def show(text: str) -> None:
    """This is what the process is doing now, in a few words."""
    if _set is not None:
        _set(f"gworkers: {text}")
