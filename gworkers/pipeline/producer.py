"""From a job's rows to acknowledged results.

1. ``send`` sorts a job's rows by topic partition and returns at once; a topic whose partitions are
   not known yet is looked up by a greenlet of its own, and its rows wait for it, in order;
2. at the end of the hub's turn, or a few milliseconds later when other results are on their way,
   one greenlet appends what has come together to kafka-python's batches, a block a partition;
3. when the broker acknowledges a batch, the delivery gets the jobs whose last row was in it, in one
   go; when it refuses one for good, the delivery gets the job with a SendError.

No worker waits for an acknowledgement. What is out is bounded by the pipeline's Ledger, which
counts results too.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Sequence

import gevent
from gevent.event import Event

from gworkers.errors import NoRightError, SendError, one_line
from gworkers.handlers.job import Job, Row
from gworkers.handlers.partition import Partition
from gworkers.kafka.errors import Kind, PartitionGoneError, classify, is_kafkas
from gworkers.kafka.membership import ASK_AGAIN
from gworkers.kafka.producing import check_size
from gworkers.kafka.protocols import Membership, ProducerClient, TopicPartition
from gworkers.loop import Fatal, Loop, after
from gworkers.pipeline.output_topic import Topic
from gworkers.pipeline.receiver import Receiver

log = logging.getLogger(__name__)

#: How many keys' partitions are remembered. murmur2 in Python costs 4 µs for a key of 10 bytes, a
#: look-up 0.1 µs.
CACHED_KEYS = 50_000

#: While results are on their way to the broker, further ones are gathered for so long, in seconds.
#: A request costs kafka-python as much as 30 rows; at 10,000 results a second this saves 20 % of
#: the process's time. A lone result finds nothing on its way and goes at once.
GATHER = 0.003

#: Rows that are appended in one go, 3 to 4 µs each, before the others on the hub have a turn.
APPEND_AT_ONCE = 1000

#: Seconds between two looks for a topic that is not there, and between two looks for partitions
#: that were added.
TOPIC_INTERVAL = 0.5
GROWTH_INTERVAL = 1.0

#: Results that wait for longer than this, in seconds, are told.
SAY_WAITING_AFTER = 5.0

#: How long a topic that cannot be had is believed to be so, in seconds.
REFUSED_FOR = 5.0


class Producer:
    """One thread-safe producer, shared by all workers. All methods run on the hub's thread."""

    def __init__(self, client: ProducerClient, membership: Membership, receiver: Receiver, fatal: Fatal) -> None:
        self._membership = membership
        self._receiver = receiver
        self._fatal = fatal
        self._topics: dict[str, Topic] = {}
        self._pending: dict[TopicPartition, tuple[list[Row], list[Job]]] = {}
        self._due = Event()
        self._look_ups: set[Loop] = set()
        self._loops = [Loop("producer", self._flush, fatal), Loop("output topics", self._watch_topics, fatal)]
        self._generation = 0  # of clients: what an earlier one says does not count
        self.unacknowledged = 0
        self.sent = 0
        self.waiting_for = 0.0  # seconds in which results were out and none was acknowledged
        self.use(client)

    def use(self, client: ProducerClient) -> None:
        """Send with ``client`` from now on; nothing of what an earlier one had may be on its way
        (``forget``)."""
        self._client = client
        generation = self._generation

        def heard(jobs: Sequence[Job], rows: Sequence[Row], errors: Callable[[int], BaseException] | None) -> None:
            if generation == self._generation:
                if errors is None:
                    self._acknowledged(jobs)
                else:
                    self._not_taken(jobs, rows, errors)

        self._hear = heard
        client.hold_back(self._membership.sure, ASK_AGAIN)
        for topic in self._topics.values():
            client.watch(topic.name)

    def forget(self) -> None:
        """Nothing of what has been handed over and not acknowledged will be heard of again, in one
        way or the other."""
        self._generation += 1
        self._pending.clear()
        self.unacknowledged = 0

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self, timeout: float) -> None:
        """Stop sending and close the client, waiting up to ``timeout`` seconds for what is out.
        Blocks."""
        for loop in (*self._loops, *self._look_ups):
            loop.stop()
        self._client.close(timeout)

    # -- rows

    def knows(self, rows: Sequence[Row]) -> bool:
        """Whether the topics of ``rows`` are known, so that these can be sent at once; the others
        are looked up from now on."""
        return all((self._topics.get(row[0]) or self._look_up(row[0])).waiting is None for row in rows)

    def check(self, rows: Sequence[Row]) -> None:
        """Raises RecordTooLargeError when one of the rows is more than may be sent."""
        for row in rows:
            check_size(row, self._client.max_request_size)

    def send(self, job: Job, rows: Sequence[Row]) -> None:
        """Send all rows of a job. The receiver hears of it once, later. Never blocks."""
        job.unacknowledged = len(rows)
        self.unacknowledged += len(rows)
        for row in rows:
            self._add(self._topics.get(row[0]) or self._look_up(row[0]), row, job)

    def drop(self, partitions: Collection[Partition]) -> list[Job]:
        """Take out the rows of fenced partitions that have not been handed to kafka-python. Returns
        the jobs nothing more will come of."""
        gone = set(partitions)
        dropped: list[Job] = []

        def keep(job: Job) -> bool:
            if job.partition not in gone:
                return True
            self.unacknowledged -= 1
            job.unacknowledged -= 1
            if not job.unacknowledged:
                dropped.append(job)
            return False

        for tp, (rows, jobs) in list(self._pending.items()):
            if any(job.partition in gone for job in jobs):
                kept = [(row, job) for row, job in zip(rows, jobs, strict=True) if keep(job)]
                self._pending[tp] = [row for row, _ in kept], [job for _, job in kept]
        for topic in self._topics.values():
            if topic.waiting is not None:
                topic.waiting = [(row, job) for row, job in topic.waiting if keep(job)]
        return dropped

    def discard_unsent(self, error: SendError) -> None:
        """Fail what has been handed to kafka-python and is not yet on its way."""
        self._client.discard_unsent(error)

    def _add(self, topic: Topic, row: Row, job: Job) -> None:
        number, key = row[1], row[2]
        if topic.error is not None:
            self._refuse_for(topic, job, topic.error)
            return
        if topic.waiting is not None:
            topic.waiting.append((row, job))
            return
        if number is None:
            if key is None:
                number = topic.next = (topic.next + 1) % len(topic.partitions)
            elif (found := topic.of_key.get(key)) is not None:
                number = found
            else:
                number = self._client.partition_of(key, len(topic.partitions))
                if len(topic.of_key) >= CACHED_KEYS:
                    topic.of_key.clear()
                topic.of_key[key] = number
        elif not 0 <= number < len(topic.partitions):
            error = SendError(f"{topic.name} has {len(topic.partitions)} partitions, and the handler named {number}")
            error.of_message = True
            self._refuse(job, error)
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
            if self.unacknowledged > sum(len(rows) for rows, _ in self._pending.values()):
                gevent.sleep(GATHER)
            while not self._membership.sure():
                gevent.sleep(ASK_AGAIN)
            self._due.clear()
            pending, self._pending = self._pending, {}
            generation = self._generation
            try:
                self._append(pending, generation)
            except Exception as error:
                if not is_kafkas(error):
                    raise
                if generation == self._generation:
                    self._receiver.broke(error)

    def _append(self, pending: dict[TopicPartition, tuple[list[Row], list[Job]]], generation: int) -> None:
        append, hear = self._client.append, self._hear
        appended = 0
        for tp, (rows, jobs) in pending.items():
            for start in range(0, len(rows), APPEND_AT_ONCE):
                append(tp, rows[start : start + APPEND_AT_ONCE], jobs[start : start + APPEND_AT_ONCE], hear)
                appended += min(APPEND_AT_ONCE, len(rows) - start)
                if appended >= APPEND_AT_ONCE:
                    gevent.sleep(0)
                    appended = 0
                    if generation != self._generation:
                        return

    # -- what became of them

    # Both are called on the Sender greenlet; nothing in them waits.

    def _acknowledged(self, jobs: Sequence[Job]) -> None:
        count = len(jobs)
        self.sent += count
        self.unacknowledged -= count
        whole: list[Job] = []
        done = whole.append
        for job in jobs:
            job.unacknowledged -= 1
            if not job.unacknowledged:
                if job.error is None:
                    done(job)
                else:
                    self._receiver.refused(job)
        if whole:
            self._receiver.acknowledged(whole)

    def _not_taken(self, jobs: Sequence[Job], rows: Sequence[Row], errors: Callable[[int], BaseException]) -> None:
        """A batch was refused for good: those of its rows that the broker names, for what they are;
        the others are sent again as they are, which ends because each time some are named."""
        for index, (job, row) in enumerate(zip(jobs, rows, strict=True)):
            error = errors(index)
            kind = classify(error)
            if kind is Kind.SEND_AGAIN and job.partition.active:
                self._add(self._topics.get(row[0]) or self._look_up(row[0]), row, job)
                continue
            no_right = self._client.no_right(error)
            if no_right is not None and row[0] in job.partition.route.targets:
                self._refuse(job, NoRightError(no_right))
                continue
            sentence = SendError(f"the broker refused the result: {one_line(error)}")
            sentence.too_large = kind is Kind.RECORD_TOO_LARGE
            sentence.of_message = kind in (Kind.RECORD_REFUSED, Kind.RECORD_TOO_LARGE)
            sentence.retriable = not sentence.of_message
            if kind in (Kind.TOPIC_NOT_ALLOWED, Kind.TOPIC_REFUSED):
                sentence.of_message = row[0] in str(error)
            self._refuse(job, sentence)

    def _refuse(self, job: Job, error: SendError) -> None:
        self.unacknowledged -= 1
        job.unacknowledged -= 1
        job.error = error
        if not job.unacknowledged:
            self._receiver.refused(job)

    # -- topics

    def _look_up(self, name: str) -> Topic:
        topic = self._topics[name] = Topic(name)
        loop = Loop(f"look-up of {name}", lambda: self._find_partitions(topic), self._fatal, ends=True)
        self._look_ups.add(loop)
        loop.greenlet.link(lambda _: self._look_ups.discard(loop))
        loop.start()
        return topic

    def _find_partitions(self, topic: Topic) -> None:
        """Ask until the topic is there; say so once when it is not. Its rows wait meanwhile, and
        with them the buffer."""
        for attempt in itertools.count():
            count = 0
            try:
                count = self._client.partitions_for(topic.name)
            except Exception as error:
                if classify(error) not in (Kind.PASSING, Kind.TIMED_OUT):
                    self._give_up(topic, error)
                    return
            if count:
                break
            if not attempt:
                log.warning(
                    "the topic %s does not exist, and the broker does not make it; results for it wait until somebody does", topic.name
                )
            gevent.sleep(TOPIC_INTERVAL)
        if attempt:
            log.info("the topic %s is there now", topic.name)
        topic.has(count)
        waiting, topic.waiting = topic.waiting or [], None
        for row, job in waiting:
            self._add(topic, row, job)

    def _watch_topics(self) -> None:
        """Take up partitions that were added to output topics, or that are gone because a topic was
        made anew with fewer; and say so when results wait for long."""
        last_sent, since, said = 0, time.monotonic(), False
        while True:
            gevent.sleep(GROWTH_INTERVAL)
            for topic in list(self._topics.values()):
                if topic.waiting is None and topic.error is None:
                    self._compare(topic)
            now = time.monotonic()
            if self.sent != last_sent or not self.unacknowledged:
                if said:
                    log.info("results are acknowledged again, after %.0f s", now - since)
                last_sent, since, said = self.sent, now, False
            self.waiting_for = now - since
            if self.waiting_for > SAY_WAITING_AFTER and not said:
                said = True
                log.warning(
                    "%d results have waited for %.0f s to be acknowledged by Kafka, and none was meanwhile; they are kept and sent on",
                    self.unacknowledged,
                    self.waiting_for,
                )

    def _compare(self, topic: Topic) -> None:
        """What a topic has now with what it had."""
        count, had = self._client.known_partitions(topic.name), len(topic.partitions)
        if count and count != had:
            topic.has(count)
        if 0 < count < had:
            log.warning("%s has %d partitions in place of %d: it was made anew; results go to those", topic.name, count, had)
        if count and topic.most > count:
            self._client.discard_partitions(topic.name, count, PartitionGoneError())

    def _give_up(self, topic: Topic, error: Exception) -> None:
        """Refuse what waits for the topic, and what comes for it in the next seconds; whoever comes
        then looks again."""
        refusal = SendError(f"results cannot be sent to {topic.name}: {one_line(error)}")
        refusal.of_message = True
        topic.no_right = self._client.no_right(error)
        waiting, topic.waiting, topic.error = topic.waiting or [], None, refusal
        after(REFUSED_FOR, f"look-up of {topic.name}", self._fatal, self._topics.pop, topic.name, None)
        for _, job in waiting:
            self._refuse_for(topic, job, refusal)

    def _refuse_for(self, topic: Topic, job: Job, refusal: SendError) -> None:
        """Nothing can be sent to the topic: the message's fault where the handler has named it."""
        ours = topic.no_right is not None and topic.name in job.partition.route.targets
        self._refuse(job, NoRightError(topic.no_right) if ours else refusal)
