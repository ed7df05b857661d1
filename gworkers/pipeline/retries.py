"""What is done with a failed message: another attempt, later, or its dead letter.

``Policy`` is pure logic; ``Retries`` keeps the waiting jobs in a heap, which costs no worker and no thread, and one greenlet sleeps
until the first of them is due. A job that waits keeps its lane, so what comes after it in order waits as well.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections.abc import Callable

import gevent
from gevent.event import Event

from gworkers.errors import MessageError
from gworkers.message import Reject, Retry
from gworkers.pipeline.job import Job
from gworkers.pipeline.partition import Partition


def hopeless(job: Job) -> bool:
    """Whether no further attempt can help a failed job, by what kind of error it was."""
    route, error = job.partition.route, job.error
    if error is None or isinstance(error, Reject):
        return True
    if isinstance(error, MessageError):
        return not error.retriable
    if isinstance(error, Retry) or getattr(error, "retry_after", None) is not None:
        return False
    return bool(route.never and isinstance(error, route.never)) or bool(route.only and not isinstance(error, route.only))


def delay_of(job: Job, draw: Callable[[], float] = random.random) -> float | None:
    """Seconds until the next attempt at a failed job, None when there is none.

    Exponential backoff with jitter: the n-th wait is backoff · 2^(n-1), at most max_backoff, of which the part ``jitter`` is
    drawn by chance, so that messages that failed together do not come back together. A message of a retry topic gets one attempt there.
    """
    route, error = job.partition.route, job.error
    retry = route.config.retry
    if job.attempt >= retry.attempts or job.origin is not None or hopeless(job):
        return None
    asked = error.delay if isinstance(error, Retry) else getattr(error, "retry_after", None)
    if isinstance(asked, (int, float)) and not isinstance(asked, bool) and 0 <= asked < math.inf:
        return float(asked)
    wait: float = min(retry.max_backoff, retry.backoff * 2.0 ** min(job.attempt - 1, 60))
    return wait * (1 - retry.jitter * draw())


class Retries:
    """Jobs that wait for their next attempt."""

    def __init__(self, again: Callable[[list[Job]], None]) -> None:
        self._again = again  # gets the jobs that are due
        self._heap: list[tuple[float, int, Job]] = []
        self._count = itertools.count()
        self._changed = Event()
        self._greenlet: gevent.Greenlet | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def add(self, job: Job, delay: float) -> None:
        """Have ``job`` run again in ``delay`` seconds."""
        job.attempt += 1
        entry = (time.monotonic() + delay, next(self._count), job)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._changed.set()

    def drop(self, partition: Partition) -> list[Job]:
        """Take out the jobs of a partition that is no longer ours."""
        dropped = [job for _, _, job in self._heap if job.partition is partition]
        if dropped:
            self._heap = [entry for entry in self._heap if entry[2].partition is not partition]
            heapq.heapify(self._heap)
        return dropped

    def take_all(self) -> list[Job]:
        """Take out all jobs: the process is to stop, and they will be delivered again."""
        jobs = [job for _, _, job in self._heap]
        self._heap.clear()
        return jobs

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            due: list[Job] = []
            while self._heap and self._heap[0][0] <= now:
                due.append(heapq.heappop(self._heap)[2])
            if due:
                self._again(due)
            self._changed.clear()
            self._changed.wait(max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None)
