"""Which message may run next: order and fairness, pure logic without gevent or Kafka.

A job enters with ``add`` and is in one of three places until it leaves with ``finish`` or ``drop``:

- ready: it may run; ``take`` hands it out;
- behind: an earlier job of its lane (its key under ``order: key``, its partition under ``order: partition``) is not
  finished; it becomes ready when that one is;
- out: taken, and its lane is busy. ``put_back`` makes it ready again ahead of all others (an untouched rest of a
  block, a retry that is due), still the first of its lane.

A partition of which nothing may be taken for now is set aside: it has no turn and is not counted until ``resume``.

Partitions with ready jobs take turns, so a flooded partition, route or key delays the others by one block at most.
Each operation is O(1) a job, and a lane with no waiting job costs one dictionary entry, none once it is idle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from gworkers.pipeline.job import Job
from gworkers.pipeline.partition import Partition


class Scheduler:
    """See the head of this file. Not safe for use from several native threads: it belongs to the hub."""

    def __init__(self) -> None:
        self._turns: deque[Partition] = deque()  # active partitions with ready jobs, each once
        self.ready = 0  # jobs that take() could hand out now
        self.waiting = 0  # jobs ready or behind another one

    def add(self, partition: Partition, jobs: Iterable[Job]) -> None:
        """Jobs of one partition as they were read, in offset order."""
        lane_of = partition.route.lane_of
        ready = partition.ready
        before = len(ready)
        count = 0
        if lane_of is None:
            for job in jobs:
                ready.append(job)
                count += 1
        else:
            lanes = partition.lanes
            for job in jobs:
                count += 1
                lane = lane_of(job)
                job.lane = lane
                if lane is None:
                    ready.append(job)
                elif lane not in lanes:
                    lanes[lane] = None
                    ready.append(job)
                else:
                    behind = lanes[lane]
                    if behind is None:
                        lanes[lane] = deque((job,))
                    else:
                        behind.append(job)
        partition.waiting += count
        self.waiting += count
        if partition.aside:
            self.resume(partition)  # more of it may be enough
            return
        self.ready += len(ready) - before
        if ready and not before:
            self._turns.append(partition)

    def take(self, most: Callable[[Partition], int]) -> list[Job]:
        """The next block: jobs of one partition, in order, ``most(partition)`` at the most; empty when none may run.

        A partition for which ``most`` says 0 is set aside until ``resume``.
        """
        turns = self._turns
        while turns:
            partition = turns[0]
            count = most(partition)
            ready = partition.ready
            if count <= 0:
                turns.popleft()
                partition.aside = True
                self.ready -= len(ready)
                continue
            if count >= len(ready):
                block = list(ready)
                ready.clear()
                turns.popleft()
            else:
                block = [ready.popleft() for _ in range(count)]
                turns.rotate(-1)
            count = len(block)
            partition.waiting -= count
            partition.in_flight += count
            self.waiting -= count
            self.ready -= count
            return block
        return []

    def resume(self, partition: Partition) -> None:
        """``most`` may say more than 0 again. Nothing happens to a partition that is not aside."""
        if partition.aside:
            partition.aside = False
            self.ready += len(partition.ready)
            self._turns.append(partition)

    def put_back(self, jobs: list[Job]) -> None:
        """Jobs that were taken and are to run again, ahead of what waits. Not for jobs of closing partitions."""
        for job in reversed(jobs):
            partition = job.partition
            if not partition.ready:
                self._turns.append(partition)
            partition.ready.appendleft(job)
            partition.waiting += 1
            partition.in_flight -= 1
            self.waiting += 1
            if not partition.aside:
                self.ready += 1

    def finish(self, job: Job) -> bool:
        """A taken job is done with for good. True when that made another one ready."""
        partition = job.partition
        partition.in_flight -= 1
        lane = job.lane
        if lane is None or partition.closing:
            return False
        behind = partition.lanes[lane]
        if not behind:
            del partition.lanes[lane]
            return False
        if not partition.ready:
            self._turns.append(partition)
        partition.ready.append(behind.popleft())
        if partition.aside:
            return False
        self.ready += 1
        return True

    def drop(self, partition: Partition) -> list[Job]:
        """Forget what waits of a partition that is to be revoked; what is out may still finish.

        Returns the jobs that will not run, so that the caller can give back the room they take.
        """
        partition.closing = True
        dropped = list(partition.ready)
        self.resume(partition)
        self.ready -= len(dropped)
        for behind in partition.lanes.values():
            dropped.extend(behind or ())
        if partition.ready:
            self._turns.remove(partition)
        partition.ready.clear()
        partition.lanes.clear()
        self.waiting -= partition.waiting
        partition.waiting = 0
        return dropped
