"""Which message the running code belongs to, for every line of the log that is about one.

Each thread or greenlet that runs handlers has a Slot; the executor writes the running job into it (one attribute, no
lock), and a log record factory reads it. So ``logging.getLogger(…).info(…)`` in a handler carries topic, partition, offset and
key without the handler knowing of gworkers. They travel in one attribute of the record, ``gworkers``, because a record that had
``key`` of its own would make ``info(…, extra={"key": …})`` raise.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import gevent
import gevent.monkey

if TYPE_CHECKING:
    from gworkers.pipeline.job import Job
    from gworkers.pipeline.journal import Records
    from gworkers.pipeline.time_limits import Limit

#: What a log record of a message carries in its attribute ``gworkers``.
FIELDS = ("topic", "partition", "offset", "key")


class Slot:
    """What one thread or greenlet is running now."""

    __slots__ = ("at", "deadline", "job", "limit", "records")

    def __init__(self, records: Records) -> None:
        self.records = records  # where what runs is noted
        self.at = records.claim()
        self.job: Job | None = None
        self.limit: Limit | None = None  # where a route with a timeout has run
        self.deadline: float | None = None  # of the running job, as time.monotonic() tells it


_threads: dict[int, Slot] = {}
_ident = gevent.monkey.get_original("_thread", "get_ident")


def claim_thread(records: Records) -> Slot:
    """The slot of this native thread, until release_thread."""
    slot = _threads[_ident()] = Slot(records)
    return slot


def release_thread() -> None:
    slot = _threads.pop(_ident(), None)
    if slot is not None:
        slot.records.release(slot.at)


def claim_greenlet(records: Records) -> Slot:
    """The slot of this greenlet, until release_greenlet."""
    slot = Slot(records)
    gevent.getcurrent().gworkers_slot = slot
    return slot


def release_greenlet() -> None:
    slot: Slot = gevent.getcurrent().gworkers_slot
    slot.records.release(slot.at)
    del gevent.getcurrent().gworkers_slot


def running_slot() -> Slot | None:
    """The slot of the calling thread or greenlet, None where no handlers run."""
    slot = _threads.get(_ident())
    return slot if slot is not None else getattr(gevent.getcurrent(), "gworkers_slot", None)


def running_job() -> Job | None:
    """The message that the calling code is handling, or None."""
    slot = running_slot()
    return slot.job if slot is not None else None


def fields(job: Job) -> dict[str, Any]:
    """What a log record of ``job`` carries."""
    key = job.key
    return {
        "topic": job.partition.topic,
        "partition": job.partition.number,
        "offset": job.offset,
        "key": key.decode("utf-8", "backslashreplace") if key is not None else None,
    }


def about(job: Job) -> dict[str, Any]:
    """For ``extra=`` of a line that is about ``job`` and logged outside its handler."""
    return {"gworkers": fields(job)}


class MessageFilter(logging.Filter):
    """For a ``logging.config`` dictionary: gives every record the attributes FIELDS, empty where it is about no message."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = getattr(record, "gworkers", {})
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, found.get(name, ""))
        return True


def install() -> None:
    """Make every log record made in a handler carry FIELDS. It wraps whatever record factory is in place, and does so once."""
    inner = logging.getLogRecordFactory()
    if getattr(inner, "gworkers", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = inner(*args, **kwargs)
        job = running_job()
        if job is not None:
            record.gworkers = fields(job)
        return record

    factory.gworkers = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
