"""Has blocks run, one call a block, and passes on what becomes of their jobs.

``run`` is called by a worker's greenlet, which blocks while the executor runs the block on a thread
or in the greenlet itself. The time keeper looks at the running blocks meanwhile. While the runner
is paused nobody begins anything: a suspect runs alone.
"""

from __future__ import annotations

import gevent

from gworkers.handlers.block import Batch, Block
from gworkers.handlers.executor import Executor
from gworkers.handlers.job import Job
from gworkers.pipeline.outcomes import Outcomes
from gworkers.pipeline.pacing import Pacing
from gworkers.pipeline.scheduler import Scheduler

#: Seconds between two looks whether nothing runs any more.
QUIET_INTERVAL = 0.02


class Runner:
    """All methods run on the hub's thread. blocks: being run; taken: jobs in them; busy: seconds
    handlers took together."""

    def __init__(self, executor: Executor, scheduler: Scheduler, pacing: Pacing, outcomes: Outcomes) -> None:
        self._scheduler = scheduler
        self._pacing = pacing
        self._outcomes = outcomes
        self.executor = executor
        self.blocks: set[Block] = set()
        self.taken = 0
        self.busy = 0.0
        self._pauses = 0

    @property
    def paused(self) -> bool:
        """Whether nobody is to begin anything."""
        return self._pauses > 0

    @property
    def jobs(self) -> list[Job]:
        """The jobs in the hands of the executor: running, and not begun."""
        return [job for block in self.blocks for job in block.unfinished]

    @property
    def running(self) -> int:
        """How many handlers run at this moment."""
        return sum(block.slot is not None for block in self.blocks)

    def run(self, jobs: list[Job]) -> bool:
        """Have jobs of one partition run, and pass on what becomes of them. Blocks; False when the
        calling greenlet was given up meanwhile, and another has its place."""
        route = jobs[0].partition.route
        block = Block(route, jobs) if route.batch is None else Batch(route, jobs)
        self.taken += len(jobs)
        self.blocks.add(block)
        if route.paced:
            self._pacing.begun(route, len(jobs))
        try:
            self.executor.run(block)
        finally:
            self.blocks.discard(block)
            if route.paced:
                self._pacing.ended(route)
        if block.given_up and self.executor.replaces_workers:
            return False
        self.ended(block)
        return True

    def ended(self, block: Block) -> None:
        """Nothing more comes of this block: note how long it took, and pass on the rest of it."""
        self.busy += block.busy
        block.route.measured(block.busy, len(block.done))
        block.route.figures.ran(block.done, block.started, block.busy)
        self.pass_on(block)

    def pass_on(self, block: Block) -> None:
        """Hand on what has finished since the last call for this block."""
        done, complete = block.done, self._outcomes.complete
        end = len(done)
        if isinstance(block, Batch):
            if end > block.passed_on:
                self._outcomes.complete_batch(block.jobs, block.whole)
        else:
            for index in range(block.passed_on, end):
                complete(done[index])
        self.taken -= end - block.passed_on
        block.passed_on = end

    def take_back(self, block: Block) -> list[Job]:
        """What has not begun of a block that turned out to be slow."""
        jobs = block.reclaim()
        self.taken -= len(jobs)
        if block.route.paced:
            self._pacing.returned(block.route, len(jobs))
        return jobs

    def pause(self) -> None:
        """Begin nothing, and block until nothing runs. Each needs a ``resume`` of its own."""
        self.hold()
        while self.blocks:
            gevent.sleep(QUIET_INTERVAL)

    def hold(self) -> None:
        """Begin nothing; what runs goes on. Needs a ``resume`` as well."""
        self._pauses += 1

    def resume(self) -> None:
        self._pauses -= 1
        if not self._pauses:
            self._scheduler.call_workers()
