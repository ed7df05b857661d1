"""What is counted and timed of the messages of a route: plain numbers and small histograms.

Fed a block at a time, by the parts of the pipeline that see a block come by, because it runs for each
message: what a block's messages have in common is looked at once. Pure bookkeeping, on the hub.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gworkers.handlers.job import Job
    from gworkers.handlers.routes import Route

#: Upper bounds of the buckets of all times, in seconds; the last one is infinite.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

#: How many different names of exceptions are told apart, and what all others are counted as.
MOST_REASONS = 50
OTHER = "other"

#: Over how many seconds a rate is taken.
RATE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Times:
    """A histogram at one moment. counts: of each bucket of BOUNDS and of what is beyond the last, not
    added up; sum: in seconds."""

    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, part: float) -> float | None:
        """About the time that ``part`` of them stay below, in seconds, as far as the buckets tell
        (linear within one, as Prometheus' histogram_quantile); None when there are none."""
        wanted, below = part * self.count, 0
        if not self.count:
            return None
        for (low, high), count in zip(pairwise((0.0, *BOUNDS)), self.counts, strict=False):
            if count and below + count >= wanted:
                return low + (high - low) * (wanted - below) / count
            below += count
        return BOUNDS[-1]


class Histogram:
    """Times as they come."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """``count`` of them took so long."""
        self._counts[bisect_left(BOUNDS, seconds)] += count
        self._sum += seconds * count

    @property
    def times(self) -> Times:
        return Times(tuple(self._counts), self._sum)


class RouteFigures:
    """Of one route. handler: how long handlers took, an attempt; queue: from a message's reading to
    its beginning; end_to_end: from its timestamp to when it is finished; held: for how long those
    that waited for an earlier one of their key or partition did, one in HELD_SAMPLE measured."""

    HELD_SAMPLE = 8

    __slots__ = (
        "_done",
        "_held",
        "dead_lettered",
        "done",
        "end_to_end",
        "failed",
        "handler",
        "held",
        "queue",
        "received",
        "retried",
        "succeeded",
    )

    def __init__(self) -> None:
        self.received = 0
        self.done = 0
        self.retried = 0
        self.dead_lettered = 0
        self.succeeded = False  # an attempt, at least one
        self.failed: Counter[str] = Counter()  # attempts, by the name of the exception
        self.handler = Histogram()
        self.queue = Histogram()
        self.end_to_end = Histogram()
        self.held = Histogram()
        self._held = 0
        self._done: deque[tuple[float, int]] = deque(maxlen=RATE_SECONDS + 1)  # once a second

    def ran(self, done: Sequence[Job], began: float, busy: float) -> None:
        """A block has run: its jobs, time.perf_counter() when it began, seconds its handlers took."""
        count = len(done)
        if count:
            self.handler.add(busy / count, count)
            self.queue.add(began - done[0].read_at, count)

    def waited(self, job: Job) -> None:
        """It may run now, and had to wait for an earlier one."""
        self._held += 1
        if self._held == self.HELD_SAMPLE:
            self._held = 0
            self.held.add(time.perf_counter() - job.read_at, self.HELD_SAMPLE)

    def failure(self, error: BaseException) -> None:
        name = type(error).__name__
        self.failed[name if name in self.failed or len(self.failed) < MOST_REASONS else OTHER] += 1

    def sample(self, now: float) -> None:
        """Once a second, for ``rate``."""
        self._done.append((now, self.done))

    @property
    def rate(self) -> float:
        """Messages finished a second, over the last ten."""
        if len(self._done) < 2:
            return 0.0
        (since, before), (now, after) = self._done[0], self._done[-1]
        return (after - before) / (now - since)


def settled(jobs: Iterable[Job]) -> None:
    """These are finished. Those that were read together and come one after the other are taken as one,
    with the first one's timestamp: they are counted to within one poll."""
    first: Job | None = None
    route: Route | None = None
    at, count = -1.0, 0
    now = time.time()
    for job in jobs:
        if job.read_at != at or job.partition.route is not route:
            if first is not None:
                _settled(first, count, now)
            first, route, at, count = job, job.partition.route, job.read_at, 0
        count += 1
    if first is not None:
        _settled(first, count, now)


def _settled(job: Job, count: int, now: float) -> None:
    figures = job.partition.route.figures
    figures.done += count
    if job.timestamp >= 0:
        figures.end_to_end.add(max(0.0, now - job.timestamp / 1000), count)
