"""Exactly-once: results, and the offsets of what they came from, in one transaction after the other.

1. While a transaction is open, finished jobs are handed to the producer at once. When all of a job's results are acknowledged its lane is
   free, so a key does not wait for the commit, and reading goes on; its offset and its bytes in the buffer do.
2. Every ``transaction.interval``, after ``max_messages`` or half of the buffer's bytes, at a revocation and at the stop, the transaction
   is cut: what finishes from now on waits for the next one, while handlers run on. When all that was sent is acknowledged, the
   offsets with the map of what is finished beyond them are added, under the consumer's generation (KIP-447), and it is committed.
3. A transaction that cannot be committed is aborted by a new producer, which takes over the old one's identity and by that shuts out what
   it may still have on its way. Handlers are not run again: the results of partitions that are still ours are sent again, in their order.
   A result that the broker refuses takes its message the way of a failed one. When another process has taken over the identity, this
   one ends.

All of it runs on the hub's thread. One greenlet has the transactions (``run``); it alone waits.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import Event

from gworkers.errors import FatalError, GworkersError, RestartError, SendError, UnavailableError
from gworkers.kafka.transactional import Connection, FencedError
from gworkers.pipeline.committer import Committer
from gworkers.pipeline.dead_letters import one_line
from gworkers.pipeline.job import Job
from gworkers.pipeline.partition import Partition
from gworkers.pipeline.producer import Producer
from gworkers.pipeline.stats import Buffer, Stats

log = logging.getLogger(__name__)

#: How long a revoked partition's last transaction may take, in seconds.
LAST = 10.0
#: Seconds between two looks, where something that has no event is waited for.
LOOK = 0.005
#: Jobs that are handed to the producer before the others on the hub have a turn.
TURN = 500


@dataclass(frozen=True, slots=True)
class Ways:
    """Where jobs go on to; the pipeline's methods."""

    free: Callable[[Job], None]  # its results are in the transaction: its lane may go on
    unfree: Callable[[Job], None]  # they are not, after all
    release: Callable[[Job], None]  # its transaction is committed
    fail: Callable[[Job], object]
    give_back: Callable[[Job], None]
    fatal: Callable[[BaseException], None]


class Transactions(Committer):
    """See the head of this file. ``partitions`` is the consumer's own dictionary of what is assigned."""

    def __init__(
        self,
        client: Any,
        partitions: dict[Any, Partition],
        stats: Stats,
        buffer: Buffer,
        connection: Connection,
        ways: Ways,
        *,
        interval: float,
        max_messages: int,
        with_map: bool,
    ) -> None:
        super().__init__(client, partitions, stats, interval=interval, with_map=with_map)
        self._connection = connection
        self._ways = ways
        self._most = max_messages
        self._most_bytes = buffer.max_bytes // 2
        self._producer: Producer  # set by attach
        self._jobs: list[Job] = []  # in the transaction, in the order they were put into it
        self._bytes = 0
        self._next: deque[Job] = deque()  # for the next one
        self._out: set[Job] = set()  # of them, those with results that are not acknowledged
        self._freed: set[Job] = set()  # of an aborted transaction: their lanes have gone on already
        self._refused: set[Job] = set()
        self._broken: BaseException | None = None  # why the transaction has to be aborted
        self._open = False
        self._begun = 0.0
        self._urgent = 0  # how many wait for the end of a transaction
        self._due = Event()
        self._cut = Event()
        self._acknowledged = Event()
        self._over = False  # there will be no more transactions
        self.ended = 0  # transactions, one way or the other

    def broke(self, error: BaseException) -> None:
        """The producer cannot go on with this transaction."""
        self._break(error)

    def attach(self, producer: Producer) -> None:
        self._producer = producer

    # -- jobs

    def send(self, job: Job, rows: Any) -> None:
        """The job's results go into this transaction, or into the next."""
        job.rows = rows
        self._take(job)

    def done(self, job: Job) -> None:
        """A job without results is finished: its offset goes into this transaction, or into the next."""
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
            self._free(job)

    def acknowledged(self, job: Job) -> None:
        """All results of a job are in the transaction."""
        self._out.discard(job)
        if not self._out:
            self._acknowledged.set()
        self._free(job)

    def join(self, job: Job) -> None:
        """A job whose result is that of a job of this transaction: it is in it, too."""
        self._jobs.append(job)
        self._bytes += job.size
        self._free(job)

    def _free(self, job: Job) -> None:
        if self._freed and job in self._freed:
            self._freed.discard(job)
        else:
            self._ways.free(job)

    def _unfree(self, jobs: list[Job]) -> None:
        """Before these are given back: those that were free already are so no more."""
        for job in jobs:
            if job in self._freed:
                self._freed.discard(job)
                self._ways.unfree(job)

    def refused(self, job: Job) -> None:
        """The broker has refused a result of a job, or dropped it because of another one's: the transaction cannot be committed."""
        error = job.error
        assert isinstance(error, SendError)
        if error.of_message:
            if job in self._freed:
                error.retriable = False  # what came after it in order has been handled
            self._refused.add(job)
        else:
            job.error = None
        self._break(error)

    def _break(self, why: BaseException) -> None:
        if self._broken is None:
            self._broken = why
        self._cut.set()
        self._acknowledged.set()

    def drop(self, partition: Partition) -> list[Job]:
        """A partition is no longer ours. Returns the jobs nothing more will come of."""
        dropped = [job for job in self._next if job.partition is partition]
        if dropped:
            self._next = deque(job for job in self._next if job.partition is not partition)
            self._unfree(dropped)
        if any(job.partition is partition for job in self._jobs) and not self._committing:
            self._break(SendError("a partition was lost before its results were committed"))
        return dropped

    @property
    def uncommitted(self) -> int:
        """Jobs whose handlers have ended and whose transaction is not committed, and may be yet."""
        return len(self._jobs) + len(self._next) if not self._over else 0

    # -- the committer's verbs

    def run(self) -> None:
        """One transaction after the other, for ever: a greenlet of its own."""
        while True:
            try:
                self._one()
            except gevent.GreenletExit:
                raise
            except GworkersError as error:
                self._over = True
                self._ways.fatal(error)
                return
            except Exception as error:
                log.debug("where it failed", exc_info=True)
                self._over = True
                self._ways.fatal(FatalError(f"a transaction failed in an unexpected way: {one_line(error)}"))
                return

    def commit(self, timeout: float) -> bool:
        """Have all that is finished committed. Blocks; True when it is."""
        deadline = time.monotonic() + timeout
        self._urgent += 1
        try:
            while not self._over and self._behind(self._partitions.values()) and time.monotonic() < deadline:
                self._hurry()
                gevent.sleep(LOOK)
        finally:
            self._urgent -= 1
        return not self._behind(self._partitions.values())

    async def commit_revoked(self, partitions: Iterable[Partition]) -> Exception | None:
        partitions = list(partitions)
        deadline = time.monotonic() + LAST
        self._urgent += 1
        try:
            seen = -1
            while not self._over and time.monotonic() < deadline:
                if seen != self.ended:
                    seen = self.ended
                    if not self._behind(partitions):
                        return None
                self._hurry()
                await self._client._net.sleep(LOOK)
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
        return any(p.active and p.offsets.position is not None and p.committed != p.offsets.changes for p in wanted)

    # -- one transaction

    _committing = False  # its offsets have been accepted: it may be committed whatever becomes of its partitions

    def _one(self) -> None:
        self._due.wait(self._interval)
        self._due.clear()
        ready = [job for job in self._next if not job.rows or self._producer.knows(job.rows)]
        if not ready and not any(self._moved(partition) for partition in self._partitions.values()):
            if self._next:  # for topics that are not there yet
                gevent.sleep(self._interval)
            return
        try:
            self._begin(ready)
            self._end()
        except Exception as error:
            self._abort(error)
        self.ended += 1

    @staticmethod
    def _moved(partition: Partition) -> bool:
        return partition.active and partition.committed != partition.offsets.changes and partition.offsets.position is not None

    def _begin(self, ready: list[Job]) -> None:
        self._broken, self._committing = None, False
        self._cut.clear()
        self._begun = time.monotonic()
        self._connection.client.begin_transaction()
        taken = set(ready)
        self._next = deque(job for job in self._next if job not in taken)
        for index, job in enumerate(ready):
            if not job.partition.active:
                self._unfree([job])
                self._ways.give_back(job)
                continue
            self._put(job)
            if index % TURN == TURN - 1:
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
        made = self.make(self._partitions.values())
        client = self._connection.client
        if made[0]:
            self._metadata = self._client.group_metadata()
            client.send_offsets_to_transaction(made[0], self._metadata)
            if self._broken is not None:  # the offsets have been accepted for what is ours, and something is not any more
                raise self._broken
        self._committing = True
        offsets = time.monotonic()
        client.commit_transaction()
        self._committing = self._finished = False
        self.succeeded(made)
        log.debug(
            "a transaction of %d messages: open %.0f ms, acknowledged after %.0f ms, offsets %.0f ms, commit %.0f ms",
            len(self._jobs),
            1000 * (cut - self._begun),
            1000 * (acknowledged - cut),
            1000 * (offsets - acknowledged),
            1000 * (time.monotonic() - offsets),
        )
        jobs, self._jobs, self._bytes = self._jobs, [], 0
        for job in jobs:
            self._ways.release(job)

    _metadata: Any = None  # of the group, with which offsets were last sent
    _finished = False  # the offsets of the transaction's jobs are noted as finished

    # -- when it fails

    def _abort(self, error: Exception) -> None:
        self._open = False
        age = time.monotonic() - self._begun
        if self._committing:
            if type(error).__name__ == "ProducerFencedError" and age < self._connection.timeout:
                raise self._connection.fenced() from error
            raise RestartError(
                f"whether a transaction has been committed cannot be told ({one_line(error)}); the process ends, the next one asks Kafka"
            )
        log.info("a transaction of %d messages is aborted, and their results are sent again: %s", len(self._jobs), one_line(error))
        self._stats.aborted += 1
        self._producer.forget()
        jobs, self._jobs, self._bytes = self._jobs, [], 0
        out, self._out = self._out, set()
        undo: dict[Partition, list[int]] = {}
        again: list[Job] = []
        failed: list[Job] = []
        for job in jobs:
            if job not in out:
                self._freed.add(job)
            if not job.partition.active:
                self._unfree([job])
                self._ways.give_back(job)
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
        self.failed(error)
        self._reconnect(age)
        if type(error).__name__ == "CommitFailedError":
            self._await_generation()
        for job in failed:
            self._ways.fail(job)
        self._due.set()

    def _await_generation(self) -> None:
        """The group has gone on to another generation: until this member knows of it, no transaction can be committed."""
        deadline = time.monotonic() + LAST
        while self._client.group_metadata() == self._metadata and time.monotonic() < deadline:
            gevent.sleep(LOOK)

    def _reconnect(self, age: float) -> None:
        """A new producer with the old one's identity. It waits for Kafka as long as it takes."""
        while True:
            try:
                self._producer.use(self._connection.renew(age))
                return
            except FencedError:
                raise
            except UnavailableError as error:
                if not error.passing:
                    raise
                log.warning("%s; results wait", error)
                gevent.sleep(1.0)
