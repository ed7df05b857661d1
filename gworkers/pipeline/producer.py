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

import logging
import time
from collections.abc import Callable, Collection, Sequence

import gevent
from gevent.event import Event

from gworkers.errors import NoRightError, SendError, one_line
from gworkers.handlers.job import Job, Row
from gworkers.handlers.partition import Partition
from gworkers.kafka.errors import Kind, classify, is_kafkas
from gworkers.kafka.membership import ASK_AGAIN
from gworkers.kafka.producing import check_size
from gworkers.kafka.protocols import Membership, ProducerClient, TopicPartition
from gworkers.loop import Fatal, Loop, after
from gworkers.pipeline.output_topics import GROWTH_INTERVAL, OutputTopics, Topic
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

#: Results that wait for longer than this, in seconds, are told.
SAY_WAITING_AFTER = 5.0
#: Seconds between two looks whether brokers have to be looked for at other addresses.
LOOK_AGAIN_INTERVAL = 3.0

#: After how many seconds results are sent again that were refused for the time of this machine, and
#: how often that is told.
CLOCK_WAIT = 1.0
SAY_CLOCK_AGAIN = 60.0


class Producer:
    """One thread-safe producer, shared by all workers. All methods run on the hub's thread."""

    def __init__(self, client: ProducerClient, membership: Membership, receiver: Receiver, fatal: Fatal) -> None:
        self._membership = membership
        self._receiver = receiver
        self._fatal = fatal
        self._topics = OutputTopics(client, self._add, self._refuse, fatal)
        self._pending: dict[TopicPartition, tuple[list[Row], list[Job]]] = {}
        self._due = Event()
        self._loops = [Loop("producer", self._flush, fatal), Loop("output topics", self._watch, fatal)]
        self._generation = 0  # of clients: what an earlier one says does not count
        self.unacknowledged = 0
        self.sent = 0
        self._out_of_time: list[tuple[Job, Row]] = []  # refused for the time here, to be sent again
        self._clock_said = -SAY_CLOCK_AGAIN
        self.waiting_for = 0.0  # seconds in which results were out and none was acknowledged
        self.use(client)

    def use(self, client: ProducerClient) -> None:
        """Send with ``client`` from now on; nothing of what an earlier one had may be on its way
        (``forget``)."""
        self._client = self._topics.client = client
        generation = self._generation

        def heard(jobs: Sequence[Job], rows: Sequence[Row], errors: Callable[[int], BaseException] | None) -> None:
            if generation == self._generation:
                if errors is None:
                    self._acknowledged(jobs)
                else:
                    self._not_taken(jobs, rows, errors)

        self._hear = heard
        client.hold_back(self._membership.sure, ASK_AGAIN)
        for topic in self._topics:
            client.watch(topic.name)

    def forget(self) -> None:
        """Nothing of what has been handed over and not acknowledged will be heard of again, in one
        way or the other."""
        self._generation += 1
        self._pending.clear()
        self._out_of_time.clear()
        self.unacknowledged = 0

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self, timeout: float) -> None:
        """Stop sending and close the client, waiting up to ``timeout`` seconds for what is out.
        Blocks."""
        for loop in self._loops:
            loop.stop()
        self._topics.stop()
        self._client.close(timeout)

    # -- rows

    def knows(self, rows: Sequence[Row]) -> bool:
        """Whether the topics of ``rows`` are known, so that these can be sent at once; the others
        are looked up from now on."""
        return all(self._topics.named(row[0]).waiting is None for row in rows)

    def check(self, rows: Sequence[Row]) -> None:
        """Raises RecordTooLargeError when one of the rows is more than may be sent."""
        for row in rows:
            check_size(row, self._client.max_request_size)

    def send(self, job: Job, rows: Sequence[Row]) -> None:
        """Send all rows of a job. The receiver hears of it once, later. Never blocks."""
        job.unacknowledged = len(rows)
        self.unacknowledged += len(rows)
        for row in rows:
            self._add(self._topics.named(row[0]), row, job)

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
        for topic in self._topics:
            if topic.waiting is not None:
                topic.waiting = [(row, job) for row, job in topic.waiting if keep(job)]
        return dropped

    def discard_unsent(self, error: SendError) -> None:
        """Fail what has been handed to kafka-python and is not yet on its way."""
        self._client.discard_unsent(error)

    def _add(self, topic: Topic, row: Row, job: Job) -> None:
        number, key = row[1], row[2]
        if topic.error is not None:
            self._refuse(job, topic.refusal(job))
            return
        if topic.waiting is not None:
            topic.waiting.append((row, job))
            return
        if number is None and key is None and (lane := job.lane) is not None:
            # What keeps an order keeps it where it is read, too.
            if isinstance(lane, bytes):
                key = lane
            else:
                number = job.partition.number % len(topic.partitions)
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
                self._add(self._topics.named(row[0]), row, job)
                continue
            if kind is Kind.RECORD_REFUSED and row[5] is None and "imestamp" in str(error):
                self._wait_for_the_clock(job, row, error)
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

    def _wait_for_the_clock(self, job: Job, row: Row, error: BaseException) -> None:
        """The broker takes no record of this time, which is the time here: nothing is wrong with the
        message."""
        now = time.monotonic()
        if now - self._clock_said > SAY_CLOCK_AGAIN:
            self._clock_said = now
            log.warning(
                "the broker refuses results for their time, which is this machine's (%s); they are kept and sent again; set the clock",
                one_line(error),
            )
        if not self._out_of_time:
            after(CLOCK_WAIT, "results out of time", self._fatal, self._once_more)
        self._out_of_time.append((job, row))

    def _once_more(self) -> None:
        waiting, self._out_of_time = self._out_of_time, []
        for job, row in waiting:
            if job.partition.active:
                self._add(self._topics.named(row[0]), row, job)
            else:
                self._refuse(job, SendError("the partition was lost before its result was taken"))

    def _refuse(self, job: Job, error: SendError) -> None:
        self.unacknowledged -= 1
        job.unacknowledged -= 1
        job.error = error
        if not job.unacknowledged:
            self._receiver.refused(job)

    def _watch(self) -> None:
        """Compare the topics with what they were; and say so when results wait for long."""
        last_sent, since, said = 0, time.monotonic(), False
        looked = since
        while True:
            gevent.sleep(GROWTH_INTERVAL)
            self._topics.compare()
            now = time.monotonic()
            if self.sent != last_sent or not self.unacknowledged:
                if said:
                    log.info("results are acknowledged again, after %.0f s", now - since)
                last_sent, since, said = self.sent, now, False
            self.waiting_for = now - since
            if now - looked > LOOK_AGAIN_INTERVAL:  # a transaction waits for its broker while no result does
                looked = now
                self._client.look_again()
            if self.waiting_for > SAY_WAITING_AFTER and not said:
                said = True
                log.warning(
                    "%d results have waited for %.0f s to be acknowledged by Kafka, and none was meanwhile; they are kept and sent on",
                    self.unacknowledged,
                    self.waiting_for,
                )
