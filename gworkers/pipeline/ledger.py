"""What is in the process, by count, by bytes and by partition, against what may be (the
configuration's ``buffer``).

A message is admitted when it is read, grows by its results, and is released when it is settled or
given back. With exactly-once there is a step between: its lane and its count are freed when its
results are acknowledged, its bytes when its transaction is committed. Whoever makes room wakes the
poller, if it waits for room.

Nobody else writes these figures, nor ``Partition.buffered``; ``Partition.in_flight`` rises where
the scheduler hands a job out and falls here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gevent.event import Event

from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition

#: Reading goes on, once it was stopped, when both bounds are used to this part: enough to keep
#: everybody busy.
LOW = 0.75


class Ledger:
    """See the head of this file. messages, bytes: what is in the process now. Every call is O(1) a
    job."""

    __slots__ = ("_room", "bytes", "max_bytes", "max_messages", "messages")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.messages = 0
        self.bytes = 0
        self._room = Event()

    @property
    def room(self) -> int:
        """How many more messages may be read; 0 when the bytes are used up."""
        return max(0, self.max_messages - self.messages) if self.bytes < self.max_bytes else 0

    @property
    def low(self) -> bool:
        """Whether reading may go on after it was stopped."""
        return self.messages <= LOW * self.max_messages and self.bytes <= LOW * self.max_bytes

    def admit(self, partition: Partition, count: int, size: int) -> None:
        """``count`` messages of ``size`` bytes together have been read."""
        self.messages += count
        self.bytes += size
        partition.buffered += size

    def grow(self, job: Job, size: int) -> None:
        """Results of so many bytes are kept with the job."""
        job.size += size
        self.bytes += size
        job.partition.buffered += size

    def free(self, jobs: Sequence[Job]) -> None:
        """Their results are acknowledged and their offsets wait for a commit: only their bytes are
        still counted."""
        for job in jobs:
            job.freed = True
            job.partition.in_flight -= 1
        self.messages -= len(jobs)
        self._wake()

    def release(self, jobs: Iterable[Job]) -> None:
        """These jobs are done with: all that they still hold is free."""
        count = size = 0
        for job in jobs:
            partition = job.partition
            size += job.size
            partition.buffered -= job.size
            if not job.freed:
                partition.in_flight -= 1
                count += 1
        self.messages -= count
        self.bytes -= size
        self._wake()

    def give_back(self, jobs: Sequence[Job]) -> None:
        """These jobs were handed out and are not settled here: whoever gets their partition next
        will have them.

        So are the jobs of a batch that share the result of one of them.
        """
        self.release(jobs)
        for job in jobs:
            if job.followers:
                self.release(job.followers)

    def wait_for_room(self, timeout: float) -> None:
        """Block until room is made, or for ``timeout`` seconds."""
        self._room.clear()
        self._room.wait(timeout)

    def _wake(self) -> None:
        if not self._room.is_set() and self.low:
            self._room.set()
