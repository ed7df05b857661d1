"""What a thread or greenlet is handling right now: one Slot for each, written by the executor, read
by whoever asks.

The log asks which message a line is about, ``time_left()`` when the handler has to end, the journal
and the time limits what runs. Reading and writing are single attributes: no lock is held.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

import gevent
import gevent.monkey

if TYPE_CHECKING:
    from gworkers.handlers.job import Job
    from gworkers.handlers.time_limits import TimeLimit
    from gworkers.offsets.journal import Journaling


class Slot:
    """One thread's or greenlet's place, from ``claim_…`` to ``release_…``. deadline: as
    ``time.monotonic()`` tells it."""

    __slots__ = ("at", "deadline", "job", "journal", "thread", "time_limit")

    def __init__(self, journal: Journaling) -> None:
        self.journal = journal
        self.thread = 0  # the native thread it is of, 0 for a greenlet
        self.at = journal.claim()  # its entry in the journal
        self.job: Job | None = None
        self.time_limit: TimeLimit | None = None  # where a route with a timeout has run
        self.deadline: float | None = None  # of the running job

    def of_now(self) -> Slot:
        """As it is at this moment, for what may outlive the message: the slot goes on to the next."""
        now = object.__new__(Slot)
        for name in self.__slots__:
            setattr(now, name, getattr(self, name))
        return now


_threads: dict[int, Slot] = {}
#: Of the handler's thread that waits for this coroutine, as it was when it began.
of_coroutine: ContextVar[Slot | None] = ContextVar("gworkers_slot", default=None)
_ident = gevent.monkey.get_original("_thread", "get_ident")


def claim_thread(journal: Journaling) -> Slot:
    """The slot of this native thread, until release_thread."""
    slot = _threads[_ident()] = Slot(journal)
    slot.thread = _ident()
    return slot


def release_thread() -> None:
    slot = _threads.pop(_ident(), None)
    if slot is not None:
        slot.journal.release(slot.at)


def claim_greenlet(journal: Journaling) -> Slot:
    """The slot of this greenlet, until release_greenlet."""
    slot = Slot(journal)
    gevent.getcurrent().gworkers_slot = slot
    return slot


def release_greenlet() -> None:
    slot: Slot = gevent.getcurrent().gworkers_slot
    slot.journal.release(slot.at)
    del gevent.getcurrent().gworkers_slot


def running_slot() -> Slot | None:
    """The slot of the calling thread, greenlet or coroutine, None where no handlers run."""
    slot = _threads.get(_ident())
    if slot is None:
        slot = getattr(gevent.getcurrent(), "gworkers_slot", None)
    return slot if slot is not None else of_coroutine.get()


def running_job() -> Job | None:
    """The message that the calling code is handling, or None."""
    slot = running_slot()
    return slot.job if slot is not None else None
