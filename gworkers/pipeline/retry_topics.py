"""Retries that outlive the process: a failed message is sent to ``<topic>.retry.<delay>``, and
consumed from there when the delay is over.

The message goes with key, value and headers as it came, and headers with the prefix
``gworkers-retry-`` that say whose it is, how often it has been tried, and where it came from; they
are taken off again when it is read. A retry topic may be shared by groups that consume the same
topic: each passes over what is not its own.
"""

from __future__ import annotations

import re
import time

from gworkers.handlers.job import Job, Origin, Row

PREFIX = "gworkers-retry-"

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def row(job: Job, topic: str, group: str) -> Row:
    """The row that sends a failed job to the retry topic ``topic``. Its timestamp is that of its
    sending: from then on the delay counts."""
    now = int(time.time() * 1000)
    source = job.source
    told = {
        "group": group,
        "attempts": str(job.attempt),
        "first-failure": str(job.origin.first_failure if job.origin is not None else now),
        "topic": source[0],
        "partition": str(source[1]),
        "offset": str(source[2]),
        "timestamp": str(job.timestamp),
    }
    headers = [*job.headers, *((PREFIX + name, text.encode()) for name, text in told.items())]
    return topic, None, job.key, job.value, headers, None


def _number(text: str, least: int, end: int) -> int:
    """Raises ValueError for what is no number, or none that Kafka can have."""
    if len(text) > 20 or not text.isascii():
        raise ValueError
    number = int(text)
    if not least <= number < end:
        raise ValueError
    return number


def take_back(job: Job, group: str) -> bool:
    """Make a job that was read from a retry topic what it was before; False when it is not this
    group's."""
    told = {
        name.removeprefix(PREFIX): value.decode("utf-8", "replace")
        for name, value in job.headers
        if name.startswith(PREFIX) and value is not None
    }
    if told.get("group") != group:
        return False
    try:
        timestamp = _number(told["timestamp"], -(2**63), 2**63)
        first_failure = _number(told["first-failure"], 0, 2**63)
        partition, offset = _number(told["partition"], 0, 2**31), _number(told["offset"], 0, 2**63)
        attempts = _number(told["attempts"], 0, 2**31)
        if not _TOPIC.fullmatch(told["topic"]):
            return True
        origin = Origin(told["topic"], partition, offset, timestamp, job.timestamp, first_failure)
    except (KeyError, ValueError):
        return True  # somebody else wrote it: a message like any other
    job.headers = [(name, value) for name, value in job.headers if not name.startswith(PREFIX)]
    job.attempt = attempts + 1
    job.timestamp = timestamp
    job.origin = origin
    return True
