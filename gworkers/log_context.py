"""Which message the running code belongs to, for every line of the log that is about one.

A log record factory asks the Slot (gworkers.handlers.slot) of the calling thread or greenlet. So
``logging.getLogger(…).info(…)`` in a handler carries topic, partition, offset and key without the
handler knowing of gworkers. They travel in one attribute of the record, ``gworkers``, because a
record that had ``key`` of its own would make ``info(…, extra={"key": …})`` raise.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gworkers.handlers.slot import running_job
from gworkers.text import KEY_SHOWN, cut, safe, text_of

if TYPE_CHECKING:
    from gworkers.handlers.job import Job

#: What a log record of a message carries in its attribute ``gworkers``.
FIELDS = ("topic", "partition", "offset", "key")


def fields(job: Job) -> dict[str, Any]:
    """What a log record of ``job`` carries: the key as it can be shown."""
    key = text_of(job.key)
    return {
        "topic": job.partition.topic,
        "partition": job.partition.number,
        "offset": job.offset,
        "key": safe(cut(key, KEY_SHOWN)) if key is not None else None,
    }


def about(job: Job) -> dict[str, Any]:
    """For ``extra=`` of a line that is about ``job`` and logged outside its handler."""
    return {"gworkers": fields(job)}


class MessageFilter(logging.Filter):
    """For a ``logging.config`` dictionary: gives every record the attributes FIELDS, empty where it
    is about no message."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = getattr(record, "gworkers", {})
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, found.get(name, ""))
        return True


def install() -> None:
    """Make every log record made in a handler carry FIELDS. It wraps whatever record factory is in
    place, and does so once."""
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
