"""Looks at what runs, fifty times a second: breaks up slow blocks, keeps time limits, gives up what
is stuck.

1. A block whose job turns out to be slow is broken up: what has not begun goes back to the
   scheduler, what has finished is passed on.
2. A handler that is over its route's timeout is interrupted (gworkers.handlers.time_limits), as soon
   as it stands where that leaves no lock taken.
3. One that has not ended INTERRUPT_GRACE later is given up: its message has failed, its thread is
   replaced. With too many of these the process ends, so that its supervisor starts it anew.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Sequence

import gevent

from gworkers import log_context
from gworkers.errors import RestartError
from gworkers.events import Events
from gworkers.figures import Histogram
from gworkers.handlers.block import Block, over_limit
from gworkers.handlers.job import Job
from gworkers.handlers.routes import Route
from gworkers.handlers.slot import Slot
from gworkers.handlers.time_limits import INTERRUPT_GRACE
from gworkers.loop import Fatal, Loop
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.runner import Runner
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.worker import Workers

log = logging.getLogger(__name__)

#: Seconds between two looks; and how long a block may take before it is broken up.
INTERVAL = 0.02
SLOW_BLOCK = 0.01


class TimeKeeper:
    """On the hub. beat: when the hub last had a turn for it, as ``time.monotonic()`` tells it."""

    def __init__(
        self,
        routes: Sequence[Route],
        runner: Runner,
        workers: Workers,
        scheduler: Scheduler,
        ledger: Ledger,
        events: Events,
        fatal: Fatal,
        *,
        max_stuck: int,
    ) -> None:
        self._routes = routes
        self._runner = runner
        self._workers = workers
        self._scheduler = scheduler
        self._ledger = ledger
        self._events = events
        self._fatal = fatal
        self._max_stuck = max_stuck
        self._loop = Loop("time keeper", self._run, fatal)
        self._asked: set[Job] = set()  # whose handlers an operator wants to end
        self.beat = time.monotonic()
        self.late = Histogram()  # by how much the hub's turns for it came too late
        self.cores = 0.0  # of a processor's time this process had of all its threads, in the last second

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def interrupt(self, job: Job) -> None:
        """Have its handler end, if it still runs at the next look, as if it were over its limit."""
        self._asked.add(job)

    def _run(self) -> None:
        second, cpu = self.beat, time.process_time()
        while True:
            gevent.sleep(INTERVAL)
            now = time.monotonic()
            self.late.add(max(0.0, now - self.beat - INTERVAL))
            self.beat = now
            self._keep_limits()
            self._break_up_slow_blocks()
            if now - second >= 1.0:
                used = time.process_time()
                self.cores = (used - cpu) / (now - second)
                second, cpu = now, used
                for route in self._routes:
                    route.figures.sample(now)

    def _break_up_slow_blocks(self) -> None:
        late = time.perf_counter() - SLOW_BLOCK
        runner = self._runner
        for block in [b for b in runner.blocks if b.started and b.started < late and len(b.todo) + len(b.done) > b.passed_on]:
            jobs = runner.take_back(block)
            runner.pass_on(block)
            self._ledger.give_back([job for job in jobs if job.partition.closing])
            self._scheduler.put_back([job for job in jobs if not job.partition.closing])

    def _keep_limits(self) -> None:
        """Interrupt the handlers that are over their limit, and give up those that were told to end
        and have not."""
        now = time.monotonic()
        asked, self._asked = self._asked, set()
        for block in list(self._runner.blocks):
            timeout, slot = block.route.timeout, block.slot
            if asked and slot is not None and slot.job in asked and timeout is not None:
                self._interrupt(block, slot, now)
                continue
            limit, deadline = (slot.time_limit, slot.deadline) if slot is not None else (None, None)
            if timeout is None or slot is None or limit is None or deadline is None or now <= deadline:
                continue
            hopeless = now > deadline + INTERRUPT_GRACE
            if not self._runner.executor.may_interrupt(limit):  # the next look may find it elsewhere
                if hopeless and limit.late(timeout, now):
                    limit.interrupted()
            elif limit.late(timeout, now):
                job = slot.job
                self._runner.executor.interrupt(block, limit)
                if job is not None:
                    log.warning("%s and is interrupted", over_limit(timeout), extra=log_context.about(job))
                continue
            if hopeless and limit.give_up():
                self._give_up(block, slot, now - deadline + timeout)

    def _interrupt(self, block: Block, slot: Slot, now: float) -> None:
        """As an operator wants it; where an exception would do harm it is tried again at the next
        look."""
        job, limit = slot.job, slot.time_limit
        assert job is not None
        if limit is None or not self._runner.executor.may_interrupt(limit):
            self._asked.add(job)
        elif limit.late(0.0, now):
            self._runner.executor.interrupt(block, limit)
            log.warning("an operator has it interrupted", extra=log_context.about(job))

    def _give_up(self, block: Block, slot: Slot, age: float) -> None:
        job, limit, executor = slot.job, slot.time_limit, self._runner.executor
        assert job is not None
        assert limit is not None
        log.error(
            "the handler of route %s has run for %.0f s, was told to end and has not; its thread is given up and replaced. It is at\n%s",
            block.route.name,
            age,
            limit.stack() if not executor.replaces_workers else "".join(traceback.format_stack(block.waiter.gr_frame)).rstrip(),
            extra=log_context.about(job),
        )
        block.give_up()
        self._events.stuck.send(job)
        if not executor.replace(block):
            self._runner.blocks.discard(block)
            self._workers.add()
            self._runner.ended(block)
        if len(executor.stuck) > self._max_stuck:
            self._fatal(
                RestartError(
                    f"{len(executor.stuck)} handlers are stuck, more than max_stuck_handlers ({self._max_stuck}) allows; "
                    "the process ends so that its supervisor starts it anew"
                )
            )
