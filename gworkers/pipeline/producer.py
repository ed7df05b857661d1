"""From finished jobs to acknowledged results.

1. ``send`` sorts a job's rows by topic partition and returns at once; a topic whose partitions are not known yet is looked
   up by a greenlet of its own, and its rows wait for it, in order;
2. at the end of the hub's turn, or a few milliseconds later when other results are on their way, one greenlet appends what has come
   together to kafka-python's batches, a block a partition;
3. when the broker acknowledges a batch, ``settled`` gets each job whose last row that was; when it refuses one for good,
   ``failed`` gets the job with a SendError.

No worker waits for an acknowledgement. What is out is bounded by the pipeline's Buffer, which counts results too.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event

from gworkers.errors import FatalError, SendError
from gworkers.kafka import blocks, green
from gworkers.kafka.membership import LOOK, Membership
from gworkers.pipeline.dead_letters import one_line
from gworkers.pipeline.job import Job, Row
from gworkers.pipeline.partition import Partition

log = logging.getLogger(__name__)

#: How many keys' partitions are remembered. murmur2 in Python costs 4 µs for a key of 10 bytes, a look-up 0.1 µs.
CACHED_KEYS = 50_000

#: While results are on their way to the broker, further ones are gathered for so long, in seconds. A request costs kafka-python as
#: much as 30 rows; at 10,000 results a second this saves 20 % of the process's time. A lone result finds nothing on its way and
#: goes at once.
GATHER = 0.003


#: Rows that are appended in one go, 3 to 4 µs each, before the others on the hub have a turn.
APPEND = 1000


class Topic:
    """An output topic: its partitions once they are known, and the rows that wait until then."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.partitions: list[Any] = []  # TopicPartitions by number
        self.of_key: dict[bytes, int] = {}
        self.waiting: list[tuple[Row, Job]] | None = []  # None once the partitions are known
        self.next = 0  # for rows without a key: they go round
        self.error: SendError | None = None  # why nothing can be sent to it


class Producer:
    """One thread-safe KafkaProducer, shared by all workers. All methods run on the hub's thread."""

    def __init__(
        self,
        client: Any,
        settled: Callable[[Job], None],
        failed: Callable[[Job], object],
        fatal: Callable[[BaseException], None],
        broke: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._settled = settled
        self._failed = failed
        self._fatal = fatal
        self._broke = broke  # in place of fatal, where a transaction can be sent again
        self._murmur2 = green.module("kafka.partitioner.default").murmur2
        self._tp = green.module("kafka.structs").TopicPartition
        self._topics: dict[str, Topic] = {}
        self._pending: dict[Any, tuple[list[Row], list[Job]]] = {}
        self._due = Event()
        self._greenlet: gevent.Greenlet | None = None
        self._looking: set[gevent.Greenlet] = set()
        self._membership: Membership | None = None
        self._generation = 0  # of clients: what an earlier one says does not count
        self.unacknowledged = 0
        self.sent = 0
        self.use(client)
        if self._blocks is None:
            log.warning(
                "kafka-python %s is not one of the versions whose inside is known; messages are sent one by one, which is slower",
                ".".join(map(str, blocks.version())),
            )

    def use(self, client: Any) -> None:
        """Send with ``client`` from now on; nothing of what an earlier one had may be on its way (``forget``)."""
        self._client = client
        self._most: int = client.config["max_request_size"]
        generation = self._generation

        def acknowledged(jobs: Sequence[Job], errors: Callable[[int], BaseException] | None) -> None:
            if generation == self._generation:
                self._acknowledged(jobs, errors)

        self._heard = acknowledged
        self._blocks = blocks.BlockProducer(client, acknowledged) if blocks.known() else None
        if self._membership is not None:
            self._membership.guard(client)
        for topic in self._topics.values():
            client._sender.add_topic(topic.name)

    def forget(self) -> None:
        """Nothing of what has been handed over and not acknowledged will be heard of again, in one way or the other."""
        self._generation += 1
        self._pending.clear()
        self.unacknowledged = 0

    def knows(self, rows: Sequence[Row]) -> bool:
        """Whether the topics of ``rows`` are known, so that these can be sent at once; the others are looked up from now on."""
        return all((self._topics.get(row[0]) or self._look_up(row[0])).waiting is None for row in rows)

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._flush)

    def stop(self, timeout: float) -> None:
        """Stop sending and close the client, waiting up to ``timeout`` seconds for what is out. Blocks."""
        for greenlet in (self._greenlet, *self._looking):
            if greenlet is not None:
                greenlet.kill(block=False)
        self._client.close(timeout=timeout)

    def check(self, rows: Sequence[Row]) -> None:
        """Raises RecordTooLargeError when one of the rows is more than may be sent."""
        for row in rows:
            blocks.check_size(row, self._most)

    def send(self, job: Job, rows: Sequence[Row]) -> None:
        """Send all rows of a job. ``settled`` or ``failed`` is called once for it, later. Never blocks."""
        job.unacknowledged = len(rows)
        self.unacknowledged += len(rows)
        for row in rows:
            topic = self._topics.get(row[0]) or self._look_up(row[0])
            if topic.waiting is not None:
                topic.waiting.append((row, job))
            else:
                self._add(topic, row, job)

    def drop(self, partition: Partition) -> list[Job]:
        """Take out the rows of a fenced partition that have not been handed to kafka-python. Returns the jobs nothing more will come of."""
        dropped: list[Job] = []

        def keep(job: Job) -> bool:
            if job.partition is not partition:
                return True
            self.unacknowledged -= 1
            job.unacknowledged -= 1
            if not job.unacknowledged:
                dropped.append(job)
            return False

        for tp, (rows, jobs) in list(self._pending.items()):
            if any(job.partition is partition for job in jobs):
                kept = [(row, job) for row, job in zip(rows, jobs, strict=True) if keep(job)]
                self._pending[tp] = [row for row, _ in kept], [job for _, job in kept]
        for topic in self._topics.values():
            if topic.waiting is not None:
                topic.waiting = [(row, job) for row, job in topic.waiting if keep(job)]
        return dropped

    def guard(self, membership: Membership | None) -> None:
        """Send only while the consumer may believe that its partitions are its own."""
        self._membership = membership
        if membership is not None:
            membership.guard(self._client)

    def abandon(self) -> None:
        """The partitions have been lost: drop what is not yet on its way."""
        if self._membership is not None:
            self._membership.abandon(self._client, SendError("the partition was lost before its result was sent"))

    def _add(self, topic: Topic, row: Row, job: Job) -> None:
        number, key = row[1], row[2]
        if topic.error is not None:
            self._refused(job, topic.error)
            return
        if number is None:
            if key is None:
                number = topic.next = (topic.next + 1) % len(topic.partitions)
            elif (found := topic.of_key.get(key)) is not None:
                number = found
            else:
                number = (self._murmur2(key) & 0x7FFFFFFF) % len(topic.partitions)
                if len(topic.of_key) >= CACHED_KEYS:
                    topic.of_key.clear()
                topic.of_key[key] = number
        elif not 0 <= number < len(topic.partitions):
            error = SendError(f"{topic.name} has {len(topic.partitions)} partitions, and the handler named {number}")
            error.of_message = True
            self._refused(job, error)
            return
        tp = topic.partitions[number]
        pending = self._pending
        if tp in pending:
            rows, jobs = pending[tp]
            rows.append(row)
            jobs.append(job)
        else:
            if not pending:
                self._due.set()
            pending[tp] = [row], [job]

    def _flush(self) -> None:
        while True:
            self._due.wait()
            if self.unacknowledged > self._pending_rows():
                gevent.sleep(GATHER)
            while self._membership is not None and not self._membership.sure():
                gevent.sleep(LOOK)
            self._due.clear()
            pending, self._pending = self._pending, {}
            generation = self._generation
            appended = 0
            append = self._blocks.append if self._blocks is not None else self._send_each
            for tp, (rows, jobs) in pending.items():
                try:
                    for start in range(0, len(rows), APPEND):
                        append(tp, rows[start : start + APPEND], jobs[start : start + APPEND])
                        appended += min(APPEND, len(rows) - start)
                        if appended >= APPEND:
                            gevent.sleep(0)
                            appended = 0
                            if generation != self._generation:
                                raise SendError("the transaction of these results has been given up")
                except Exception as error:
                    if self._broke is not None:
                        if generation == self._generation:
                            self._broke(error)
                        break
                    self._fatal(FatalError(f"results for {tp.topic}[{tp.partition}] cannot be sent: {one_line(error)}"))
                    return

    def _pending_rows(self) -> int:
        return sum(len(rows) for rows, _ in self._pending.values())

    def _send_each(self, tp: Any, rows: Sequence[Row], jobs: Sequence[Job]) -> None:
        """The way through the public ``send()``, for versions of kafka-python that blocks.py does not know."""
        heard = self._heard
        for (_, _, key, value, headers, timestamp), job in zip(rows, jobs, strict=True):
            if key is None and value is None:
                value = b""  # send() refuses a record of nothing
            stamp = timestamp if timestamp is not None and timestamp >= 0 else None
            future = self._client.send(tp.topic, value, key, list(headers), tp.partition, stamp)
            future.add_callback(lambda _, job=job: heard((job,), None))
            future.add_errback(lambda error, job=job: heard((job,), lambda _: error))

    def _acknowledged(self, jobs: Sequence[Job], errors: Callable[[int], BaseException] | None) -> None:
        """On the Sender greenlet; nothing here waits."""
        if errors is None:
            settled = self._settled
            count = len(jobs)
            self.sent += count
            self.unacknowledged -= count
            for job in jobs:
                job.unacknowledged -= 1
                if not job.unacknowledged:
                    if isinstance(job.error, SendError):
                        self._failed(job)
                    else:
                        settled(job)
            return
        for index, job in enumerate(jobs):
            error = errors(index)
            sentence = SendError(f"the broker refused the result: {one_line(error)}")
            sentence.retriable = type(error).__name__ not in ("MessageSizeTooLargeError", "RecordListTooLargeError", "InvalidRecordError")
            sentence.of_message = not sentence.retriable or _names_a_topic_of(error, job)
            self._refused(job, sentence)

    def _refused(self, job: Job, error: SendError) -> None:
        self.unacknowledged -= 1
        job.unacknowledged -= 1
        job.error = error
        if not job.unacknowledged:
            self._failed(job)

    # -- topics

    def _look_up(self, name: str) -> Topic:
        topic = self._topics[name] = Topic(name)
        greenlet = gevent.spawn(self._find_partitions, topic)
        self._looking.add(greenlet)
        greenlet.link(self._looking.discard)
        return topic

    def _find_partitions(self, topic: Topic) -> None:
        """Ask until the topic is there; say so once when it is not. Its rows wait meanwhile, and with them the buffer."""
        for attempt in itertools.count():
            try:
                numbers = self._client.partitions_for(topic.name)
            except Exception as error:
                numbers = None
                if not getattr(error, "retriable", False) and type(error).__name__ != "KafkaTimeoutError":
                    self._give_up(topic, error)
                    return
            if numbers:
                break
            if not attempt:
                log.warning(
                    "the topic %s does not exist, and the broker does not make it; results for it wait until somebody does", topic.name
                )
            gevent.sleep(0.5)
        if attempt:
            log.info("the topic %s is there now", topic.name)
        topic.partitions = [self._tp(topic.name, number) for number in range(len(numbers))]
        waiting, topic.waiting = topic.waiting or [], None
        for row, job in waiting:
            self._add(topic, row, job)

    def refresh(self) -> None:
        """Take up partitions that were added to output topics; called now and then."""
        for topic in self._topics.values():
            numbers = self._client._metadata.partitions_for_topic(topic.name)
            if topic.waiting is None and numbers and len(numbers) > len(topic.partitions):
                topic.partitions = [self._tp(topic.name, number) for number in range(len(numbers))]
                topic.of_key.clear()

    def _give_up(self, topic: Topic, error: Exception) -> None:
        del self._topics[topic.name]
        refusal = SendError(f"results cannot be sent to {topic.name}: {one_line(error)}")
        refusal.of_message = True
        if self._broke is not None:  # nothing waits here; whoever comes next is told, and the one after that looks again
            self._topics[topic.name], topic.error, topic.waiting = topic, refusal, None
            gevent.spawn_later(5.0, self._topics.pop, topic.name, None)
        for _, job in topic.waiting or []:
            self._refused(job, refusal)


def _names_a_topic_of(error: BaseException, job: Job) -> bool:
    """Whether an error is about the topic of one of the job's rows, and not about what was on its way with it."""
    if type(error).__name__ not in ("TopicAuthorizationFailedError", "InvalidTopicError", "PolicyViolationError"):
        return False
    return any(row[0] in str(error) for row in job.rows or ())
