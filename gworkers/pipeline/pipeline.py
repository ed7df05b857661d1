"""The stages put together: what happens to a job between them.

    consumer ─► scheduler ─► workers ─► executor ─┬─► producer ─► settle ─► consumer (commit)
                    ▲                             └─► fail ─► retries ─► scheduler
                    └── lanes that become free              └─► dead letter ─► producer

Everything here runs on the hub's thread and none of it waits. A job ends in ``settle`` (finished) or ``give_back`` (to be delivered
again); either gives back the room it took in the buffer, exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from gworkers import log_context
from gworkers.config.schema import Config
from gworkers.errors import BreakerError, FatalError, MessageError, PassedOverError, RecordTooLargeError
from gworkers.kafka.transactional import Connection
from gworkers.pipeline import dead_letters, durable
from gworkers.pipeline.batches import Shared
from gworkers.pipeline.committer import Committer
from gworkers.pipeline.consumer import Consumer
from gworkers.pipeline.executor import Executor
from gworkers.pipeline.job import Job
from gworkers.pipeline.pacing import Pacing
from gworkers.pipeline.partition import Partition
from gworkers.pipeline.producer import Producer
from gworkers.pipeline.quarantine import Quarantine, Suspects
from gworkers.pipeline.retries import Retries, delay_of, hopeless
from gworkers.pipeline.routes import Route
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.stats import Buffer, Stats
from gworkers.pipeline.transactions import Transactions, Ways
from gworkers.pipeline.worker import Workers

log = logging.getLogger(__name__)


class Pipeline:
    """Built by the server from a configuration, its routes, and two of kafka-python's clients."""

    def __init__(
        self,
        config: Config,
        routes: list[Route],
        executor: Executor,
        workers: int,
        consumer: Any,
        producer: Any,  # a KafkaProducer, or with exactly-once a Connection
        fatal: Callable[[BaseException], None],
        suspects: Suspects | None = None,
    ) -> None:
        self.stats = Stats()
        self.buffer = Buffer(config.buffer.messages, config.buffer.bytes)
        self.scheduler = Scheduler()
        self.executor = executor
        self._fatal = fatal
        self._group = config.kafka.group
        above = config.dead_letters.stop_above
        self._breaker = dead_letters.Breaker(above.count, above.seconds) if above is not None else None
        self.pacing = Pacing(routes, config.limits, self.scheduler, lambda: self.workers.wake())
        self.workers = Workers(
            workers,
            self.scheduler,
            self.pacing,
            executor,
            self.stats,
            self.complete,
            self.complete_batch,
            self.give_back,
            max_stuck=config.max_stuck_handlers,
            fatal=fatal,
        )
        self.quarantine: Quarantine | None = None
        if suspects is not None:
            self.quarantine = self.workers.quarantine = Quarantine(
                suspects,
                config.poison.deaths,
                run=self.workers.run,
                alone=self.workers.hold,
                free=lambda job: self.pacing.free(job.partition.route),
                fail=self.fail,
                give_back=self.give_back,
            )
        self.retries = Retries(self._again)
        self._sharing: dict[Job, list[Job]] = {}  # a job with the result of a batch → the jobs that are done when it is
        self.transactions: Transactions | None = None

        def committer(client: Any, partitions: dict[Any, Partition]) -> Committer:
            if not isinstance(producer, Connection):
                return Committer(client, partitions, self.stats, interval=config.commit.interval, with_map=config.commit.map)
            self.transactions = Transactions(
                client,
                partitions,
                self.stats,
                self.buffer,
                producer,
                Ways(self._free, self._unfree, self._release_committed, self.fail, self.give_back, fatal),
                interval=config.transaction.interval,
                max_messages=config.transaction.max_messages,
                with_map=config.commit.map,
            )
            return self.transactions

        self.consumer = Consumer(
            consumer,
            routes,
            self.scheduler,
            self.buffer,
            self.stats,
            group=config.kafka.group,
            committer=committer,
            rebalance_grace=config.rebalance.grace,
            wake=self.workers.wake,
            withdraw=self.withdraw,
            fence=self.fence,
            lost=lambda: self.producer.abandon(),
            arrived=self.quarantine.assigned if self.quarantine is not None else lambda partitions: None,
            must_know=isinstance(producer, Connection),
            fatal=fatal,
        )
        transactions = self.transactions
        if transactions is None:
            self.producer = Producer(producer, self.settle, self.fail, fatal)
            self._send: Callable[[Job, Any], None] = self.producer.send
            self._done: Callable[[Job], None] = self.settle
        else:
            self.producer = Producer(producer.client, transactions.acknowledged, transactions.refused, fatal, transactions.broke)
            transactions.attach(self.producer)
            self._send, self._done = transactions.send, transactions.done
        self.producer.guard(self.consumer.membership)

    # -- the way of a job

    def complete(self, job: Job) -> bool:
        """A job's handler has ended, one way or the other. True when it is tried again here."""
        if not job.partition.active:
            self.stats.fenced += 1
            self.give_back(job)
        elif job.error is not None:
            return self.fail(job)
        elif job.rows:
            try:
                self.producer.check(job.rows)
            except RecordTooLargeError as error:
                job.error = error
                return self.fail(job)
            size = 0
            for row in job.rows:
                size += len(row[3] or b"")
            job.size += size
            self.buffer.bytes += size
            job.partition.buffered += size
            self._send(job, job.rows)
        else:
            self._done(job)
        return False

    def complete_batch(self, jobs: list[Job], whole: list[Job]) -> None:
        """The handler of a batch has ended. ``whole``: the jobs that failed because it raised; with no attempt left each gets one alone.

        Where the batch is of a key or a partition in its order, those after one that is tried again wait behind it with what became
        of them: their results are sent after its own.
        """
        following = set()
        for job in jobs:
            if isinstance(job.rows, Shared) and job.rows.followers:
                self._sharing[job] = job.rows.followers
                following.update(job.rows.followers)
        together = set(whole) if len(whole) > 1 else set()
        for index, job in enumerate(jobs):
            if job in following:
                continue
            if job in together and job.error is not None and self._counts(job) and delay_of(job) is None:
                log.info("the batch failed, the next attempt is alone: %s", dead_letters.one_line(job.error), extra=log_context.about(job))
                self._retry_alone(job)
                self.stats.retried += 1
                self.retries.add(job, 0.0)
            elif not self.complete(job):
                continue
            if job.partition.route.batch_of_lane:
                rest = jobs[index + 1 :]
                for later in rest:
                    if later.error is not None and delay_of(later) is not None:
                        later.attempt += 1
                        later.error = None
                    elif later in together:
                        self._retry_alone(later)
                        later.attempt += 1
                self.scheduler.hold(rest)
                return

    @staticmethod
    def _counts(job: Job) -> bool:
        return job.partition.active and not job.partition.closing

    @staticmethod
    def _retry_alone(job: Job) -> None:
        """Have the next attempt be one more than there are, which is one alone (batches.alone)."""
        job.attempt = max(job.attempt, job.partition.route.config.retry.attempts - 1)
        job.error = None

    def fail(self, job: Job) -> bool:
        """A job's handler, or the sending of its results, has failed. True when it is tried again here."""
        if self._sharing and job in self._sharing:
            for follower in self._sharing.pop(job):
                follower.rows, follower.error = None, job.error
                self.fail(follower)
        partition = job.partition
        error = job.error
        assert error is not None
        job.rows = None
        if not partition.active or partition.closing:
            self.give_back(job)
            return False
        if isinstance(error, PassedOverError):
            self.stats.passed_over += 1
            self._done(job)
            return False
        if job.dead:
            self._stop_for(job, f"its dead letter cannot be sent to {partition.route.config.dead_letter}: {error}")
            return False
        delay = delay_of(job)
        if delay is not None:
            log.info(
                "attempt %d of %d failed, the next in %.1f s: %s",
                job.attempt,
                partition.route.config.retry.attempts,
                delay,
                dead_letters.one_line(error),
                extra=log_context.about(job),
            )
            self.stats.retried += 1
            job.error = None
            self.retries.add(job, delay)
            return True
        topic = partition.route.next_topic(partition.topic) if not hopeless(job) else None
        if topic is not None:
            self._retry_from(topic, job, error)
            return False
        topic = partition.route.config.dead_letter
        if topic is None:
            self._stop_for(job, f"{dead_letters.one_line(error)}, and the route has no dead_letter topic to put it")
            return False
        self._dead_letter(job, topic, error)
        return False

    def _retry_from(self, topic: str, job: Job, error: BaseException) -> None:
        log.info(
            "attempt %d failed, the next is from %s: %s",
            job.attempt,
            topic,
            dead_letters.one_line(error),
            extra=log_context.about(job),
        )
        row = durable.row(job, topic, self._group)
        try:
            self.producer.check((row,))
        except MessageError as too_large:
            job.error = too_large
            self.fail(job)
            return
        self.stats.retried += 1
        job.error = None
        self._send(job, (row,))

    def _dead_letter(self, job: Job, topic: str, error: BaseException) -> None:
        breaker = self._breaker
        if breaker is not None and not breaker.lets_through():
            self.give_back(job)
            self._fatal(
                BreakerError(
                    f"more than {breaker.count} messages failed for good within {breaker.seconds:g} s, which dead_letters.stop_above "
                    f"forbids; the last at {_where(job)}: {dead_letters.one_line(error)}; look at {topic} and at what has changed"
                )
            )
            return
        log.warning(
            "failed for good after %d attempt%s and goes to %s: %s",
            job.attempt,
            "s" if job.attempt > 1 else "",
            topic,
            dead_letters.one_line(error),
            extra=log_context.about(job),
        )
        job.dead = True
        row = dead_letters.letter(job, topic, self._group)
        job.error = None
        try:
            self.producer.check((row,))
        except MessageError as too_large:
            self._stop_for(job, f"its dead letter cannot be sent to {topic}: {too_large}")
            return
        self._send(job, (row,))

    def settle(self, job: Job) -> None:
        """A job is finished: what it had to send is acknowledged."""
        if self._sharing and job in self._sharing:
            for follower in self._sharing.pop(job):
                self.settle(follower)
        partition = job.partition
        buffer = self.buffer
        if partition.active:
            partition.offsets.finish(job.offset)
            self.stats.done += 1
            if job.dead:
                self.stats.dead_lettered += 1
                if self.quarantine is not None:
                    self.quarantine.settled(job)
            if self.scheduler.finish(job):
                self.workers.wake()
        else:
            self.stats.fenced += 1
            partition.in_flight -= 1
        buffer.messages -= 1
        buffer.bytes -= job.size
        partition.buffered -= job.size
        if buffer.low:
            self.consumer.room_came()

    def _free(self, job: Job) -> None:
        """Exactly-once, half of ``settle``: the job's results are in a transaction, its key may go on."""
        if self._sharing and job in self._sharing:
            assert self.transactions is not None
            for follower in self._sharing.pop(job):
                self.transactions.join(follower)
        self.buffer.messages -= 1
        if self.buffer.low:
            self.consumer.room_came()
        if self.scheduler.finish(job):
            self.workers.wake()

    def _unfree(self, job: Job) -> None:
        """It is to be given back, and its room with it."""
        self.buffer.messages += 1
        job.partition.in_flight += 1

    def _release_committed(self, job: Job) -> None:
        """The other half: its transaction is committed. Its offset has been noted with it."""
        self.stats.done += 1
        if job.dead:
            self.stats.dead_lettered += 1
            if self.quarantine is not None:
                self.quarantine.settled(job)
        self.buffer.bytes -= job.size
        job.partition.buffered -= job.size
        if self.buffer.low:
            self.consumer.room_came()

    def give_back(self, job: Job) -> None:
        """A taken job is not finished and not run again here: whoever gets its partition next will have it."""
        if self._sharing and job in self._sharing:
            for follower in self._sharing.pop(job):
                self.give_back(follower)
        job.partition.in_flight -= 1
        self._release(job)

    def _release(self, job: Job) -> None:
        self.buffer.messages -= 1
        self.buffer.bytes -= job.size
        job.partition.buffered -= job.size

    def _again(self, jobs: list[Job]) -> None:
        self.scheduler.put_back(jobs)
        self.workers.wake()

    def _stop_for(self, job: Job, why: str) -> None:
        self.give_back(job)  # nothing will come of it here: the drain need not wait for it
        self._fatal(FatalError(f"the message at {_where(job)} failed for good: {why}"))

    # -- partitions that go

    def withdraw(self, partition: Partition) -> None:
        """Begin nothing more of this partition; what runs may finish."""
        for job in self.scheduler.drop(partition):
            self._release(job)
        for job in self.retries.drop(partition):
            self.give_back(job)
        for job in self.quarantine.drop(partition) if self.quarantine is not None else ():
            self.give_back(job)

    def fence(self, partition: Partition) -> None:
        """From now on nothing that becomes of this partition's jobs counts."""
        self.withdraw(partition)
        partition.active = False
        for job in self.transactions.drop(partition) if self.transactions is not None else self.producer.drop(partition):
            self.stats.fenced += 1
            self.give_back(job)

    # -- life

    def start(self) -> None:
        """Start from the end to the beginning, so that whoever hands something on finds somebody to take it."""
        self.producer.start()
        self.retries.start()
        self.executor.start()
        self.workers.start()
        if self.quarantine is not None:
            self.quarantine.start()
        self.consumer.start()

    def drain(self) -> None:
        """Begin nothing new. ``unsettled`` falls to 0 as what runs is acknowledged."""
        self.consumer.stop_reading()
        self.workers.stop()

    @property
    def unsettled(self) -> int:
        """Messages that have been begun and not settled."""
        uncommitted = self.transactions.uncommitted if self.transactions is not None else 0
        return uncommitted + sum(partition.in_flight for partition in self.consumer.partitions.values())

    @property
    def idle(self) -> bool:
        """Nothing is in the process and nothing waits in Kafka."""
        return not self.buffer.messages and not self.unsettled and bool(self.consumer.partitions) and self.consumer.backlog() == 0

    def stop(self, timeout: float) -> bool:
        """Stop in the order of the way: commit what is settled, leave the group, close the producer. Blocks; True when all is committed."""
        self.workers.kill()
        if self.quarantine is not None:
            self.quarantine.stop()
        self.retries.stop()
        committed = self.consumer.stop(timeout)
        self.producer.stop(timeout)
        self.executor.stop()
        return committed


def _where(job: Job) -> str:
    key = f", key {job.key.decode('utf-8', 'backslashreplace')!r}" if job.key is not None else ""
    return f"{job.partition.topic}, partition {job.partition.number}, offset {job.offset}{key}"
