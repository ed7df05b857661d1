"""From a route's configuration to one function of a Job: decode, call the handler, encode.

``compile_route`` puts the pieces together once; what is left for each message is three calls.
``Route.handle(job)`` never raises: it leaves rows or an error in the job. It runs where handlers
run, so that decoding and encoding cost the hub nothing.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

import gevent

from gworkers.codecs import Decoder, Encode
from gworkers.config.route import WHEN_NAMES
from gworkers.config.route import Route as RouteConfig
from gworkers.config.units import format_duration
from gworkers.errors import DecodeError, ExpiredError, PassedOverError
from gworkers.expressions import Expression
from gworkers.figures import RouteFigures
from gworkers.handlers.around import Surrounding, carrying
from gworkers.handlers.batches import HandleBatch, compile_batch
from gworkers.handlers.job import Job, Row
from gworkers.handlers.results import returns_records, rows_from
from gworkers.message import Message, made
from gworkers.text import text_of

#: How much work a hop takes along, in seconds, and how many messages at the most. Longer handlers
#: go one at a time.
HOP_TIME = 0.002
HOP_MESSAGES = 64

#: Exception classes.
Errors = Sequence[type[BaseException]]


class Route:
    """A route, ready to run. ``block_size`` follows the measured time of its handler."""

    def __init__(
        self,
        name: str,
        config: RouteConfig,
        handle: Callable[[Job], None],
        handle_batch: HandleBatch | None = None,
        *,
        only: Errors = (),
        never: Errors = (),
    ) -> None:
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
        self.targets = {name for name in (config.output, config.dead_letter, *self.retry_topics) if name is not None}
        self.block_size = 1
        self.handler_time = 0.0  # seconds a message, smoothed
        self.figures = RouteFigures()
        self.only = tuple(only)  # errors that are worth another attempt, all of them when it is empty
        self.never = tuple(never)  # errors that no further attempt can help

    def names(self, topic: str) -> bool:
        """Whether it consumes ``topic`` by name, as an input or as a retry topic of its own."""
        return topic in self.config.topics or topic in self.retry_topics

    def delay_of(self, topic: str) -> float:
        """Seconds that a message of ``topic`` waits, from its timestamp on."""
        return self.retry_topics.get(topic, self.config.delay or 0.0)

    def next_topic(self, topic: str) -> str | None:
        """The retry topic for a message that failed for the last time in ``topic``; None after the
        last one."""
        base = next((base for base in self.config.topics if topic == base or topic.startswith(base + RETRY)), None)
        following = [name for name in self.retry_topics if base is not None and name.startswith(base + RETRY)]
        at = following.index(topic) + 1 if topic in following else 0
        return following[at] if at < len(following) else None

    def measured(self, busy: float, count: int) -> None:
        """Note that ``count`` messages took ``busy`` seconds, and choose how many the next hop
        takes along."""
        if not count or busy <= 0:  # all of the block was taken back before it began, or an interrupt hit its clock
            return
        each = busy / count
        self.handler_time = time = each if not self.handler_time else self.handler_time + 0.2 * (each - self.handler_time)
        self.block_size = HOP_MESSAGES if time * HOP_MESSAGES <= HOP_TIME else max(1, int(HOP_TIME / time))


def route_of(routes: Sequence[Route], topic: str) -> Route | None:
    """The route that messages of ``topic`` take: that which names it, or the first whose pattern it
    matches. A pattern takes up nothing that a route sends what has failed to, nor its own output."""
    named = next((route for route in routes if route.names(topic)), None)
    if named is not None or topic in kept_from_patterns(routes):
        return named
    return next((r for r in routes if r.config.pattern and topic != r.config.output and matches(r.config, topic)), None)


def kept_from_patterns(routes: Sequence[Route]) -> set[str]:
    """Topics that no pattern takes up: dead letters and retry topics, whichever route names them."""
    return {name for route in routes for name in (route.config.dead_letter, *route.retry_topics) if name is not None}


#: Between a topic's name and the delay of one of its retry topics.
RETRY = ".retry."


def retry_topics(route: RouteConfig) -> dict[str, float]:
    """The route's retry topics in their order, a topic after the other, with their delays in
    seconds."""
    return {f"{topic}{RETRY}{format_duration(delay)}": delay for topic in route.topics for delay in route.retry.topics}


def matches(route: RouteConfig, topic: str) -> bool:
    """Whether messages of ``topic`` take this route: it is named, or the pattern matches from its
    beginning, as Kafka's own do."""
    return topic in route.topics or bool(route.pattern and re.match(route.pattern, topic))


_LANES: dict[str, Callable[[Job], Any] | None] = {
    "none": None,
    "key": lambda job: job.key,
    "key of a batch": lambda job: job.key if job.key is not None else True,  # those without a key go together
    "partition": lambda job: True,
}


def compile_route(
    name: str,
    config: RouteConfig,
    handler: Callable[[Any], Any],
    decoder: Decoder,
    encode: Encode,
    *,
    only: Errors = (),
    never: Errors = (),
    fit: Callable[[Any], Any] | None = None,
    surrounding: Surrounding | None = None,
) -> Route:
    """The Route for a configuration whose names have been resolved. fit: what makes of a decoded value
    what the handler takes, or raises; surrounding: what the application has put around it."""
    as_message = config.pass_ == "message"
    timeout = config.timeout
    rows_of = rows_from(config.output, encode, empty_is_nothing=config.encode != "json" or returns_records(handler))
    decode, wants = decoder.function, decoder.wants

    check = _checks(config)
    when = Expression(config.when, WHEN_NAMES) if config.when is not None else None
    when_value = when is not None and "value" in when.names

    def value_of(job: Job) -> Any:
        """What the handler is called with."""
        value: Any = job.value
        if check is not None:
            check(job)
        if value is not None:
            try:
                value = decode(value) if not wants else decode(value, **_context(job, wants))
            except Exception as error:
                raise DecodeError(f"the value is not valid {config.decode}: {error}") from error
        if when is not None and when_value:
            _pass_over_unless(when, job, value)
        if fit is not None and value is not None:
            try:
                value = fit(value)
            except ValueError as error:
                raise DecodeError(str(error)) from error
        return message_of(job, value, timeout) if as_message else value

    shown = _as_it_is if as_message else functools.partial(message_of, timeout=timeout)
    work = _work(handler, value_of, rows_of) if not surrounding else _surrounded(surrounding, handler, value_of, shown, rows_of)

    def handle(job: Job) -> None:
        try:
            Context().run(work, job)  # what one message sets in a ContextVar the next does not see; 0.1 µs
        except gevent.GreenletExit:
            raise
        except BaseException as error:  # SystemExit and the like fail the message, not the process
            job.error = _presentable(error)

    around_batch = (surrounding, shown) if surrounding else None
    batches = compile_batch(handler, value_of, rows_of, _presentable, around_batch) if config.batch is not None else None
    return Route(name, config, handle, batches, only=only, never=never)


def _work(
    handler: Callable[[Any], Any], value_of: Callable[[Job], Any], rows_of: Callable[[Job, Any], list[Row] | None]
) -> Callable[[Job], None]:
    """The three calls; raises what the message fails with."""

    def work(job: Job) -> None:
        result = handler(value_of(job))
        job.rows = rows_of(job, result) if result is not None else None
        job.error = None

    return work


def _surrounded(
    surrounding: Surrounding,
    handler: Callable[[Any], Any],
    value_of: Callable[[Job], Any],
    shown: Callable[[Job, Any], Any],
    rows_of: Callable[[Job, Any], list[Row] | None],
) -> Callable[[Job], None]:
    """The same with what the application has put around. shown: the message that this gets."""
    around = surrounding.around(handler)

    def work(job: Job) -> None:
        message = None
        try:
            value = value_of(job)
            message = shown(job, value)
            result = around(message, value)
            job.rows = carrying(rows_of(job, result)) if result is not None else None
            job.error = None
        except gevent.GreenletExit:
            raise
        except BaseException as error:
            surrounding.failed(message if message is not None else shown(job, job.value), error)
            raise

    return work


def _as_it_is(job: Job, value: Any) -> Any:
    return value


def message_of(job: Job, value: Any, timeout: float | None = None) -> Message:
    """The message as the application sees it. value: as it has been decoded; timeout: of its handler,
    which begins now."""
    topic, number, offset = job.source
    deadline = time.monotonic() + timeout if timeout is not None else None
    headers = tuple([(_readable(name), content) for name, content in job.headers]) if job.headers else ()
    return made(topic, number, offset, job.key, value, headers, job.timestamp, job.attempt, deadline)


def _readable(name: str) -> str:
    """A header's name for handlers: bytes that are no UTF-8 are carried as surrogates (PEP 383), and
    shown as the replacement character."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _context(job: Job, wants: Sequence[str]) -> dict[str, Any]:
    """What a decoder asks for beside the value."""
    found = {"topic": job.source[0], "headers": job.headers}
    return {name: found[name] for name in wants}


def _presentable(error: BaseException) -> BaseException:
    """The error itself, or another in its place when it fails as soon as it is looked at: it must
    do so here and not on the hub."""
    try:
        for name in ("__class__", "__cause__", "__context__", "__traceback__", "args", "retry_after", "errno", "description", "code"):
            getattr(error, name, None)
    except Exception as failed:
        return RuntimeError(f"the handler raised a {type(error).__name__}, which fails when it is looked at: {type(failed).__name__}")
    return error


def _checks(config: RouteConfig) -> Callable[[Job], None] | None:
    """What is looked at before a message is decoded: its age, and a ``when`` that does not ask for
    its value."""
    when = Expression(config.when, WHEN_NAMES) if config.when is not None else None
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
