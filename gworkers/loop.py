"""One way to run what lives as long as the process, so that none of it dies alone.

A Loop is a greenlet with a name. What its function raises and nobody expected ends the process: a
GworkersError with its own sentence, anything else with a sentence that names the loop, status 70,
and the trace in the log. So does a function that comes back though it was to go on for ever.

    self._loop = Loop("retries", self._run, fatal)
    self._loop.start()
    self._loop.stop()
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent

from gworkers.errors import FatalError, GworkersError, one_line

log = logging.getLogger(__name__)

#: What ends the process because of an error. Does not block; the first error counts.
Fatal = Callable[[BaseException], None]


class Loop:
    """``run`` in a greenlet of its own. ends: it may come back, because it has an end (a worker, a
    look-up)."""

    def __init__(self, name: str, run: Callable[[], None], fatal: Fatal, *, ends: bool = False) -> None:
        self.name = name
        self._run = run
        self._fatal = fatal
        self._ends = ends
        self.greenlet = gevent.Greenlet(self._guarded)

    def start(self) -> Loop:
        self.greenlet.start()
        return self

    def start_later(self, seconds: float) -> Loop:
        self.greenlet.start_later(seconds)
        return self

    def stop(self) -> None:
        """End it where it waits. Does not block; nothing happens to one that has ended or has not
        begun."""
        self.greenlet.kill(block=False)

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return bool(self.greenlet.dead)

    def _guarded(self) -> None:
        try:
            self._run()
            if self._ends:
                return
            error: BaseException = FatalError(f"the loop {self.name!r} has ended, and it never should; please report it")
        except gevent.GreenletExit:
            raise
        except GworkersError as expected:
            error = expected
        except BaseException as unexpected:
            log.error("the loop %r failed", self.name, exc_info=True)
            error = FatalError(f"the loop {self.name!r} failed: {one_line(unexpected)}; the trace is above, please report it")
        self._fatal(error)


def after(seconds: float, name: str, fatal: Fatal, run: Callable[..., Any], *arguments: Any) -> Loop:
    """Call ``run(*arguments)`` once, ``seconds`` from now, as a loop that ends."""
    return Loop(name, lambda: run(*arguments), fatal, ends=True).start_later(seconds)
