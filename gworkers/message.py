"""The names an application may use: Message, Record, Retry, Reject, BatchError, HandlerTimeout,
time_left, idempotency_key.

None of them has to be used: a handler is any function of the value. They are for handlers that want
to see where a message came from (``pass: message``), to send elsewhere than to the route's output,
or to overrule the retry policy.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Kafka's own form of headers: names and values, in order, names may repeat.
Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came, given to handlers of routes with ``pass: message``.

    value is decoded as the route says; key and headers are bytes as they came; timestamp is in
    milliseconds since the epoch, -1 where there is none; attempt counts from 1; deadline is when
    the route's timeout is over, as ``time.monotonic()`` tells the time, None without one.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: Any
    headers: Headers
    timestamp: int
    attempt: int = 1
    deadline: float | None = None

    @property
    def idempotency_key(self) -> str:
        """``topic-partition-offset``: the same each time this message is handled, also after a
        restart or a retry topic."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    def header(self, name: str, default: bytes | None = None) -> bytes | None:
        """The value of the last header called ``name``, or ``default``."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return default


class _Draft:
    """A Message as it is being made: a frozen dataclass sets each field through ``object``, which
    takes nearly four times as long."""

    __slots__ = Message.__slots__

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        value: Any,
        headers: Headers,
        timestamp: int,
        attempt: int,
        deadline: float | None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp
        self.attempt = attempt
        self.deadline = deadline


def made(*fields: Any) -> Message:
    """``Message(*fields)``, all of them in their order, made faster."""
    message: Any = _Draft(*fields)
    message.__class__ = Message  # of the same slots, so that this is the same object
    return message  # type: ignore[no-any-return]


class _Inherit:
    """The mark for "as the input has it", which None cannot be: a key may be None on purpose."""

    def __repr__(self) -> str:
        return "INHERIT"


INHERIT: Any = _Inherit()


@dataclass(frozen=True, slots=True)
class Record:
    """Something to send. A handler returns one, or a list of them, in place of a plain result.

    value is encoded as the route says (bytes are sent as they are; None is a tombstone). What is
    left out is taken from the route (topic: its output) and from the input (key, headers). The
    partition follows from the key as Kafka's own clients choose it, unless it is given. timestamp
    is in milliseconds since the epoch.
    """

    value: Any = None
    topic: str | None = None
    key: bytes | str | None = INHERIT
    headers: Headers = INHERIT
    partition: int | None = None
    timestamp: int | None = None


class Retry(Exception):
    """Raised by a handler: try this message again after ``delay`` seconds, whatever the route's
    backoff says.

    The delay is a number of seconds, a timedelta, a datetime, or a text such as ``2s``. The route's
    number of attempts still holds. Without a delay the route's backoff decides. An exception class
    of the application's own with an attribute ``retry_after`` (likewise, or as HTTP's header of this
    name has it) does the same.
    """

    def __init__(self, reason: str = "", *, delay: float | str | datetime.timedelta | datetime.datetime | None = None) -> None:
        super().__init__(reason or "the handler asked for another attempt")
        self.delay = delay


class Reject(Exception):
    """Raised by a handler: no further attempt, this message goes to the route's dead-letter topic."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the handler rejected the message")


class BatchError(Exception):
    """Raised by the handler of a route with ``batch``: only these messages have failed, the others
    are done.

    ``errors`` has the failed ones by their index in the list the handler got, each with its
    exception, which may be a Retry or a Reject. ``results``, one entry for each message of the
    list, are the results of the others; without them they have none.
    """

    def __init__(self, errors: Mapping[int, BaseException], results: Sequence[Any] | None = None) -> None:
        wrong = next((error for error in errors.values() if not isinstance(error, BaseException)), None)
        if wrong is not None:
            raise TypeError(f"BatchError: expected an exception for each index, got a {type(wrong).__name__}")
        super().__init__(f"{len(errors)} of a batch failed")
        self.errors = dict(errors)
        self.results = results


class HandlerTimeout(BaseException):
    """Raised inside a handler that is over its route's ``timeout``. No Exception, so that a
    ``except Exception`` does not hold it up.

    A handler may catch it to clean up. When it returns after that, what it returns counts.
    """


def time_left() -> float | None:
    """Seconds until the running handler's ``timeout`` is over, below 0 after it; None outside of a
    handler or without a limit."""
    from gworkers.handlers.slot import running_slot

    slot = running_slot()
    return slot.deadline - time.monotonic() if slot is not None and slot.deadline is not None else None


def idempotency_key() -> str | None:
    """``topic-partition-offset`` of the message that is being handled, the same each time it is;
    None outside of a handler.

    For what a handler does outside of Kafka: a database or an API that keeps the key does it once,
    however often it is asked to. In a batch it is that of the first message; take
    ``Message.idempotency_key`` of each there.
    """
    from gworkers.handlers.slot import running_job

    job = running_job()
    return "{}-{}-{}".format(*job.source) if job is not None else None
