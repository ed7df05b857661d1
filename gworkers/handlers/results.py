"""What a handler returns becomes rows to be sent: a plain result for the route's output, a Record or
a list of them, each that a generator yields; and what cannot be sent is told as the message's fault.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from gworkers.codecs import Encode, describe
from gworkers.errors import EncodeError
from gworkers.handlers.around import Yielded
from gworkers.handlers.job import Job, Row
from gworkers.message import INHERIT, Record

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def _check(record: Record, topic: Any, key: Any, timestamp: Any) -> None:
    """What a handler put into a Record must be what Kafka takes: told here, where it is one message's
    fault. Raises EncodeError."""
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise EncodeError(f"Record: expected a topic name of at most 249 letters, digits, dots, underscores and hyphens, got {topic!r:.80}")
    if key is not None and not isinstance(key, (bytes, str)):
        raise EncodeError(f"Record: expected a key of bytes, text or None, got {describe(key)}")
    number = record.partition
    if number is not None and (type(number) is not int or not 0 <= number < 2**31):
        raise EncodeError(f"Record: expected the partition as a whole number from 0, got {number!r:.80}")
    if type(timestamp) is not int or not -1 <= timestamp < 2**63:
        raise EncodeError(f"Record: expected the timestamp as whole milliseconds since the epoch, got {timestamp!r:.80}")


def _headers_of(record: Record) -> list[tuple[str, bytes | None]]:
    """Raises EncodeError for headers that are none."""
    try:
        found = [(name, content) for name, content in record.headers]
    except (TypeError, ValueError):
        raise EncodeError(f"Record: expected headers as pairs of a name and bytes, got {record.headers!r:.80}") from None
    for name, content in found:
        if not isinstance(name, str):
            raise EncodeError(f"Record: expected header names of text, got {describe(name)}")
        if content is not None and not isinstance(content, bytes):
            raise EncodeError(f"Record: expected bytes or None in the header {name!r:.80}, got {describe(content)}")
        try:
            name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise EncodeError(f"Record: the header name {name!r:.80} cannot be written in UTF-8") from None
    return found


def returns_records(handler: Callable[[Any], Any]) -> bool:
    """Whether a handler says in its annotation that it returns Records."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    annotation = getattr(handler, "__annotations__", {}).get("return")
    return annotation is not None and "Record" in (annotation if isinstance(annotation, str) else repr(annotation))


def rows_from(output: str | None, encode: Encode, *, empty_is_nothing: bool) -> Callable[[Job, Any], list[Row] | None]:
    """What turns a handler's result into rows. empty_is_nothing: an empty list is one of Records."""

    def value_of(result: Any) -> bytes | None:
        try:
            value = encode(result)
        except Exception as error:
            raise EncodeError(f"the handler returned {describe(result)}, which cannot be encoded: {error}") from error
        return value

    def record_row(job: Job, record: Record) -> Row:
        topic = record.topic or output
        if topic is None:
            raise EncodeError("the handler returned a Record without a topic, and the route has no output; give it a topic")
        value = record.value if record.value is None or isinstance(record.value, bytes) else value_of(record.value)
        key = job.key if record.key is INHERIT else record.key
        headers = job.headers if record.headers is INHERIT else _headers_of(record)
        timestamp = record.timestamp if record.timestamp is not None else job.timestamp
        _check(record, topic, key, timestamp)
        return topic, record.partition, key.encode() if isinstance(key, str) else key, value, headers, timestamp

    def rows(job: Job, result: Any) -> list[Row] | None:
        if isinstance(result, _NOT_RUN):
            return _run(job, result)
        if isinstance(result, Yielded):
            return _each(job, result)
        if isinstance(result, Record):
            return [record_row(job, result)]
        if isinstance(result, list) and result and isinstance(result[0], Record):
            if not all(isinstance(record, Record) for record in result):
                raise EncodeError("the handler returned a list of Records with something else among them")
            return [record_row(job, record) for record in result]
        if output is None or (empty_is_nothing and isinstance(result, list) and not result):
            return None
        return [(output, None, job.key, value_of(result), job.headers, job.timestamp)]

    def _run(job: Job, result: Any) -> list[Row]:
        """A generator's body has not run yet: each that it yields is a result. A coroutine's never
        would."""
        if not isinstance(result, GeneratorType):
            getattr(result, "close", lambda: None)()
            raise EncodeError(f"the handler returned {describe(result)}, which nobody awaits: its body has not run")
        return _each(job, result)

    def _each(job: Job, results: Iterable[Any]) -> list[Row]:
        found: list[Row] = []
        for one in results:
            found += (rows(job, one) or []) if one is not None else []
        return found

    return rows


#: What a call returns before any line of its body has run.
_NOT_RUN = (GeneratorType, CoroutineType, AsyncGeneratorType)
