"""The workers: greenlets that take what may run and have it run.

Each worker, over and over:

1. takes a block from the scheduler, or sleeps until there is one;
2. leaves what is suspected of having killed a process to the quarantine;
3. has the runner run the rest, which lets the other greenlets go on meanwhile and passes on what
   becomes of it.

They end when ``stop`` has been called and their block is through, or when they are killed.
"""

from __future__ import annotations

import itertools
from typing import Any
from weakref import WeakSet

import gevent

from gworkers.handlers.partition import Partition
from gworkers.loop import Fatal, Loop
from gworkers.pipeline.idle import Idle
from gworkers.pipeline.pacing import Pacing
from gworkers.pipeline.pauses import Pauses
from gworkers.pipeline.quarantine import Quarantine
from gworkers.pipeline.runner import Runner
from gworkers.pipeline.scheduler import Scheduler


class Workers:
    """A pool of worker greenlets. All methods run on the hub's thread."""

    def __init__(
        self,
        count: int,
        idle: Idle,
        scheduler: Scheduler,
        pacing: Pacing,
        pauses: Pauses,
        runner: Runner,
        quarantine: Quarantine,
        fatal: Fatal,
    ) -> None:
        self._count = count
        self._idle = idle
        self._scheduler = scheduler
        self._pacing = pacing
        self._pauses = pauses
        self._runner = runner
        self._quarantine = quarantine
        self._fatal = fatal
        self._numbers = itertools.count(1)
        self._loops: list[Loop] = []
        self._stopping = False
        self._surplus = 0  # how many are to end
        self._leaving: WeakSet[Any] = WeakSet()  # greenlets that take nothing more

    def start(self) -> None:
        for _ in range(self._count):
            self.add()

    def add(self) -> None:
        """One more worker, for instance in the place of one whose greenlet is stuck in a handler."""
        self._loops = [loop for loop in self._loops if not loop.dead]
        self._loops.append(Loop(f"worker {next(self._numbers)}", self._work, self._fatal, ends=True).start())

    def resize(self, count: int) -> None:
        """Have so many of them; those that are too many end when they have nothing in hand."""
        self._surplus += self._count - count
        self._count = count
        while self._surplus < 0:
            self._surplus += 1
            self.add()
        if self._surplus:
            self._idle.wake_all()

    def stop(self) -> None:
        """Take nothing new. What runs goes on."""
        self._stopping = True
        self._idle.wake_all()

    def kill(self) -> None:
        """End the workers where they stand; handlers in threads run on and are not listened to any
        more. Those that leave by themselves are let go: in a greenlet the hooks of its end run in it,
        and may wait."""
        gevent.get_hub().loop.run_callback(self._end)  # after those that ``stop`` has woken

    def _end(self) -> None:
        for loop in self._loops:
            if loop.greenlet not in self._leaving:
                loop.stop()

    def _most(self, partition: Partition) -> int:
        route = partition.route
        if self._pauses.selections and self._pauses.has(partition):
            return 0
        return self._pacing.most(partition) if route.paced else route.block_size

    def _work(self) -> None:
        try:
            self._work_on()
        finally:
            self._leaving.add(gevent.getcurrent())
            self._runner.executor.leave()

    def _work_on(self) -> None:
        take, most, runner = self._scheduler.take, self._most, self._runner
        while not self._stopping:
            if self._surplus:
                self._surplus -= 1
                return
            jobs = take(most) if not runner.paused else []
            if not jobs:
                self._idle.wait()
                continue
            if jobs[0].partition.suspects:
                jobs = self._quarantine.take_out(jobs)
                if not jobs:
                    continue
            if not runner.run(jobs):
                return  # another worker has taken this one's place
