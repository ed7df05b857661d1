"""Handlers that are coroutine functions: awaited on one asyncio loop, which has a native thread of its
own, while the handler's thread waits for the outcome. So as many are awaited at once as there are
threads, and retries, order and time limits are those of any handler.

At its time limit a coroutine is cancelled. With ``executor: greenlet`` this cannot be: asyncio's loop
would need a thread of its own there, and everything is on one.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError
from typing import Any

from gworkers.handlers.slot import of_coroutine, running_slot
from gworkers.message import HandlerTimeout, time_left


class Coroutines:
    """The loop, which begins with the first handler that needs it and ends with the process."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._guard = threading.Lock()

    def awaited(self, function: Callable[[Any], Coroutine[Any, Any, Any]]) -> Callable[[Any], Any]:
        """A plain function that has it run on the loop, and returns what it returns or raises what it
        raises. Raises HandlerTimeout at the time limit of the calling handler."""

        @functools.wraps(function)
        def handler(value: Any) -> Any:
            slot = running_slot()
            of_coroutine.set(slot.of_now() if slot is not None else None)  # the loop takes this context along, the message's
            outcome = asyncio.run_coroutine_threadsafe(function(value), self._running())
            left = time_left()
            try:
                return outcome.result(left)
            except TimeoutError:
                if outcome.done():  # it is the coroutine's own
                    raise
                outcome.cancel()
                raise HandlerTimeout from None
            except BaseException:
                outcome.cancel()
                raise

        return handler

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="asyncio", daemon=True).start()
            return self._loop
