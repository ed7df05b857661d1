"""From a route's configuration to one function of a Job: decode, call the handler, encode.

``compile_route`` puts the pieces together once; what is left for each message is three calls. ``Route.handle(job)`` never raises:
it leaves rows or an error in the job. It runs where handlers run, so that decoding and encoding cost the hub nothing.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import gevent

from gworkers.config import schema
from gworkers.config.units import format_duration
from gworkers.errors import DecodeError, EncodeError, ExpiredError, PassedOverError
from gworkers.expressions import Expression, text_of
from gworkers.message import INHERIT, Message, Record
from gworkers.pipeline.batches import HandleBatch, compile_batch
from gworkers.pipeline.job import Job, Row

Decode = Callable[[bytes], Any]
Encode = Callable[[Any], "bytes | None"]

#: How much work a hop takes along, in seconds, and how many messages at the most. Longer handlers go one at a time.
HOP = 0.002
HOP_MESSAGES = 64


class Route:
    """A route, ready to run. ``block_size`` follows the measured time of its handler."""

    def __init__(self, name: str, config: schema.Route, handle: Callable[[Job], None], handle_batch: HandleBatch | None = None) -> None:
        self.name = name
        self.config = config
        self.handle = handle
        self.handle_batch = handle_batch  # in place of ``handle`` on a route with batches
        self.batch = config.batch
        self.batch_of_lane = config.batch is not None and (config.batch.by == "key" or config.order == "partition")
        self.lane_of = _LANES["key of a batch" if self.batch_of_lane and config.order == "key" else config.order]
        self.timeout = config.timeout
        self.paced = bool(config.rate is not None or config.uses or config.delay or config.retry.topics or config.batch)
        self.retry_topics = retry_topics(config)
        self.block_size = 1
        self.handler_time = 0.0  # seconds a message, smoothed
        self.never: tuple[type[BaseException], ...] = ()
        self.only: tuple[type[BaseException], ...] = ()

    def consumes(self, topic: str) -> bool:
        """Whether messages of ``topic`` take this route."""
        return matches(self.config, topic) or topic in self.retry_topics

    def delay_of(self, topic: str) -> float:
        """Seconds that a message of ``topic`` waits, from its timestamp on."""
        return self.retry_topics.get(topic, self.config.delay or 0.0)

    def next_topic(self, topic: str) -> str | None:
        """The retry topic for a message that failed for the last time in ``topic``; None after the last one."""
        base = next((base for base in self.config.topics if topic == base or topic.startswith(base + RETRY)), None)
        following = [name for name in self.retry_topics if base is not None and name.startswith(base + RETRY)]
        at = following.index(topic) + 1 if topic in following else 0
        return following[at] if at < len(following) else None

    def measured(self, busy: float, count: int) -> None:
        """Note that ``count`` messages took ``busy`` seconds, and choose how many the next hop takes along."""
        each = busy / count
        self.handler_time = time = each if not self.handler_time else self.handler_time + 0.2 * (each - self.handler_time)
        self.block_size = HOP_MESSAGES if time * HOP_MESSAGES <= HOP else max(1, int(HOP / time))


#: Between a topic's name and the delay of one of its retry topics.
RETRY = ".retry."


def retry_topics(route: schema.Route) -> dict[str, float]:
    """The route's retry topics in their order, a topic after the other, with their delays in seconds."""
    return {f"{topic}{RETRY}{format_duration(delay)}": delay for topic in route.topics for delay in route.retry.topics}


def matches(route: schema.Route, topic: str) -> bool:
    """Whether messages of ``topic`` take this route: it is named, or the pattern matches from its beginning, as Kafka's own do."""
    return topic in route.topics or bool(route.pattern and re.match(route.pattern, topic))


_LANES: dict[str, Callable[[Job], Any] | None] = {
    "none": None,
    "key": lambda job: job.key,
    "key of a batch": lambda job: job.key if job.key is not None else True,  # those without a key go together
    "partition": lambda job: True,
}


def compile_route(name: str, config: schema.Route, handler: Callable[[Any], Any], decode: Decode, encode: Encode) -> Route:
    """The Route for a configuration whose names have been resolved."""
    output = config.output
    as_message = config.pass_ == "message"
    timeout = config.timeout
    plain = _plain(output, encode)

    check = _checks(config)
    when = Expression(config.when, schema.WHEN_NAMES) if config.when is not None else None
    when_value = when is not None and "value" in when.names

    def value_of(job: Job) -> Any:
        """What the handler is called with."""
        value: Any = job.value
        if check is not None:
            check(job)
        if value is not None:
            try:
                value = decode(value)
            except Exception as error:
                raise DecodeError(f"the value is no {config.decode}: {error}") from error
        if when is not None and when_value:
            _pass_over_unless(when, job, value)
        if as_message:
            topic, number, offset = job.partition.topic, job.partition.number, job.offset
            if job.origin is not None:
                topic, number, offset = job.origin.topic, job.origin.partition, job.origin.offset
            deadline = time.monotonic() + timeout if timeout is not None else None
            headers = tuple(job.headers)
            value = Message(topic, number, offset, job.key, value, headers, job.timestamp, job.attempt, deadline)
        return value

    def handle(job: Job) -> None:
        try:
            result = handler(value_of(job))
            job.rows = plain(job, result) if result is not None else None
            job.error = None
        except gevent.GreenletExit:
            raise
        except BaseException as error:  # SystemExit and the like fail the message, not the process
            job.error = _presentable(error)

    batches = compile_batch(handler, value_of, plain, _presentable) if config.batch is not None else None
    return Route(name, config, handle, batches)


def _presentable(error: BaseException) -> BaseException:
    """The error itself, or another in its place when it fails as soon as it is looked at: it must do so here and not on the hub."""
    try:
        for name in ("__class__", "__cause__", "__context__", "__traceback__", "args", "retry_after", "errno", "description", "code"):
            getattr(error, name, None)
    except Exception as failed:
        return RuntimeError(f"the handler raised a {type(error).__name__}, which fails when it is looked at: {type(failed).__name__}")
    return error


def _checks(config: schema.Route) -> Callable[[Job], None] | None:
    """What is looked at before a message is decoded: its age, and a ``when`` that does not ask for its value."""
    when = Expression(config.when, schema.WHEN_NAMES) if config.when is not None else None
    if when is not None and "value" in when.names:
        when = None
    age = config.max_age if config.max_age is not None and config.max_age.then != "handle" else None
    if when is None and age is None:
        return None

    def check(job: Job) -> None:
        if age is not None and 0 <= job.timestamp < (time.time() - age.after) * 1000:
            if age.then == "drop":
                raise PassedOverError
            raise ExpiredError(f"the message is {time.time() - job.timestamp / 1000:.0f} s old, and max_age is {age.after:g} s")
        if when is not None:
            _pass_over_unless(when, job, None)

    return check


def _pass_over_unless(when: Expression, job: Job, value: Any) -> None:
    def look(name: str) -> Any:
        if name == "value":
            return value
        if name == "headers":
            return {header: text_of(content) for header, content in job.headers}
        if name == "key":
            return text_of(job.key)
        if name == "topic":
            return job.partition.topic
        if name == "partition":
            return job.partition.number
        return job.offset if name == "offset" else job.timestamp

    if not when.matches(look):
        raise PassedOverError


def _plain(output: str | None, encode: Encode) -> Callable[[Job, Any], list[Row] | None]:
    """What turns a handler's result into rows."""

    def value_of(result: Any) -> bytes | None:
        try:
            value = encode(result)
        except Exception as error:
            raise EncodeError(f"the handler returned {_describe(result)}, which cannot be encoded: {error}") from error
        return value

    def record_row(job: Job, record: Record) -> Row:
        topic = record.topic or output
        if topic is None:
            raise EncodeError("the handler returned a Record without a topic, and the route has no output; give it a topic")
        key = job.key if record.key is INHERIT else record.key
        headers = job.headers if record.headers is INHERIT else [(name, value) for name, value in record.headers]
        value = record.value if record.value is None or isinstance(record.value, bytes) else value_of(record.value)
        timestamp = record.timestamp if record.timestamp is not None else job.timestamp
        return topic, record.partition, key.encode() if isinstance(key, str) else key, value, headers, timestamp

    def rows(job: Job, result: Any) -> list[Row] | None:
        if isinstance(result, Record):
            return [record_row(job, result)]
        if isinstance(result, list) and result and isinstance(result[0], Record):
            if not all(isinstance(record, Record) for record in result):
                raise EncodeError("the handler returned a list of Records with something else among them")
            return [record_row(job, record) for record in result]
        if output is None:
            return None
        return [(output, None, job.key, value_of(result), job.headers, job.timestamp)]

    return rows


def _describe(value: Any) -> str:
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def _identity(value: bytes) -> bytes:
    return value


def _encode_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError("bytes are wanted; set encode: text or json, or return bytes")


def _encode_text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("text is wanted; set encode: json, or return a str")
    return value.encode()


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _encode_json(value: Any) -> bytes:
    return _to_json(value).encode()


def custom_encode(function: Callable[[Any], Any]) -> Encode:
    """An encoder of the application's own, held to what it must return."""

    def encode(value: Any) -> bytes | None:
        encoded = function(value)
        if encoded is not None and not isinstance(encoded, bytes):
            raise TypeError(f"the encoder returned {_describe(encoded)}, not bytes")
        return encoded

    return encode


DECODERS: dict[str, Decode] = {"bytes": _identity, "text": bytes.decode, "json": json.loads}
ENCODERS: dict[str, Encode] = {"bytes": _encode_bytes, "text": _encode_text, "json": _encode_json}
