"""A configuration without a broker: for the tests of an application.

    from gworkers.testing import Application

    def test_an_unknown_product_is_a_dead_letter():
        app = Application("conf/app.yaml")
        app.send("orders", {"order": 1, "product": "pear"}, key="c-7")
        came = app.run()
        assert [letter.exception for letter in came.dead] == ["shop.pricing.UnknownProduct"]

What decodes, orders, calls, encodes, tries again and gives up is what serves in production. In the
place of Kafka there are lists, in the place of threads the calling one, so that there are neither time
limits nor anything at the same time; rates, limits and delays let everything through. Waits for
another attempt take no time: ``came.waited`` says how long they would have been.

A topic that a route consumes and another route, or a handler, sends to is gone on with, retry topics
as well.
"""

from __future__ import annotations

import heapq
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gworkers.config.load import Loaded, load, validate
from gworkers.config.schema import Config
from gworkers.config.yaml import Document
from gworkers.errors import UsageError
from gworkers.events import Events
from gworkers.handlers import batches, loading, slot
from gworkers.handlers.block import Batch, Block
from gworkers.handlers.hooks import Hooks, run_at_start, run_at_stop
from gworkers.handlers.job import Job, Row
from gworkers.handlers.partition import Partition
from gworkers.handlers.routes import message_of, route_of
from gworkers.message import Headers, Message
from gworkers.offsets.journal import NoJournal
from gworkers.pipeline import dead_letters, retry_topics
from gworkers.pipeline.delivery import Refusals
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.outcomes import Outcomes
from gworkers.pipeline.scheduler import Scheduler

#: So many messages a run may take before it is ended: routes that send to each other never end.
MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Sent:
    """A result as Kafka would have it. timestamp: in milliseconds since the epoch; partition: where
    one was asked for."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int | None
    partition: int | None

    @property
    def json(self) -> Any:
        """The value, read as JSON."""
        return json.loads(self.value) if self.value is not None else None

    @property
    def text(self) -> str | None:
        """The value as text."""
        return self.value.decode() if self.value is not None else None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that failed for good. reason: one word, as in the dead letter's header; exception: the
    class, as ``shop.pricing.UnknownProduct``; message: with its value as bytes."""

    topic: str
    route: str
    reason: str
    exception: str
    error: BaseException
    attempts: int
    message: Message


@dataclass(frozen=True, slots=True)
class Waited:
    """A message that was tried again. delay: seconds, as they would have been."""

    message: Message
    error: BaseException | None
    delay: float


@dataclass(slots=True)
class Came:
    """What a run came to, each in its order."""

    sent: list[Sent] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    retried: list[Waited] = field(default_factory=list)
    passed_over: list[Message] = field(default_factory=list)
    done: int = 0  # messages that are through
    waited: float = 0.0  # seconds, from the first message to the last


class Application:
    """A configuration: a file, a dictionary of what would stand in one, or a Config. overrides: as for
    ``--set``. Raises ConfigError for what ``gworkers check`` would say.

    ``send`` what is to be handled, ``run`` until nothing is left. As a context manager it calls the
    start and stop hooks of processes and threads.
    """

    def __init__(self, config: str | Path | Mapping[str, Any] | Config, *, overrides: Iterable[str] = ()) -> None:
        self._loaded = loaded = _loaded(config, overrides)
        self.config = loaded.config
        self._routes = loading.load_routes(loaded, begin=True)
        self._hooks: Hooks = loading.load_hooks(loaded)
        events = Events()
        ledger = Ledger(MOST, 2**63)
        self._scheduler = scheduler = Scheduler(_NobodyIdle())
        self._delivery = _Lists(self, scheduler, ledger, events)
        self._retries = _Retries()
        self._ledger = ledger
        self._outcomes = Outcomes(loaded.config, self._delivery, scheduler, self._retries, ledger, events, self._fails)  # type: ignore[arg-type]
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._error: BaseException | None = None
        self.came = Came()
        events.failed.subscribe(self._failed)
        events.retried.subscribe(self._tried_again)
        events.passed_over.subscribe(lambda job: self.came.passed_over.append(message_of(job, job.value)))

    def __enter__(self) -> Application:
        run_at_start(self._hooks.process_start, "process_start")
        run_at_start(self._hooks.thread_start, "thread_start")
        return self

    def __exit__(self, *_: object) -> None:
        run_at_stop(self._hooks.thread_stop, "thread_stop")
        run_at_stop(self._hooks.process_stop, "process_stop")

    def send(
        self,
        topic: str,
        value: Any,
        *,
        key: bytes | str | None = None,
        headers: Headers | Mapping[str, bytes | None] = (),
        timestamp: int | None = None,
        partition: int = 0,
    ) -> None:
        """A message for the next ``run``. value: bytes as they are, text in UTF-8, None, or anything
        else as JSON; timestamp: milliseconds since the epoch, now without it. Raises UsageError for a
        topic that no route consumes."""
        if route_of(self._routes, topic) is None:
            raise UsageError(f"no route consumes the topic {topic}; there are {', '.join(self._topics())}")
        if isinstance(value, str):
            value = value.encode()
        elif value is not None and not isinstance(value, bytes):
            value = json.dumps(value, ensure_ascii=False).encode()
        pairs = tuple(headers.items()) if isinstance(headers, Mapping) else tuple(headers)
        self._add(topic, partition, key.encode() if isinstance(key, str) else key, value, pairs, timestamp)

    def run(self) -> Came:
        """Handle all that has been sent, and what comes of it. Returns what it came to since the last
        run. Raises what would end the process: a message that failed for good without a dead_letter
        topic (FatalError), too many dead letters (BreakerError). Blocks."""
        self.came = came = Came()
        began = self._retries.now
        place = slot.claim_thread(NoJournal())
        try:
            while jobs := self._take():
                self._handle(jobs, place)
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                if came.done > MOST:
                    raise UsageError(f"more than {MOST:,} messages: do routes send to each other's topics without an end?")
        finally:
            slot.release_thread()
        came.waited = self._retries.now - began
        return came

    # -- the way of a message

    def _add(self, topic: str, number: int, key: bytes | None, value: bytes | None, headers: Headers, timestamp: int | None) -> None:
        partition = self._partitions.get((topic, number))
        if partition is None:
            route = route_of(self._routes, topic)
            assert route is not None
            partition = self._partitions[topic, number] = Partition(topic, number, route, 0)
        offset = partition.offsets.next or 0
        job = Job(offset, timestamp if timestamp is not None else int(time.time() * 1000), key, value, headers, len(value or b""))
        job.partition, job.read_at = partition, time.perf_counter()
        partition.offsets.begin(offset)
        if topic in partition.route.retry_topics:
            retry_topics.take_back(job, self.config.kafka.group)
        self._ledger.admit(partition, 1, job.size)
        self._scheduler.add(partition, [job])

    def _take(self) -> list[Job]:
        """The next block: of what may run, of batches that would have formed, of what is due first."""
        while True:
            jobs = self._scheduler.take(_most)
            if jobs:
                return jobs
            formed = [self._scheduler.formed(partition, float("inf")) for partition in self._partitions.values() if partition.forming]
            if formed:
                continue
            due = self._retries.due()
            if not due:
                return []
            self._scheduler.put_back(due)

    def _handle(self, jobs: list[Job], place: slot.Slot) -> None:
        route = jobs[0].partition.route
        if route.batch is not None:
            batch = Batch(route, jobs)
            batch.run(place)
            self._outcomes.complete_batch(batch.jobs, batch.whole)
        else:
            block = Block(route, jobs)
            block.run(place)
            for job in block.done:
                self._outcomes.complete(job)
        while len(self._delivery.refusals):
            self._outcomes.fail(self._delivery.refusals.take())

    def delivered(self, job: Job, rows: Sequence[Row]) -> None:
        """The rows of a job are acknowledged."""
        for topic, partition, key, value, headers, timestamp in rows:
            if not job.dead:
                self.came.sent.append(Sent(topic, key, value, tuple(headers), timestamp, partition))
            if route_of(self._routes, topic) is not None and not job.dead:
                self._add(topic, partition or 0, key, value, tuple(headers), timestamp)

    def _failed(self, job: Job, error: BaseException) -> None:
        cause = dead_letters.cause_of(error)
        name = f"{type(cause).__module__}.{type(cause).__qualname__}"
        route = job.partition.route
        reason = dead_letters.reason_of(job)
        topic = route.config.dead_letter or ""
        self.came.dead.append(DeadLetter(topic, route.name, reason, name, error, job.attempt, message_of(job, job.value)))

    def _tried_again(self, job: Job, delay: float) -> None:
        self.came.retried.append(Waited(message_of(job, job.value), job.error, delay))

    def _fails(self, error: BaseException) -> None:
        self._error = self._error or error

    def _topics(self) -> list[str]:
        return [name for route in self._routes for name in route.config.topics or (f"topics like {route.config.pattern}",)]


def _loaded(config: str | Path | Mapping[str, Any] | Config, overrides: Iterable[str]) -> Loaded:
    if isinstance(config, Config):
        return Loaded.of(config)
    if isinstance(config, (str, Path)):
        return load(Path(config), overrides)
    return validate(Document(name="the configuration", data=dict(config)), Path.cwd())


def _most(partition: Partition) -> int:
    route = partition.route
    if route.batch is None:
        return route.block_size
    if route.batch_of_lane:
        return route.batch.max_messages
    return batches.length(partition.ready, route.batch.max_messages, route.batch, route.config.retry.attempts)[0]


class _NobodyIdle:
    def wake(self, ready: int) -> None: ...


class _Retries:
    """Those of gworkers.pipeline.retries, with a clock that jumps to what is due."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()

    def add(self, job: Job, delay: float, why: str = "") -> None:
        job.attempt += 1
        heapq.heappush(self._due, (self.now + delay, next(self._numbers), job))

    def due(self) -> list[Job]:
        """What is due first."""
        if not self._due:
            return []
        at, _, job = heapq.heappop(self._due)
        self.now = max(self.now, at)
        return [job]


class _Lists:
    """A delivery (gworkers.pipeline.delivery) at which everything is acknowledged at once."""

    def __init__(self, application: Application, scheduler: Scheduler, ledger: Ledger, events: Events) -> None:
        self._application = application
        self._scheduler = scheduler
        self._ledger = ledger
        self._events = events
        self.refusals = Refusals()

    def send(self, job: Job) -> None:
        rows = job.rows or ()
        self._settle(job)
        self._application.delivered(job, rows)

    def finish(self, job: Job) -> None:
        self._settle(job)

    def _settle(self, job: Job) -> None:
        job.partition.offsets.finish(job.offset)
        self._application.came.done += 1
        if job.dead:
            self._events.dead_lettered.send(job)
        self._scheduler.finish(job)
        for follower in job.followers:
            self._settle(follower)
        self._ledger.release((job,))
