"""Which message may run next: order and fairness, pure logic without gevent or Kafka.

A job enters with ``add`` and is in one of these places until it leaves with ``finish`` or ``drop``:

- ready: it may run; ``take`` hands it out;
- forming: on a route with batches of a lane, the first of its lane waits until it is ``formed``,
  with enough behind it or after a while;
- behind: an earlier job of its lane (its key under ``order: key``, its partition under ``order:
  partition``) is not finished; it becomes ready when that one is;
- out: taken, and its lane is busy; ``Partition.in_flight`` counts it until the ledger does so no
  more. ``put_back`` makes it ready again ahead of all others (an untouched rest of a block, a retry
  that is due), still the first of its lane.

``take`` hands out a batch of a lane as one block: its first job, which is ready, and those behind
it. The lane is busy until the last of them has finished.

A partition of which nothing may be taken for now is set aside: it has no turn and is not counted
until ``resume``.

Whatever makes a job ready wakes idle workers. Partitions with ready jobs take turns, so a flooded
partition, route or key delays the others by one block at most. Each operation is O(1) a job, and a
lane with no waiting job costs one dictionary entry, none once it is idle.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from gworkers.events import Signal
from gworkers.handlers import batches
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Forming, Partition


class IdleWorkers(Protocol):
    def wake(self, ready: int) -> None:
        """There are ``ready`` jobs to be had."""


class Scheduler:
    """See the head of this file. Not safe for use from several native threads: it belongs to the
    hub."""

    def __init__(self, idle: IdleWorkers) -> None:
        self._idle = idle
        self._turns: deque[Partition] = deque()  # active partitions with ready jobs, each once
        self.ready = 0  # jobs that take() could hand out now
        self.waiting = 0  # jobs ready, forming or behind another one
        self.forming: Signal[[Partition]] = Signal()  # a partition had nothing forming, and now it has

    def add(self, partition: Partition, jobs: Iterable[Job]) -> None:
        """Jobs of one partition as they were read, in offset order."""
        lane_of = partition.route.lane_of
        ready = partition.ready
        before = len(ready)
        count = 0
        if partition.route.batch_of_lane:
            count = self._gather(partition, jobs)
        elif lane_of is None:
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
        if ready:
            self._idle.wake(self.ready)

    def _gather(self, partition: Partition, jobs: Iterable[Job]) -> int:
        """``add`` where batches of a lane are formed: the first jobs of a lane go into ``forming``
        or ``ready``, the others behind them."""
        lane_of, lanes, forming, batch = partition.route.lane_of, partition.lanes, partition.forming, partition.route.batch
        assert lane_of is not None
        assert batch is not None
        count = 0
        for job in jobs:
            count += 1
            lane = job.lane = lane_of(job)
            if lane not in lanes:
                lanes[lane] = None
                self._first(partition, job, None)
                continue
            behind = lanes[lane]
            if behind is None:
                behind = lanes[lane] = deque()
            behind.append(job)
            fills = forming.get(lane)
            if fills is not None:
                fills.bytes += job.size
                if len(behind) + 1 >= batch.max_messages or fills.bytes >= batch.max_bytes:
                    del forming[lane]
                    partition.ready.append(fills.head)
        return count

    def _first(self, partition: Partition, job: Job, behind: deque[Job] | None) -> None:
        """``job`` is now the first of its lane: have its batch form, or put it into ``ready`` when
        there is enough."""
        batch = partition.route.batch
        assert batch is not None
        size = job.size
        for other in behind or ():
            size += other.size
        if 1 + len(behind or ()) >= batch.max_messages or size >= batch.max_bytes or not batch.max_wait:
            partition.ready.append(job)
            return
        partition.forming[job.lane] = Forming(job, time.monotonic(), size)
        if len(partition.forming) == 1:
            self.forming.send(partition)

    def formed(self, partition: Partition, until: float) -> float | None:
        """What has been forming since ``until``, as time.monotonic() tells it, is ready. Returns
        since when the next one has, or None."""
        forming, ready = partition.forming, partition.ready
        before = len(ready)
        while forming:
            lane, fills = next(iter(forming.items()))
            if fills.since > until:
                break
            del forming[lane]
            ready.append(fills.head)
        if not partition.aside:
            self.ready += len(ready) - before
            if ready and not before:
                self._turns.append(partition)
            if ready:
                self._idle.wake(self.ready)
        return next(iter(forming.values())).since if forming else None

    def take(self, most: Callable[[Partition], int]) -> list[Job]:
        """The next block: jobs of one partition, in order, ``most(partition)`` at the most; empty
        when none may run.

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
            if partition.route.batch_of_lane:
                return self._take_batch(partition, count)
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

    def _take_batch(self, partition: Partition, most: int) -> list[Job]:
        route, ready = partition.route, partition.ready
        assert route.batch is not None
        head = ready.popleft()
        if ready:
            self._turns.rotate(-1)
        else:
            self._turns.popleft()
        behind = partition.lanes.get(head.lane) or deque()
        due = (time.time() - partition.delay) * 1000 if partition.delay else None
        count, _ = batches.length(itertools.chain((head,), behind), most, route.batch, route.config.retry.attempts, due)
        block = [head, *(behind.popleft() for _ in range(count - 1))]
        if count > 1:
            partition.extra[head.lane] = partition.extra.get(head.lane, 0) + count - 1
        partition.waiting -= count
        partition.in_flight += count
        self.waiting -= count
        self.ready -= 1
        return block

    def put_behind(self, jobs: list[Job]) -> None:
        """Taken jobs of a batch that have to wait for an earlier one of it: they are the first
        behind it again, in this order."""
        for job in reversed(jobs):
            partition = job.partition
            behind = partition.lanes[job.lane]
            if behind is None:
                behind = partition.lanes[job.lane] = deque()
            behind.appendleft(job)
            self._one_less_out(partition, job.lane)
            partition.waiting += 1
            partition.in_flight -= 1
            self.waiting += 1

    @staticmethod
    def _one_less_out(partition: Partition, lane: object) -> None:
        partition.extra[lane] -= 1
        if not partition.extra[lane]:
            del partition.extra[lane]

    def resume(self, partition: Partition) -> None:
        """``most`` may say more than 0 again. Nothing happens to a partition that is not aside."""
        if partition.aside:
            partition.aside = False
            self.ready += len(partition.ready)
            self._turns.append(partition)
            self._idle.wake(self.ready)

    def call_workers(self) -> None:
        """Have idle workers come for what is ready, after a time in which they took nothing."""
        self._idle.wake(self.ready)

    def put_back(self, jobs: list[Job]) -> None:
        """Jobs that were taken and are to run again, ahead of what waits. Not for jobs of closing
        partitions."""
        for job in reversed(jobs):
            partition = job.partition
            if partition.extra and job.lane in partition.extra:
                self.put_behind([job])  # others of its batch are still out
                continue
            if not partition.ready:
                self._turns.append(partition)
            partition.ready.appendleft(job)
            partition.waiting += 1
            partition.in_flight -= 1
            self.waiting += 1
            if not partition.aside:
                self.ready += 1
        self._idle.wake(self.ready)

    def finish(self, job: Job) -> bool:
        """The lane of a taken job is free: it is done with, or its results are acknowledged. True
        when that made another one ready."""
        partition = job.partition
        lane = job.lane
        if lane is None or partition.closing:
            return False
        if partition.extra and lane in partition.extra:
            self._one_less_out(partition, lane)
            return False
        behind = partition.lanes[lane]
        if not behind:
            del partition.lanes[lane]
            return False
        before = len(partition.ready)
        if partition.route.batch_of_lane:
            self._first(partition, behind.popleft(), behind)
            if len(partition.ready) == before:
                return False
        else:
            job = behind.popleft()
            partition.route.figures.waited(job)
            partition.ready.append(job)
        if partition.aside:
            return False
        if not before:
            self._turns.append(partition)
        self.ready += 1
        self._idle.wake(self.ready)
        return True

    def drop(self, partition: Partition) -> list[Job]:
        """Hand out what waits of a partition that is to be revoked, not to be run but to be given
        back; what is out may still finish."""
        partition.closing = True
        dropped = list(partition.ready)
        self.resume(partition)
        self.ready -= len(dropped)
        dropped.extend(fills.head for fills in partition.forming.values())
        for behind in partition.lanes.values():
            dropped.extend(behind or ())
        if partition.ready:
            self._turns.remove(partition)
        partition.ready.clear()
        partition.lanes.clear()
        partition.forming.clear()
        partition.extra.clear()
        self.waiting -= partition.waiting
        partition.waiting = 0
        partition.in_flight += len(dropped)
        return dropped
