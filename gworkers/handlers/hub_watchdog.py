"""For ``executor: greenlet``: notices a handler that does not yield, and ends it at its route's
timeout.

Such a handler holds the hub, and with it the heartbeats, all other handlers and the guard that
keeps time limits. So a native thread looks after the hub's turns. It never logs, because the
logging of a patched process belongs to the hub; what it saw is logged by the hub when it has its
turns back.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable

import gevent
import gevent.monkey

from gworkers.handlers.block import Block
from gworkers.loop import Fatal, Loop

log = logging.getLogger(__name__)

#: How often the hub is looked at, and how long it may be held before the log says so, in seconds.
WATCH_INTERVAL = 0.1
HELD_TOO_LONG = 1.0

_sleep = gevent.monkey.get_original("time", "sleep")
_start = gevent.monkey.get_original("_thread", "start_new_thread")
_ident = gevent.monkey.get_original("_thread", "get_ident")


class HubWatchdog:
    """beat: when the hub last had a turn, as ``time.monotonic()`` tells it. ``start`` and ``stop``
    are called on the hub's thread."""

    def __init__(self, beat: Callable[[], float], fatal: Fatal) -> None:
        self._beat = beat
        self._hub = _ident()
        self._going = True
        self._seen: tuple[float, str] | None = None  # the beat that was the last for long, and who held the hub
        self._loop = Loop("hub watchdog", self._tell, fatal)

    def start(self) -> None:
        _start(self._look, ())
        self._loop.start()

    def stop(self) -> None:
        self._going = False
        self._loop.stop()

    def _look(self) -> None:
        while self._going:
            _sleep(WATCH_INTERVAL)
            beat = self._beat()
            now = time.monotonic()
            if now - beat > HELD_TOO_LONG:
                self._held(beat, now)

    def _held(self, beat: float, now: float) -> None:
        top = frame = sys._current_frames().get(self._hub)
        while frame is not None:
            block = frame.f_locals.get("self") if frame.f_code.co_name in ("run", "_run_limited") else None
            if isinstance(block, Block):
                break
            frame = frame.f_back
        else:
            return
        if self._seen is None or self._seen[0] != beat:
            self._seen = beat, f"the handler of route {block.route.name}, at\n{''.join(traceback.format_stack(top)[-3:]).rstrip()}"
        timeout, slot = block.route.timeout, block.slot
        if timeout is not None and slot is not None and slot.time_limit is not None and slot.time_limit.late(timeout, now):
            slot.time_limit.interrupt()

    def _tell(self) -> None:
        while True:
            gevent.sleep(WATCH_INTERVAL)
            seen = self._take_seen()
            if seen is not None:
                log.warning("nothing else ran for %.1f s, not even heartbeats; the hub was held by %s", time.monotonic() - seen[0], seen[1])

    def _take_seen(self) -> tuple[float, str] | None:
        seen, self._seen = self._seen, None
        return seen
