"""The workers: greenlets that take what may run, have it run, and pass on what became of it.

Each worker, over and over:

1. takes a block from the scheduler, or sleeps until there is one;
2. has the executor run it, which lets the other greenlets go on meanwhile;
3. hands every finished job to ``complete`` and lets the route learn how long its handler took.

A block whose job turns out to be slow is broken up by the guard: what has not begun goes back to the scheduler, what has
finished is passed on. They end when ``stop`` has been called and nothing is left to run, or when they are killed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import gevent.hub
from gevent.pool import Pool

from gworkers.pipeline.executor import Block, Executor
from gworkers.pipeline.job import Job
from gworkers.pipeline.partition import Partition
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.stats import Stats

#: How often the guard looks for blocks that take too long, seconds; and how long a block may take before it is broken up.
GUARD_INTERVAL = 0.02
SLOW_BLOCK = 0.01


class Workers:
    """A Pool of worker greenlets. All methods run on the hub's thread."""

    def __init__(
        self,
        count: int,
        scheduler: Scheduler,
        executor: Executor,
        stats: Stats,
        complete: Callable[[Job], None],
        give_back: Callable[[Job], None],
    ) -> None:
        self._count = count
        self._scheduler = scheduler
        self._executor = executor
        self._stats = stats
        self._complete = complete
        self._give_back = give_back
        self._pool = Pool(count)
        self._idle: deque[Any] = deque()  # greenlets that found nothing to do
        self._blocks: set[Block] = set()  # being run
        self._stopping = False
        self._hub = gevent.hub.get_hub()
        self._guard: gevent.Greenlet | None = None

    def start(self) -> None:
        for _ in range(self._count):
            self._pool.spawn(self._work)
        self._guard = gevent.spawn(self._watch)

    def wake(self) -> None:
        """Let idle workers look for work: as many as there are blocks to be had."""
        idle = self._idle
        loop = self._hub.loop
        for _ in range(min(len(idle), self._scheduler.ready)):
            loop.run_callback(idle.pop().switch)

    def stop(self) -> None:
        """Take nothing new. What runs goes on; ``idle`` tells when it is done."""
        self._stopping = True
        while self._idle:
            self._hub.loop.run_callback(self._idle.pop().switch)

    def kill(self) -> None:
        """End the workers where they stand; handlers in threads run on and are not listened to any more."""
        if self._guard is not None:
            self._guard.kill(block=False)
        self._pool.kill(block=False)

    @property
    def running(self) -> list[Job]:
        """The jobs in the hands of the executor."""
        return [job for block in self._blocks for job in block.unfinished]

    @property
    def handling(self) -> int:
        """How many handlers run at this moment; what else is in the hands of the executor waits for its turn."""
        return sum(block.slot is not None for block in self._blocks)

    def _most(self, partition: Partition) -> int:
        return partition.route.block_size

    def _work(self) -> None:
        scheduler, executor, stats, blocks = self._scheduler, self._executor, self._stats, self._blocks
        while not self._stopping:
            jobs = scheduler.take(self._most)
            if not jobs:
                self._idle.append(gevent.getcurrent())
                self._hub.switch()
                continue
            route = jobs[0].partition.route
            block = Block(route, jobs)
            stats.running += len(jobs)
            blocks.add(block)
            try:
                executor.run(block)
            finally:
                blocks.discard(block)
            stats.busy += block.busy
            route.measured(block.busy, len(block.done))
            self._pass_on(block)

    def _pass_on(self, block: Block) -> None:
        """Hand on what has finished since the last look."""
        done, complete = block.done, self._complete
        end = len(done)
        for index in range(block.seen, end):
            complete(done[index])
        self._stats.running -= end - block.seen
        block.seen = end

    def _watch(self) -> None:
        while True:
            gevent.sleep(GUARD_INTERVAL)
            late = time.perf_counter() - SLOW_BLOCK
            for block in [b for b in self._blocks if b.started and b.started < late and len(b.todo) + len(b.done) > b.seen]:
                jobs = block.reclaim()
                self._pass_on(block)
                self._stats.running -= len(jobs)
                self._scheduler.put_back([job for job in jobs if not job.partition.closing])
                for job in jobs:
                    if job.partition.closing:
                        self._give_back(job)
                self.wake()
