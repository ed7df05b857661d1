"""Notices when the hub has no turn, says who holds it, and ends a process that will never go on.

What holds the hub holds everything: heartbeats, acknowledgements, the time limits and every other
handler. With ``executor: greenlet`` it is a handler that computes or that waits in a way which gevent
cannot see (multiprocessing, a driver written in C); with ``executor: thread`` mostly handlers that
compute, because they have the interpreter's lock. So a native thread looks after the hub's turns.

It never logs: the lock of a log handler may be what everybody waits for. What it saw is logged by the
hub when it has its turns back; until then, and at the end, it writes to standard error itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import gevent
import gevent.monkey

from gworkers.errors import Exit
from gworkers.handlers.block import Block
from gworkers.loop import Fatal, Loop

log = logging.getLogger(__name__)

#: Seconds between two looks; for how long the hub may be held before it counts, before it is told at
#: once, and before the native thread tells it itself.
WATCH_INTERVAL = 0.025
HELD = 0.1
HELD_LONG = 1.0
HELD_FOR_GOOD = 5.0
#: Shorter holds are told together, this often at the most.
TELL_INTERVAL = 60.0
#: A hub that used less than this of a processor, in seconds, in all the time that it was held has
#: waited, not computed.
IDLE = 1.0

_sleep = gevent.monkey.get_original("time", "sleep")
_start = gevent.monkey.get_original("_thread", "start_new_thread")
_ident = gevent.monkey.get_original("_thread", "get_ident")


@dataclass(frozen=True, slots=True)
class Hold:
    """The hub had no turn for ``seconds``; who held it, with the file and the line; ``stack``: its
    innermost frames."""

    seconds: float
    who: str
    stack: str


class HubWatchdog:
    """beat: when the hub last had a turn, as ``time.monotonic()`` tells it. limit: for how long, in
    seconds, the hub may be held by something that only waits. ``start`` and ``stop`` are called on
    the hub's thread."""

    def __init__(self, beat: Callable[[], float], limit: float, fatal: Fatal) -> None:
        self.holds = 0  # how often the hub was held for longer than HELD
        self._beat = beat
        self._limit = limit
        self._hub = _ident()
        self._clock = time.pthread_getcpuclockid(self._hub)
        self._going = True
        self._over: deque[Hold] = deque(maxlen=1000)  # what the hub has not heard of yet
        self._loop = Loop("hub watchdog", self._tell, fatal)

    def start(self) -> None:
        try:
            _start(self._look, ())
        except RuntimeError as error:
            log.warning("nothing watches over the hub, because no thread can be started for it: %s", error)
        self._loop.start()

    def stop(self) -> None:
        self._going = False
        self._loop.stop()

    # -- on a native thread

    def _look(self) -> None:
        held: tuple[float, float, str, str] | None = None  # the last beat, the hub's clock then, who, the stack
        said = False
        looked = awake = time.monotonic()
        while self._going:
            _sleep(WATCH_INTERVAL)
            now = time.monotonic()
            if now - looked > HELD_LONG:  # this thread did not run either: the process was stopped
                held, awake = None, now
            looked = now
            beat = max(self._beat(), awake)
            if held is not None and beat != held[0]:
                self._over.append(Hold(now - held[0], held[2], held[3]))
                held, said = None, False
            if now - beat < HELD:
                continue
            frame = sys._current_frames().get(self._hub)
            if held is None:
                held = beat, time.clock_gettime(self._clock), *_told(frame)
            self._interrupt(frame, now)
            if now - beat > HELD_FOR_GOOD and not said:
                said = True
                _write(f"nothing else has run for {now - beat:.0f} s, not even heartbeats: the hub is held by {held[2]}\n{held[3]}")
            if now - beat > self._limit and not _debugged(frame) and time.clock_gettime(self._clock) - held[1] < IDLE:
                self._end(now - beat, held[2])

    def _interrupt(self, frame: FrameType | None, now: float) -> None:
        """End a handler that holds the hub and is over its route's timeout."""
        block = _block_of(frame)
        timeout, slot = (block.route.timeout, block.slot) if block is not None else (None, None)
        if timeout is not None and slot is not None and slot.time_limit is not None and slot.time_limit.late(timeout, now):
            slot.time_limit.interrupt()

    @staticmethod
    def _end(seconds: float, who: str) -> None:
        _write(
            f"the hub has been held for {seconds:.0f} s and waits for something that only it could bring about, or that never comes; "
            f"it is held by {who}; the process ends. Where its threads are:"
        )
        with contextlib.suppress(Exception):
            faulthandler.dump_traceback(2, all_threads=True)
        os._exit(Exit.INTERNAL)

    # -- on the hub

    def _tell(self) -> None:
        few: list[Hold] = []
        since = time.monotonic() - TELL_INTERVAL
        while True:
            gevent.sleep(HELD)
            for hold in self._take_over():
                self.holds += 1
                if hold.seconds >= HELD_LONG:
                    log.warning(
                        "nothing else ran for %.1f s, not even heartbeats; the hub was held by %s\n%s", hold.seconds, hold.who, hold.stack
                    )
                else:
                    few.append(hold)
            if few and time.monotonic() - since > TELL_INTERVAL:
                longest = max(few, key=lambda hold: hold.seconds)
                log.warning(
                    "the hub was held %d time%s for more than %.1f s, once for %.2f s by %s",
                    len(few),
                    "s" if len(few) > 1 else "",
                    HELD,
                    longest.seconds,
                    longest.who,
                )
                few, since = [], time.monotonic()

    def _take_over(self) -> list[Hold]:
        return [self._over.popleft() for _ in range(len(self._over))]


def _block_of(frame: FrameType | None) -> Block | None:
    """The block whose handler runs in this frame or is called from there."""
    while frame is not None:
        found = frame.f_locals.get("self") if frame.f_code.co_name in ("run", "_run_limited") else None
        if isinstance(found, Block):
            return found
        frame = frame.f_back
    return None


def _debugged(frame: FrameType | None) -> bool:
    """Whether somebody looks at it in Python's debugger."""
    while frame is not None:
        if frame.f_globals.get("__name__") in ("bdb", "pdb"):
            return True
        frame = frame.f_back
    return False


def _told(frame: FrameType | None) -> tuple[str, str]:
    """Who holds the hub, and the innermost frames of its stack."""
    if frame is None:
        return "something that has no Python frame", ""
    innermost = traceback.extract_stack(frame)[-1]
    at = f"{innermost.filename}:{innermost.lineno} in {innermost.name}"
    block = _block_of(frame)
    if block is not None:
        who = f"the handler of route {block.route.name}, at {at}"
    elif innermost.name == "run" and innermost.filename.endswith(os.path.join("gevent", "hub.py")):
        who = "threads that compute: it waited for the interpreter's lock"
    else:
        who = at
    return who, "".join(traceback.format_stack(frame)[-4:]).rstrip()


def _write(text: str) -> None:
    """On standard error, past every lock."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
    with contextlib.suppress(OSError):
        os.write(2, f"{stamp} ERROR gworkers: {text}\n".encode("utf-8", "backslashreplace"))
