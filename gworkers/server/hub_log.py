"""What the hub's thread logs, written by a thread of its own.

Every logging handler has a lock, and a handler of messages that is interrupted at its time limit may
never give it back. Whoever waits for it then waits for ever; when that is the hub, nothing answers
any more, not even a signal. So with handlers in native threads the hub takes none of these locks: its
loggers put their records on a queue, and a native thread hands them to the logging handlers.

What a handler of messages logs takes the ordinary way.
"""

from __future__ import annotations

import contextlib
import logging
import time
from queue import SimpleQueue

import gevent.monkey

#: Lines that wait at the most while something holds the log.
MOST_WAITING = 10_000
#: Whose lines the hub's thread writes.
PROGRAMS = ("gworkers", "kafka")

_ident = gevent.monkey.get_original("_thread", "get_ident")
_start = gevent.monkey.get_original("_thread", "start_new_thread")
_sleep = gevent.monkey.get_original("time", "sleep")


class HubLog:
    """Begins with ``start``, on the hub's thread, and ends with ``stop``."""

    def __init__(self) -> None:
        self._lines: SimpleQueue[tuple[logging.Logger, logging.LogRecord]] = SimpleQueue()
        self._put = self._dropped = 0  # counted by the hub's thread
        self._written = self._told = 0  # counted by the writer
        self._hub = 0

    def start(self) -> None:
        """Take the lines of this thread over. Without a thread for it they stay as they are."""
        with contextlib.suppress(RuntimeError):
            _start(self._write, ())
            self._hub = _ident()
            _HubLogger.taken_by = self
            self.take_over()

    def take_over(self) -> None:
        """Of all loggers of this program that there are now."""
        if self._hub:
            for name, logger in list(logging.root.manager.loggerDict.items()):
                if name.split(".")[0] in PROGRAMS and type(logger) is logging.Logger:
                    logger.__class__ = _HubLogger

    def stop(self, timeout: float) -> bool:
        """From now on lines are written where they are logged. Blocks the thread until what waits is
        written, for ``timeout`` seconds at the most; False when it is not."""
        if not self._hub:
            return True
        written = self.flush(timeout)
        if written:
            _HubLogger.taken_by = None
        return written

    def flush(self, timeout: float) -> bool:
        """Blocks the thread until all that was logged is written; False when it takes longer."""
        deadline = time.monotonic() + timeout
        while self._written < self._put:
            if time.monotonic() > deadline:
                return False
            _sleep(0.001)
        return True

    def takes(self, logger: logging.Logger, record: logging.LogRecord) -> bool:
        """Whether the record was taken; otherwise it is the caller's to write."""
        if _ident() != self._hub:
            return False
        if self._put - self._written >= MOST_WAITING:
            self._dropped += 1
            return True
        if record.args:  # they may change before it is written
            record.msg, record.args = record.getMessage(), None
        self._put += 1
        self._lines.put((logger, record))
        return True

    def _write(self) -> None:
        while True:
            logger, record = self._lines.get()
            with contextlib.suppress(Exception):
                logging.Logger.callHandlers(logger, record)
            self._written += 1
            dropped, self._told = self._dropped - self._told, self._dropped
            if dropped:
                with contextlib.suppress(Exception):
                    told = "%d lines were not written, because something held the log"
                    made = logger.makeRecord("gworkers", logging.WARNING, __file__, 0, told, (dropped,), None)
                    logging.Logger.callHandlers(logger, made)


class _HubLogger(logging.Logger):
    """A logger of this program, once a HubLog has taken it over."""

    taken_by: HubLog | None = None

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802
        taken_by = self.taken_by
        if taken_by is None or not taken_by.takes(self, record):
            super().callHandlers(record)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        """As it was, without the lock that a look into the cache may take."""
        return not self.disabled and self.manager.disable < level and level >= self.getEffectiveLevel()


def take_over() -> None:
    """Of loggers that have come since the hub's lines were taken over."""
    if _HubLogger.taken_by is not None:
        _HubLogger.taken_by.take_over()


def active() -> bool:
    """Whether the hub's lines are written by a thread of their own."""
    return _HubLogger.taken_by is not None


def written(timeout: float) -> bool:
    """Blocks the thread until all that the hub has logged is written; False when that takes longer."""
    return _HubLogger.taken_by is None or _HubLogger.taken_by.flush(timeout)
