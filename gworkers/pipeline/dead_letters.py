"""What a dead letter looks like: the message as it came, and headers that say where it came from and why it is here."""

from __future__ import annotations

import traceback

from gworkers.errors import MessageError
from gworkers.pipeline.job import Job, Row

PREFIX = "gworkers-"

#: The most that one header may take, in bytes: a stack trace must not make a letter too large to send.
MOST = 4096


def cause_of(error: BaseException) -> BaseException:
    """The application's own exception where one of ours wraps it."""
    return error.__cause__ if isinstance(error, MessageError) and error.__cause__ is not None else error


def one_line(error: BaseException) -> str:
    """``ValueError: no such product``, for a log line or a header."""
    name = type(error).__name__
    if getattr(error, "errno", None) is not None and getattr(error, "description", None):  # a broker's answer
        told = str(error.args[0]) if error.args and error.args[0] else error.description  # type: ignore[attr-defined]
    else:
        told = str(error)
    text = " ".join(told.split()).removeprefix(f"{name}: ")
    return f"{name}: {text}" if text and text != name else name


def letter(job: Job, topic: str) -> Row:
    """The row to send for a job that failed for good. Its own headers come first, and key, value and timestamp are unchanged."""
    error = job.error or RuntimeError("unknown")
    cause = cause_of(error)
    told = {
        "topic": job.partition.topic,
        "partition": str(job.partition.number),
        "offset": str(job.offset),
        "timestamp": str(job.timestamp),
        "route": job.partition.route.name,
        "attempts": str(job.attempt),
        "exception": f"{type(cause).__module__}.{type(cause).__qualname__}",
        "error": str(error),
        "traceback": "".join(traceback.format_exception(cause)),
    }
    headers = [(name, value) for name, value in job.headers if not name.startswith(PREFIX)]
    headers += [(PREFIX + name, text.encode("utf-8", "replace")[-MOST:]) for name, text in told.items()]
    return topic, None, job.key, job.value, headers, job.timestamp
