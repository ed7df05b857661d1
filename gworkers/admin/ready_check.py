"""The application's own word on whether it is ready: ``hooks.ready``, asked when ``/readyz`` is.

It runs on a native thread (with ``executor: greenlet`` in a greenlet), never two at a time, so that a
database that hangs takes one thread and not one for each probe; what it said counts for a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent

from gworkers.errors import one_line

#: Seconds that a probe waits for it, and for how long its answer counts.
PATIENCE = 1.0
KEPT = 1.0


class ReadyCheck:
    """check: ready unless it raises or returns False. spawn: runs it and returns something to wait
    for, as gevent's threadpool and pools do. On the hub."""

    def __init__(self, check: Callable[[], object], spawn: Callable[[Callable[[], None]], Any]) -> None:
        self._check = check
        self._spawn = spawn
        self._running: Any = None
        self._begun = 0.0
        self._told = -KEPT  # time.monotonic() of the last answer
        self._wrong: str | None = None

    def wrong(self) -> str | None:
        """Why it is not ready; None when it is. Waits PATIENCE at the most."""
        if self._running is None and time.monotonic() - self._told >= KEPT:
            self._begun = time.monotonic()
            self._running = self._spawn(self._run)
        if self._running is not None:
            gevent.wait([self._running], timeout=max(0.0, self._begun + PATIENCE - time.monotonic()))
        if self._running is not None and not self._running.ready():
            return f"hooks.ready has not answered for {time.monotonic() - self._begun:.0f} s"
        self._running = None
        return self._wrong

    def _run(self) -> None:
        try:
            wrong = "hooks.ready returned False" if self._check() is False else None
        except BaseException as error:
            wrong = f"hooks.ready: {one_line(error)}"
        self._wrong, self._told = wrong, time.monotonic()
