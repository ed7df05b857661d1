"""Time limits of handlers: an exception at the limit, and later the loss of a thread that does not
come back.

The hub finds a handler that is over its route's ``timeout`` and has HandlerTimeout raised in it: on
a thread through PyThreadState_SetAsyncExc, at its next bytecode; in a greenlet where it waits. It
must hit this handler and nothing else, though the thread may end it and begin the next at any
moment. Without a lock between the hub and the thread:

1. at the beginning the thread puts down a token, a deque's entry, and at the end takes it back;
   both are one step of the interpreter;
2. the hub takes the token before it interrupts, and then only this handler can be hit, because
3. a thread that finds no token at the end waits until the exception has been sent, and clears it
   where it has not been raised yet.

An exception between a lock's ``acquire()`` and the ``try`` behind it leaves the lock taken for good,
of logging or of a pool as well. So a thread is interrupted only where it stands in no such place
(``holds_locks``); until then it is looked at again and again. What remains is a lock that the
handler's own function takes and gives back outside of a ``with`` statement.

The same way, with a second token, is decided who speaks for a handler that was interrupted: the
thread when it ends after all, or the hub when it gives the thread up.
"""

from __future__ import annotations

import ctypes
import sys
import time
import traceback
from collections import deque
from types import FrameType

import gevent.monkey

from gworkers.message import HandlerTimeout

#: How long a handler may go on after its limit, to clean up, before its thread is given up, in
#: seconds.
INTERRUPT_GRACE = 5.0

_ident = gevent.monkey.get_original("_thread", "get_ident")
_sleep = gevent.monkey.get_original("time", "sleep")
_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exception.argtypes = (ctypes.c_ulong, ctypes.py_object)
#: Who calls handlers: below them a thread's stack is not the handler's.
CALLERS = ("gworkers.handlers.routes", "gworkers.handlers.batches", "gworkers.handlers.around", "gworkers.handlers.results")
_NO_EXCEPTION = ctypes.py_object()  # a null pointer


#: Modules that take and give back locks outside of a ``with`` statement, by the beginnings of their
#: names, and those of pools, by a part of it.
_TAKE_LOCKS = (
    "threading",
    "queue",
    "_weakrefset",
    "weakref",
    "contextlib",
    "concurrent.futures",
    "multiprocessing",
    "asyncio",
    "importlib",
    "_frozen_importlib",
)
_POOLS = frozenset(
    ("pool", "pools", "pooling", "connectionpool", "connection_pool", "queue", "locks", "synchronization", "_synchronization")
)
#: Functions that do, whosever they are.
_BY_NAME = frozenset(("__enter__", "__exit__", "__del__", "acquire", "release", "_acquire", "_release", "getconn", "putconn"))


def holds_locks(frame: FrameType | None) -> bool:
    """Whether a thread that stands in ``frame`` may have taken a lock that an exception would leave
    taken. The innermost two frames are looked at, and for ``logging``, which calls other code while
    it holds locks, all of them."""
    depth = 0
    while frame is not None:
        module, caller = _module_of(frame), frame.f_back
        if module in CALLERS or (caller is not None and _module_of(caller) in CALLERS):
            return False  # the handler's own function, whatever its module is called
        if module == "logging" or module.startswith("logging."):
            return True
        if depth < 2 and (
            frame.f_code.co_name in _BY_NAME
            or any(module == name or module.startswith(f"{name}.") for name in _TAKE_LOCKS)
            or not _POOLS.isdisjoint(module.split("."))
        ):
            return True
        depth += 1
        frame = caller
    return False


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


class TimeLimit:
    """The time limit of what one thread or greenlet runs now. ``begin`` and ``end`` are called
    there, the rest by the hub."""

    __slots__ = ("_began", "_owner", "_sent", "ident")

    def __init__(self) -> None:
        self.ident: int = _ident()
        self._began: deque[float] = deque()  # the token: when the handler began
        self._owner: deque[None] = deque()  # the second token
        self._sent = False

    def begin(self) -> float:
        now = time.monotonic()
        self._began.append(now)
        return now

    def end(self) -> bool:
        """After the handler. False when the hub has given this thread up: what it has done counts
        no more."""
        while True:
            try:
                try:
                    self._began.pop()
                    return True
                except IndexError:
                    pass
                if not self._sent:
                    _sleep(0)
                    continue
                _set_exception(self.ident, _NO_EXCEPTION)  # what has not been raised yet is not raised any more
                self._sent = False
            except HandlerTimeout:
                continue
            try:
                self._owner.pop()
                return True
            except IndexError:
                return False

    def late(self, timeout: float, now: float) -> bool:
        """Take the handler's token if it is over its limit; then ``interrupt`` must follow."""
        try:
            began = self._began[0]
            if now - began <= timeout or self._began.pop() is began:
                return now - began > timeout
        except IndexError:
            return False
        self._began.append(now)  # the thread has begun another one between the two looks: that is not late
        return False

    def safe(self) -> bool:
        """Whether the thread stands where an exception leaves no lock taken. It may move on meanwhile:
        into a function, at whose beginning the exception is raised then."""
        return not holds_locks(sys._current_frames().get(self.ident))

    def interrupt(self) -> None:
        """Raise HandlerTimeout on the thread, at its next bytecode."""
        self._owner.append(None)
        _set_exception(self.ident, HandlerTimeout)
        self._sent = True

    def interrupted(self) -> None:
        """HandlerTimeout is raised by other means, in a greenlet that waits."""
        self._owner.append(None)
        self._sent = True

    def give_up(self) -> bool:
        """Speak for the handler in the thread's place; False when it has ended meanwhile."""
        try:
            self._owner.pop()
        except IndexError:
            return False
        return True

    def stack(self) -> str:
        """Where the thread is now, for the log."""
        frame = sys._current_frames().get(self.ident)
        return "".join(traceback.format_stack(frame)).rstrip() if frame is not None else "  (it has ended)"
