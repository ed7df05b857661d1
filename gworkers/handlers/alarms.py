"""Signals of the application, as ``signal.alarm`` sends them, in a process whose handlers are
greenlets.

Python runs a signal's handler wherever the process stands at that moment, and what it raises is raised
there: with ``executor: greenlet`` in another message's handler, or in the hub, which ends the server.
So what a handler of messages has set is raised in that handler, where it waits; what was set at import
or in ``app.setup`` is raised in the handler of messages that runs, and nowhere else.

There is one timer a process: a handler that sets the alarm takes it from another that has.
"""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any

import gevent
import gevent.hub

from gworkers.handlers.slot import running_slot

log = logging.getLogger(__name__)

#: Signals that the server itself hears; the application's handlers of all others are guarded.
OURS = frozenset(
    getattr(signal, f"SIG{name}")
    for name in ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "TSTP", "CONT", "TTIN", "TTOU", "CHLD", "PIPE", "SEGV", "ABRT", "BUS", "FPE")
)

_set = signal.signal


def guard() -> None:
    """From now on, in this process."""
    signal.signal = _guarded  # type: ignore[assignment]


def _guarded(number: int, handler: Any) -> Any:
    if number in OURS or not callable(handler) or isinstance(handler, _Guard):
        return _set(number, handler)
    before = _set(number, _Guard(handler))
    return before.handler if isinstance(before, _Guard) else before


class _Guard:
    """A signal's handler of the application, and whose it is."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler
        self._slot = running_slot()
        self._job = self._slot.job if self._slot is not None else None
        self._owner = gevent.getcurrent() if self._slot is not None else None

    @property
    def _running(self) -> bool:
        """Whether the message is still handled whose handler has set it."""
        return self._slot is not None and self._job is not None and self._slot.job is self._job

    def __call__(self, number: int, frame: FrameType | None) -> None:
        current = running_slot()
        if self._slot is None and current is not None and current.job is not None:
            self.handler(number, frame)  # in the handler of messages that runs
        elif current is self._slot and self._running:
            self.handler(number, frame)
        else:
            gevent.hub.get_hub().loop.run_callback(self._elsewhere, number)

    def _elsewhere(self, number: int) -> None:
        """On the hub: call it, and raise what it raises where it belongs."""
        try:
            self.handler(number, None)
        except BaseException as error:
            if self._running and self._owner is not None:
                self._owner.throw(error)
                return
            told = "the application's handler of %s raised %s outside of any message, which changes nothing"
            log.warning(told, signal.Signals(number).name, type(error).__name__)
