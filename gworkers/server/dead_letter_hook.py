"""``hooks.on_dead_letter``: the application hears of each message that has failed for good.

1. When the decision falls, on the hub, the message and its exception are put into a queue of bounded
   length, so that nothing waits for the application's code;
2. a loop hands them over one after the other, on a native thread of its own (with ``executor:
   greenlet`` in the loop's greenlet); what the hook raises is logged;
3. at the stop what is queued is still handed over, for as long as the stop may take.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from gworkers import log_context, native
from gworkers.events import Events
from gworkers.handlers.job import Job
from gworkers.handlers.routes import message_of
from gworkers.loop import Fatal, Loop
from gworkers.message import Message

log = logging.getLogger(__name__)

#: Messages that may wait for the hook; of more the oldest are passed over, and the log says how many.
MOST = 1_000


class DeadLetterHook:
    """hook: called with the message, its value as bytes, and the exception. threads: whether it runs
    on a native thread."""

    def __init__(self, hook: Callable[[Message, BaseException], object], events: Events, fatal: Fatal, *, threads: bool) -> None:
        self._hook = hook
        self._waiting: deque[tuple[Job, Message, BaseException]] = deque()
        self._missed = 0
        self._some = Event()
        self._none = Event()
        self._none.set()
        self._pool = ThreadPool(1) if threads else None
        self._loop = Loop("hooks.on_dead_letter", self._run, fatal)
        events.failed.subscribe(self._failed)

    def start(self) -> None:
        self._loop.start()

    def stop(self, timeout: float) -> None:
        """Hand over what waits, for up to ``timeout`` seconds. Blocks."""
        if not self._none.wait(timeout):
            log.warning("hooks.on_dead_letter has not been told of %d messages: the stop does not wait for it", len(self._waiting) + 1)
        self._loop.stop()

    def _failed(self, job: Job, error: BaseException) -> None:
        if len(self._waiting) >= MOST:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append((job, message_of(job, job.value), error))
        self._none.clear()
        self._some.set()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            while self._waiting:
                self._tell(*self._waiting.popleft())
                if self._missed:
                    log.warning("hooks.on_dead_letter is too slow: %d messages were not handed over to it", self._missed)
                    self._missed = 0
            self._none.set()

    def _tell(self, job: Job, message: Message, error: BaseException) -> None:
        try:
            native.call(self._pool, self._hook, message, error)
        except gevent.GreenletExit:
            raise
        except BaseException as failed:
            trace: Any = (type(failed), failed, failed.__traceback__)
            log.error("hooks.on_dead_letter failed", exc_info=trace, extra=log_context.about(job))
