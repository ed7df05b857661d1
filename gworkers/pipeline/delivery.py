"""Delivery: from a finished job to its results in Kafka and its offset committed. The protocol, and
at least once.

At least once: results go to the producer at once; their acknowledgement settles the job, which
frees its lane and notes its offset as finished; a committer writes the offsets back now and then.
gworkers.pipeline.exactly_once is the other implementation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from gevent.event import Event

from gworkers.errors import FatalError, SendError, one_line
from gworkers.events import Events
from gworkers.figures import Times, settled
from gworkers.handlers.job import Job, Row
from gworkers.handlers.partition import Partition
from gworkers.kafka.protocols import Group, ProducerClient
from gworkers.loop import Fatal
from gworkers.offsets.finished import Noting
from gworkers.pipeline.committer import Committer
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.producer import Producer
from gworkers.pipeline.scheduler import Scheduler


class Refusals:
    """Jobs whose results the broker refused, on their way from the delivery to the outcomes.

    The delivery puts them in where nothing may wait, on kafka-python's Sender greenlet; a loop of
    gworkers.pipeline.outcomes takes them out and decides.
    """

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._came = Event()

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> None:
        self._jobs.append(job)
        self._came.set()

    def take(self) -> Job:
        """The next one. Blocks until there is one."""
        while not self._jobs:
            self._came.clear()
            self._came.wait()
        return self._jobs.popleft()


class Delivery(Protocol):
    """What the pipeline wants of a way to deliver. All of it runs on the hub's thread.

    A job that is handed over here comes to exactly one end: it is settled (its results are
    acknowledged, its offset is noted as finished, what it holds in the ledger is released), it
    comes out of ``refusals`` with its error, or ``drop`` returns it.
    """

    refusals: Refusals
    done: int  # jobs settled

    @property
    def sent(self) -> int:
        """Results acknowledged, dead letters included."""

    @property
    def waiting_for(self) -> float:
        """For how many seconds results have been out and none was acknowledged."""

    @property
    def commits(self) -> Times:
        """How long commits took; with exactly-once transactions, from their beginning."""

    def start(self) -> None: ...

    def send(self, job: Job) -> None:
        """Send the rows of a job and settle it when they are acknowledged. Never blocks. Raises
        RecordTooLargeError, and then nothing has been done."""

    def finish(self, job: Job) -> None:
        """Settle a job that has nothing to send. Never blocks."""

    def drop(self, partitions: Collection[Partition], *, lost: bool = False) -> list[Job]:
        """These partitions are fenced: send nothing more of them that is not on its way. ``lost``:
        they are another member's already, so what is complete and not on its way must not leave
        either. Returns the jobs that nothing more will come of."""

    def commit(self, timeout: float) -> bool:
        """Commit all that is finished. Blocks; True when the group knows all of it."""

    async def commit_revoked(self, partitions: Iterable[Partition]) -> Exception | None:
        """The same for partitions that are being revoked, from inside a rebalance; what stood in
        the way, or None."""

    def holds(self, partition: Partition) -> bool:
        """Whether something of a partition that has finished would come to nothing if it were fenced
        now."""

    @property
    def uncommitted(self) -> int:
        """Jobs here that are no longer in flight and not settled, and may be yet."""

    @property
    def over(self) -> bool:
        """Whether nothing will be committed any more, because the loop that does has ended."""

    def stop_committing(self) -> None:
        """After the last ``commit``: nothing more is committed."""

    def stop(self, timeout: float) -> None:
        """Close the producer, waiting up to ``timeout`` seconds for what is out. Blocks."""


def size_of(rows: Sequence[Row]) -> int:
    """The bytes that rows keep in the process."""
    size = 0
    for row in rows:
        size += len(row[3] or b"")
    return size


class AtLeastOnce:
    """See the head of this file and Delivery."""

    def __init__(
        self,
        client: ProducerClient,
        group: Group,
        committer: Committer,
        notes: Noting,
        scheduler: Scheduler,
        ledger: Ledger,
        events: Events,
        fatal: Fatal,
    ) -> None:
        self._committer = committer
        self._notes = notes
        self._scheduler = scheduler
        self._ledger = ledger
        self._events = events
        self._fatal = fatal
        self._producer = Producer(client, group.membership, self, fatal)
        self.refusals = Refusals()
        self.done = 0

    @property
    def sent(self) -> int:
        return self._producer.sent

    @property
    def waiting_for(self) -> float:
        return self._producer.waiting_for

    @property
    def commits(self) -> Times:
        return self._committer.took.times

    def start(self) -> None:
        self._producer.start()
        self._committer.start()

    def send(self, job: Job) -> None:
        rows = job.rows or ()
        self._producer.check(rows)
        self._ledger.grow(job, size_of(rows))
        self._producer.send(job, rows)

    def finish(self, job: Job) -> None:
        self.acknowledged((job,))

    def acknowledged(self, jobs: Sequence[Job]) -> None:
        """All that these jobs had to send is acknowledged: they are settled."""
        finish = self._scheduler.finish
        finished: list[int] = []
        settled([job for job in jobs if job.partition.active])
        for job in jobs:
            partition = job.partition
            if partition.active:
                partition.offsets.finish(job.offset)
                if partition.mark:
                    finished.append(partition.mark | job.offset)
                self.done += 1
                if job.dead:
                    self._events.dead_lettered.send(job)
                finish(job)
            else:
                self._events.fenced.send(job)
            if job.followers:
                self.acknowledged(job.followers)
        if finished and self._notes.add(finished):
            self._committer.hurry()
        self._ledger.release(jobs)

    def refused(self, job: Job) -> None:
        self.refusals.put(job)

    def broke(self, error: BaseException) -> None:
        self._fatal(FatalError(f"results cannot be sent: {one_line(error)}"))

    def drop(self, partitions: Collection[Partition], *, lost: bool = False) -> list[Job]:
        dropped = self._producer.drop(partitions)
        if lost:
            self._producer.discard_unsent(SendError("the partition was lost before its result was sent"))
        return dropped

    def commit(self, timeout: float) -> bool:
        return self._committer.commit(timeout)

    async def commit_revoked(self, partitions: Iterable[Partition]) -> Exception | None:
        return await self._committer.commit_revoked(partitions)

    def holds(self, partition: Partition) -> bool:
        return False

    @property
    def uncommitted(self) -> int:
        return 0

    @property
    def over(self) -> bool:
        return self._committer.dead

    def stop_committing(self) -> None:
        self._committer.stop()

    def stop(self, timeout: float) -> None:
        self._producer.stop(timeout)
