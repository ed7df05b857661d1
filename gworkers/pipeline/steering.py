"""``concurrency: auto``: measures windows, has the Finder choose, and lets so many handlers run.

A window is a second, longer where handlers take long; it begins when what ran with another concurrency
has ended. With ``mode: observe`` nothing is changed, and what would be tried is said.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from statistics import median

import gevent

from gworkers.config.schema import Steered
from gworkers.handlers.executor import TooFewThreadsError
from gworkers.handlers.routes import Route
from gworkers.loop import Fatal, Loop
from gworkers.pipeline.finder import Choice, Finder, Window
from gworkers.pipeline.runner import Runner
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.snapshot import SteeringSnapshot

log = logging.getLogger(__name__)

#: Seconds of a window, and at the most while too few handlers have ended; how many are enough.
WINDOW = 1.0
LONGEST_WINDOW = 10.0
ENOUGH = 100
#: The part of the concurrency that must be in use for it to be what holds back.
USED = 0.9
#: Seconds between two looks at what runs.
LOOK = 0.05
#: Seconds that are passed over after a change: this, and so many times what runs has run for already.
SETTLE = 0.2
SETTLE_AGES = 3.0
LONGEST_SETTLE = 15.0
#: How many handlers must have ended one after the other in a window for their number to be counted;
#: below, their rate is taken from how long they took (Little's law).
ROUNDS = 4


class Steering:
    """On the hub. resize: has so many handlers run; raises TooFewThreadsError. cores: of a processor's
    time the process has."""

    def __init__(
        self,
        steered: Steered,
        routes: Sequence[Route],
        runner: Runner,
        scheduler: Scheduler,
        cores: Callable[[], float],
        resize: Callable[[int], None],
        fatal: Fatal,
    ) -> None:
        self._steered = steered
        self._routes = routes
        self._runner = runner
        self._scheduler = scheduler
        self._cores = cores
        self._resize = resize
        self._most = steered.max
        self._finder = self._begin(steered.first)
        self._choice = Choice(steered.first, steered.first, "where it begins")
        self._concurrency = steered.first  # as it is now
        self._held = False
        self._changes = self._probes = 0
        self._loop = Loop("steering", self._run, fatal)

    def _begin(self, start: int) -> Finder:
        return Finder(start, self._steered.min, self._most)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def bound(self, most: int) -> None:
        """No more than this can be had."""
        self._most = self._finder.most = max(1, min(self._most, most))

    def hold(self, concurrency: int) -> None:
        """An operator has set it to this number, and it stays there until ``release``."""
        self._held, self._concurrency = True, concurrency

    def release(self) -> None:
        """Find it again, from where it is."""
        if self._held:
            self._held = False
            self._finder = self._begin(self._concurrency)

    @property
    def snapshot(self) -> SteeringSnapshot:
        choice, held = self._choice, self._held
        return SteeringSnapshot(
            mode="held" if held else self._steered.mode,
            min=self._steered.min,
            max=self._most,
            settled=self._concurrency if held else choice.settled,
            wanted=self._concurrency if held else choice.concurrency,
            reason="an operator has set it" if held else choice.reason,
            changes=self._changes,
            probes=self._probes,
        )

    # -- one window after the other

    def _run(self) -> None:
        while True:
            gevent.sleep(self._settling())
            finder = self._finder
            window = self._window()
            if window is None or self._held or finder is not self._finder:
                continue
            if self._steered.mode == "observe":
                self._say(Finder(self._concurrency, finder.least, finder.most).next(window))
                continue
            self._apply(finder.next(window))

    def _settling(self) -> float:
        """Seconds until what began before now has ended, about."""
        now = time.perf_counter()
        ages = [now - block.started for block in self._runner.blocks if block.slot is not None and block.started]
        return min(LONGEST_SETTLE, SETTLE + SETTLE_AGES * (median(ages) if ages else 0.0))

    def _window(self) -> Window | None:
        """Blocks until it is over. None when nothing can be said of it."""
        began, (count, busy), looks, used_up = time.perf_counter(), self._ended(), [0], 0
        concurrency, cores = self._concurrency, []
        ended, took, elapsed = 0, 0.0, 0.0
        while elapsed < WINDOW or (ended < ENOUGH and elapsed < LONGEST_WINDOW and self._runner.blocks):
            gevent.sleep(LOOK)
            runner = self._runner
            if runner.paused or self._concurrency != concurrency:
                return None
            running = runner.running
            looks.append(running)
            handed = len(runner.blocks)  # where many end a second, not all of them run at a look, and none is idle
            used_up += handed > concurrency or (handed >= USED * concurrency and self._scheduler.ready > 0)
            cores.append(self._cores())
            now_count, now_busy = self._ended()
            ended, took = now_count - count, now_busy - busy
            elapsed = time.perf_counter() - began
        if not ended:
            return None
        at_once, handler = median(looks), took / ended
        counted = handler * ROUNDS < elapsed
        rate = ended / elapsed if counted or not handler else at_once / handler
        return Window(at_once, used_up / (len(looks) - 1), rate, handler, median(cores))

    def _ended(self) -> tuple[int, float]:
        """Attempts of all routes that have ended, and the seconds they took together."""
        times = [route.figures.handler.times for route in self._routes]
        return sum(one.count for one in times), sum(one.sum for one in times)

    def _say(self, choice: Choice) -> None:
        if choice.concurrency != self._choice.concurrency:
            told = f"it would try {choice.concurrency}" if choice.probing else f"it would stay: {choice.reason}"
            log.info("concurrency %d, observed: %s", self._concurrency, told)
        self._choice = choice

    def _apply(self, choice: Choice) -> None:
        before, self._choice = self._choice, choice
        if choice.settled != before.settled:
            self._changes += 1
            log.info("concurrency %d from now on, %d before: %s", choice.settled, before.settled, choice.reason)
        self._probes += choice.probing
        if choice.concurrency == self._concurrency:
            return
        try:
            self._resize(choice.concurrency)
        except TooFewThreadsError as error:
            log.warning("no more than %d handlers at once: no more threads can be started", error.started)
            self.bound(error.started)
            self._finder = self._begin(error.started)
            self._concurrency = error.started
            self._resize(error.started)
            return
        self._concurrency = choice.concurrency
