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

The same way, with a second token, is decided who speaks for a handler that was interrupted: the
thread when it ends after all, or the hub when it gives the thread up.
"""

from __future__ import annotations

import ctypes
import sys
import time
import traceback
from collections import deque

import gevent.monkey

from gworkers.message import HandlerTimeout

#: How long a handler may go on after its limit, to clean up, before its thread is given up, in
#: seconds.
INTERRUPT_GRACE = 5.0

_ident = gevent.monkey.get_original("_thread", "get_ident")
_sleep = gevent.monkey.get_original("time", "sleep")
_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exception.argtypes = (ctypes.c_ulong, ctypes.py_object)
_NO_EXCEPTION = ctypes.py_object()  # a null pointer


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
