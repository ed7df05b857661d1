"""The workers: greenlets that take what may run, have it run, and pass on what became of it.

Each worker, over and over:

1. takes a block from the scheduler, or sleeps until there is one;
2. has the executor run it, which lets the other greenlets go on meanwhile;
3. hands every finished job to ``complete`` and lets the route learn how long its handler took.

A block whose job turns out to be slow is broken up by the guard: what has not begun goes back to the scheduler, what has
finished is passed on. It also has handlers interrupted that are over their route's timeout, and replaces what does not come back
(gworkers.pipeline.time_limits). They end when ``stop`` has been called and nothing is left to run, or when they are killed.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import gevent.hub
from gevent.pool import Group, Pool

from gworkers import log_context
from gworkers.errors import RestartError
from gworkers.pipeline.executor import Batch, Block, Executor, over_limit
from gworkers.pipeline.job import Job
from gworkers.pipeline.pacing import Pacing
from gworkers.pipeline.partition import Partition
from gworkers.pipeline.quarantine import Quarantine
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.stats import Stats
from gworkers.pipeline.time_limits import GRACE

log = logging.getLogger(__name__)

#: How often the guard looks for blocks that take too long, seconds; and how long a block may take before it is broken up.
GUARD_INTERVAL = 0.02
SLOW_BLOCK = 0.01


class Workers:
    """A Pool of worker greenlets. All methods run on the hub's thread."""

    def __init__(
        self,
        count: int,
        scheduler: Scheduler,
        pacing: Pacing,
        executor: Executor,
        stats: Stats,
        complete: Callable[[Job], object],
        complete_batch: Callable[[list[Job], list[Job]], None],
        give_back: Callable[[Job], None],
        *,
        max_stuck: int,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._count = count
        self._scheduler = scheduler
        self._pacing = pacing
        self._executor = executor
        self._stats = stats
        self._complete = complete
        self._complete_batch = complete_batch
        self._give_back = give_back
        self._max_stuck = max_stuck
        self._fatal = fatal
        self._pool = Pool(count)
        self._replacements = Group()  # workers in the place of those whose own greenlet is stuck in a handler
        self._idle: deque[Any] = deque()  # greenlets that found nothing to do
        self._blocks: set[Block] = set()  # being run
        self._stopping = False
        self._held = False  # nothing is begun: a suspect runs alone
        self.quarantine: Quarantine | None = None
        self.beat = time.monotonic()  # when the hub last had a turn for the guard
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
        for group in (self._pool, self._replacements):
            group.kill(block=False)

    @property
    def running(self) -> list[Job]:
        """The jobs in the hands of the executor."""
        return [job for block in self._blocks for job in block.unfinished]

    @property
    def handling(self) -> int:
        """How many handlers run at this moment; what else is in the hands of the executor waits for its turn."""
        return sum(block.slot is not None for block in self._blocks)

    def _most(self, partition: Partition) -> int:
        route = partition.route
        return self._pacing.most(partition) if route.paced else route.block_size

    def _work(self) -> None:
        take, most, quarantine = self._scheduler.take, self._most, self.quarantine
        while not self._stopping:
            jobs = take(most) if not self._held else []
            if not jobs:
                self._idle.append(gevent.getcurrent())
                self._hub.switch()
                continue
            if quarantine is not None and jobs[0].partition.suspects:
                jobs = quarantine.take_out(jobs)
                if not jobs:
                    continue
            if not self.run(jobs):
                return  # another worker has taken this one's place

    def run(self, jobs: list[Job]) -> bool:
        """Have jobs of one partition run, and pass on what becomes of them. Blocks; False when this greenlet is given up meanwhile."""
        executor, stats, blocks = self._executor, self._stats, self._blocks
        route = jobs[0].partition.route
        block = Block(route, jobs) if route.batch is None else Batch(route, jobs)
        stats.running += len(jobs)
        blocks.add(block)
        if route.paced:
            self._pacing.begun(route, len(jobs))
        try:
            executor.run(block)
        finally:
            blocks.discard(block)
            if route.paced:
                self._pacing.ended(route)
        if block.abandoned and executor.replaces_workers:
            return False
        stats.busy += block.busy
        route.measured(block.busy, len(block.done))
        self._pass_on(block)
        return True

    def hold(self, held: bool) -> None:
        """True: begin nothing, and wait until nothing runs. False: go on."""
        self._held = held
        while self._held and self._blocks:
            gevent.sleep(GUARD_INTERVAL)
        if not held:
            self.wake()

    def _pass_on(self, block: Block) -> None:
        """Hand on what has finished since the last look."""
        done, complete = block.done, self._complete
        end = len(done)
        if isinstance(block, Batch):
            if end > block.seen:
                self._complete_batch(block.jobs, block.whole)
            self._stats.running -= end - block.seen
            block.seen = end
            return
        for index in range(block.seen, end):
            complete(done[index])
        self._stats.running -= end - block.seen
        block.seen = end

    def _watch(self) -> None:
        while True:
            gevent.sleep(GUARD_INTERVAL)
            self.beat = time.monotonic()
            self._keep_limits()
            late = time.perf_counter() - SLOW_BLOCK
            for block in [b for b in self._blocks if b.started and b.started < late and len(b.todo) + len(b.done) > b.seen]:
                jobs = block.reclaim()
                self._pass_on(block)
                self._stats.running -= len(jobs)
                if block.route.paced:
                    self._pacing.returned(block.route, len(jobs))
                self._scheduler.put_back([job for job in jobs if not job.partition.closing])
                for job in jobs:
                    if job.partition.closing:
                        self._give_back(job)
                self.wake()

    def _keep_limits(self) -> None:
        """Interrupt the handlers that are over their limit, and give up those that were told to end and have not."""
        now = time.monotonic()
        for block in list(self._blocks):
            timeout, slot = block.route.timeout, block.slot
            if timeout is None or slot is None or slot.limit is None or slot.deadline is None:
                continue
            if slot.limit.late(timeout, now):
                job = slot.job
                self._executor.interrupt(block, slot.limit)
                if job is not None:
                    log.warning("%s and is interrupted", over_limit(timeout), extra=log_context.about(job))
            elif now > slot.deadline + GRACE and slot.limit.give_up():
                self._abandon(block, slot, now - slot.deadline + timeout)

    def _abandon(self, block: Block, slot: log_context.Slot, age: float) -> None:
        assert slot.job is not None
        assert slot.limit is not None
        log.error(
            "the handler of route %s has run for %.0f s, was told to end and has not; its thread is given up and replaced. It is at\n%s",
            block.route.name,
            age,
            slot.limit.stack() if not self._executor.replaces_workers else "".join(traceback.format_stack(block.waiter.gr_frame)).rstrip(),
            extra=log_context.about(slot.job),
        )
        block.abandon()
        self._stats.stuck += 1
        if not self._executor.abandon(block):
            self._blocks.discard(block)
            self._replacements.spawn(self._work)
            block.route.measured(block.busy, len(block.done))
            self._pass_on(block)
        if len(self._executor.stuck) > self._max_stuck:
            self._fatal(
                RestartError(
                    f"{len(self._executor.stuck)} handlers are stuck, more than max_stuck_handlers ({self._max_stuck}) allows; "
                    "the process ends so that its supervisor starts it anew"
                )
            )
