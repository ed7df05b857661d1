"""Exactly-once: results, and the offsets of what they came from, in one transaction after the
other.

1. While a transaction is open, finished jobs are handed to the producer at once. When all of a
   job's results are acknowledged its lane is free, so a key does not wait for the commit, and
   reading goes on; its offset and its bytes in the buffer do.
2. Every ``transaction.interval``, after ``max_messages`` or half of the buffer's bytes, at a
   revocation and at the stop, the transaction is cut: what finishes from now on waits for the next
   one, while handlers run on. When all that was sent is acknowledged, the offsets with the map of
   what is finished beyond them are added, under the consumer's generation (KIP-447), and it is
   committed.
3. A transaction that cannot be committed is aborted by a new producer, which takes over the old
   one's identity and by that shuts out what it may still have on its way. Handlers are not run
   again: the results of partitions that are still ours are sent again, in their order. A result
   that the broker refuses takes its message the way of a failed one. When another process has taken
   over the identity, this one ends.

All of it runs on the hub's thread. One loop has the transactions; it alone waits.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import gevent
from gevent.event import Event

from gworkers.config.schema import Config
from gworkers.errors import NoRightError, RestartError, SendError, UnavailableError, one_line
from gworkers.events import Events
from gworkers.figures import Histogram, Times, settled
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.kafka.errors import Kind, classify
from gworkers.kafka.protocols import Group, TopicPartition, TransactionalClient
from gworkers.kafka.transactional import FencedError
from gworkers.loop import Fatal, Loop
from gworkers.pipeline.committer import OffsetBuilder
from gworkers.pipeline.delivery import Refusals, size_of
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.producer import Producer
from gworkers.pipeline.scheduler import Scheduler

log = logging.getLogger(__name__)

#: How long a revoked partition's last transaction may take, and how long to wait for the group's
#: next generation, in seconds.
REVOKE_TIMEOUT = 10.0
GENERATION_TIMEOUT = 10.0
#: Seconds between two looks, where something that has no event is waited for.
LOOK_INTERVAL = 0.005
#: Jobs that are handed to the producer before the others on the hub have a turn.
PUT_AT_ONCE = 500
#: Seconds between two attempts to have a new producer.
RENEW_INTERVAL = 1.0


class ExactlyOnce:
    """See the head of this file and gworkers.pipeline.delivery.Delivery. partitions: what is
    assigned, kept by Assignments."""

    def __init__(
        self,
        client: TransactionalClient,
        group: Group,
        partitions: Mapping[TopicPartition, Partition],
        config: Config,
        scheduler: Scheduler,
        ledger: Ledger,
        events: Events,
        fatal: Fatal,
    ) -> None:
        self._client = client
        self._group = group
        self._partitions = partitions
        self._interval = config.transaction.interval
        self._most = config.transaction.max_messages
        self._most_bytes = ledger.max_bytes // 2
        self._builder = OffsetBuilder(group, events, with_map=True, needed=True)
        self._scheduler = scheduler
        self._ledger = ledger
        self._events = events
        self._producer = Producer(client.producer, group.membership, self, fatal)
        self._loop = Loop("transactions", self._run, fatal)
        self._jobs: list[Job] = []  # in the transaction, in the order they were put into it
        self._bytes = 0
        self._next: deque[Job] = deque()  # for the next one
        self._out: set[Job] = set()  # of the transaction's jobs those with results that are not acknowledged
        self._refused: set[Job] = set()
        self._broken: BaseException | None = None  # why the transaction has to be aborted
        self._open = False
        self._finished = False  # the offsets of the transaction's jobs are noted as finished
        self._committing = False  # its offsets have been accepted: it may be committed whatever becomes of its partitions
        self._generation: Any = None  # of the group, for which offsets were last sent
        self._begun = 0.0
        self._took = Histogram()
        self._urgent = 0  # how many wait for the end of a transaction
        self._due = Event()
        self._cut = Event()
        self._acknowledged = Event()
        self.refusals = Refusals()
        self.done = 0
        self.ended = 0  # transactions, one way or the other

    def start(self) -> None:
        self._producer.start()
        self._loop.start()

    @property
    def over(self) -> bool:
        return self._loop.dead

    def stop_committing(self) -> None:
        self._loop.stop()

    def stop(self, timeout: float) -> None:
        self._producer.stop(timeout)

    @property
    def sent(self) -> int:
        return self._producer.sent

    @property
    def waiting_for(self) -> float:
        return self._producer.waiting_for

    # -- jobs

    def send(self, job: Job) -> None:
        """The job's results go into this transaction, or into the next."""
        rows = job.rows or ()
        self._producer.check(rows)
        self._ledger.grow(job, size_of(rows))
        self._take(job)

    def finish(self, job: Job) -> None:
        """A job without results is finished: its offset goes into this transaction, or into the
        next."""
        job.rows = None
        self._take(job)

    def _take(self, job: Job) -> None:
        if self._open and (not job.rows or self._producer.knows(job.rows)):
            self._put(job)
        else:
            self._next.append(job)
            self._due.set()

    def _put(self, job: Job) -> None:
        self._jobs.append(job)
        self._bytes += job.size
        if len(self._jobs) >= self._most or self._bytes >= self._most_bytes:
            self._cut.set()
        if job.rows:
            self._out.add(job)
            self._producer.send(job, job.rows)
        else:
            self.acknowledged((job,))

    def acknowledged(self, jobs: Sequence[Job]) -> None:
        """All results of these jobs are in the transaction: their lanes may go on. Of an aborted one
        they may have been free before."""
        self._out.difference_update(jobs)
        if not self._out:
            self._acknowledged.set()
        finish = self._scheduler.finish
        freed = []
        for job in jobs:
            if job.followers:  # their result is in this job's
                followers, job.followers = job.followers, ()
                self._jobs += followers
                self._bytes += sum(follower.size for follower in followers)
                self.acknowledged(followers)
            if not job.freed:
                finish(job)
                freed.append(job)
        self._ledger.free(freed)

    def refused(self, job: Job) -> None:
        """The broker has refused a result of a job, or dropped it because of another one's: the
        transaction cannot be committed."""
        error = job.error
        assert isinstance(error, SendError)
        if error.of_message:
            if job.freed:
                error.retriable = False  # what came after it in order has been handled
            self._refused.add(job)
        else:
            job.error = None
        self.broke(error)

    def broke(self, error: BaseException) -> None:
        """This transaction cannot be committed."""
        if self._broken is None:
            self._broken = error
        self._cut.set()
        self._acknowledged.set()

    def drop(self, partitions: Collection[Partition], *, lost: bool = False) -> list[Job]:
        gone = set(partitions)
        dropped = [job for job in self._next if job.partition in gone]
        if dropped:
            self._next = deque(job for job in self._next if job.partition not in gone)
        if any(job.partition in gone for job in self._jobs) and not self._committing:
            self.broke(SendError("a partition was lost before its results were committed"))
        if lost:
            self._producer.discard_unsent(SendError("the partition was lost before its result was sent"))
        return dropped

    def holds(self, partition: Partition) -> bool:
        return bool(self.refusals) or any(job.partition is partition for jobs in (self._jobs, self._next) for job in jobs)

    @property
    def commits(self) -> Times:
        return self._took.times

    @property
    def uncommitted(self) -> int:
        waiting = sum(job.freed for jobs in (self._jobs, self._next) for job in jobs)
        return waiting + len(self.refusals) if not self.over else 0

    # -- committing

    def _run(self) -> None:
        while True:
            self._one()

    def commit(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        self._urgent += 1
        try:
            while not self.over and self._behind(self._partitions.values()) and time.monotonic() < deadline:
                self._hurry()
                gevent.sleep(LOOK_INTERVAL)
        finally:
            self._urgent -= 1
        return not self._behind(self._partitions.values())

    async def commit_revoked(self, partitions: Iterable[Partition]) -> Exception | None:
        partitions = list(partitions)
        deadline = time.monotonic() + REVOKE_TIMEOUT
        self._urgent += 1
        try:
            seen = -1
            while not self.over and time.monotonic() < deadline:
                if seen != self.ended:
                    seen = self.ended
                    if not self._behind(partitions):
                        return None
                self._hurry()
                await self._group.sleep(LOOK_INTERVAL)
        finally:
            self._urgent -= 1
        return TimeoutError("their last transaction did not end in time") if self._behind(partitions) else None

    def _hurry(self) -> None:
        self._due.set()
        self._cut.set()

    def _behind(self, partitions: Iterable[Partition]) -> bool:
        """Whether something of ``partitions`` is finished and not committed."""
        wanted = set(partitions)
        if any(job.partition in wanted for jobs in (self._jobs, self._next) for job in jobs):
            return True
        return any(map(self._builder.moved, wanted))

    # -- one transaction

    def _one(self) -> None:
        self._due.wait(self._interval)
        self._due.clear()
        ready = [job for job in self._next if not job.rows or self._producer.knows(job.rows)]
        if not ready and not any(map(self._builder.moved, self._partitions.values())):
            if self._next:  # for topics that are not there yet
                gevent.sleep(self._interval)
            return
        try:
            self._begin(ready)
            self._end()
        except Exception as error:
            self._abort(error)
        self.ended += 1

    def _begin(self, ready: list[Job]) -> None:
        self._broken, self._committing = None, False
        self._cut.clear()
        self._begun = time.monotonic()
        self._client.begin()
        taken = set(ready)
        self._next = deque(job for job in self._next if job not in taken)
        for index, job in enumerate(ready):
            if not job.partition.active:
                self._ledger.give_back((job,))
                continue
            self._put(job)
            if index % PUT_AT_ONCE == PUT_AT_ONCE - 1:
                gevent.sleep(0)
        self._open = True
        if not self._urgent:
            self._cut.wait(max(0.0, self._interval - (time.monotonic() - self._begun)))
        self._open = False

    def _end(self) -> None:
        cut = time.monotonic()
        while self._out and self._broken is None:
            self._acknowledged.clear()
            self._acknowledged.wait()
        if self._broken is not None:
            raise self._broken
        acknowledged = time.monotonic()
        for job in self._jobs:
            if job.partition.active:
                job.partition.offsets.finish(job.offset)
        self._finished = True
        progress = self._builder.build(self._partitions.values())
        if progress.offsets:
            self._generation = self._group.generation()
            self._client.send_offsets(progress.offsets, self._generation)
            if self._broken is not None:  # the offsets have been accepted for what is ours, and something is not any more
                raise self._broken
        self._committing = True
        offsets = time.monotonic()
        self._client.commit()
        self._committing = self._finished = False
        self._builder.succeeded(progress)
        log.debug(
            "a transaction of %d messages: open %.0f ms, acknowledged after %.0f ms, offsets %.0f ms, commit %.0f ms",
            len(self._jobs),
            1000 * (cut - self._begun),
            1000 * (acknowledged - cut),
            1000 * (offsets - acknowledged),
            1000 * (time.monotonic() - offsets),
        )
        jobs, self._jobs, self._bytes = self._jobs, [], 0
        self.done += len(jobs)
        self._took.add(time.monotonic() - self._begun)
        settled(jobs)
        for job in jobs:
            if job.dead:
                self._events.dead_lettered.send(job)
        self._ledger.release(jobs)

    # -- when it fails

    def _abort(self, error: Exception) -> None:
        self._open = False
        age = time.monotonic() - self._begun
        if self._committing:
            if classify(error) is Kind.PRODUCER_FENCED and age < self._client.timeout:
                raise self._client.fenced() from error
            raise RestartError(
                f"the outcome of a transaction is unknown ({one_line(error)}); the process ends, and the next one asks Kafka for it"
            )
        no_right = str(error) if isinstance(error, NoRightError) else self._client.no_right(error)
        if no_right is not None:
            raise UnavailableError(no_right) from error
        log.info("a transaction of %d messages is aborted, and their results are sent again: %s", len(self._jobs), one_line(error))
        self._events.aborted.send(len(self._jobs))
        self._producer.forget()
        jobs, self._jobs, self._bytes = self._jobs, [], 0
        self._out.clear()
        undo: dict[Partition, list[int]] = {}
        again: list[Job] = []
        failed: list[Job] = []
        for job in jobs:
            if not job.partition.active:
                self._ledger.give_back((job,))
                continue
            undo.setdefault(job.partition, []).append(job.offset)
            (failed if job in self._refused else again).append(job)
        if self._finished:
            for partition, offsets in undo.items():
                partition.offsets.unfinish(offsets)
            self._finished = False
        self._refused.clear()
        again.extend(self._next)
        self._next = deque(again)
        self._builder.failed(error)
        self._renew(age)
        if classify(error) is Kind.GENERATION_OVER:
            self._await_generation()
        for job in failed:
            self.refusals.put(job)
        self._due.set()

    def _await_generation(self) -> None:
        """The group has gone on to another generation: until this member knows of it, no
        transaction can be committed."""
        deadline = time.monotonic() + GENERATION_TIMEOUT
        while self._group.generation() == self._generation and time.monotonic() < deadline:
            gevent.sleep(LOOK_INTERVAL)

    def _renew(self, age: float) -> None:
        """A new producer with the old one's identity. It waits for Kafka as long as it takes."""
        while True:
            try:
                self._producer.use(self._client.renew(age))
                return
            except FencedError:
                raise
            except UnavailableError as error:
                if not error.passing:
                    raise
                log.warning("%s; results wait", error)
                gevent.sleep(RENEW_INTERVAL)
