"""What is done with a failed message: another attempt, later, or its dead letter.

``delay_of`` is pure logic; ``Retries`` keeps the waiting jobs, which costs no worker and no thread,
and one greenlet sleeps until the first of them is due. A job that waits keeps its lane, so what
comes after it in order waits as well.
"""

from __future__ import annotations

import datetime
import decimal
import email.utils
import fractions
import heapq
import logging
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from gevent.event import Event

from gworkers.config.units import parse_duration
from gworkers.errors import MessageError
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.loop import Fatal, Loop
from gworkers.message import Reject, Retry
from gworkers.pipeline.scheduler import Scheduler
from gworkers.text import cut

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[-+]?\d{1,15}(\.\d{1,15})?")


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


def seconds_of(asked: Any, now: Callable[[], float] = time.time) -> float | None:
    """How long an application asks to wait, in seconds: a number, a timedelta, a moment (datetime), a
    text such as ``2``, ``250ms``, or a date as HTTP's Retry-After has it. None for anything else."""
    if isinstance(asked, str):
        try:
            asked = float(asked) if _NUMBER.fullmatch(asked.strip()) else parse_duration(asked)
        except ValueError:
            try:
                asked = email.utils.parsedate_to_datetime(asked)
            except (ValueError, OverflowError, IndexError):
                return None
    try:
        if isinstance(asked, datetime.timedelta):
            seconds = asked.total_seconds()
        elif isinstance(asked, datetime.datetime):
            seconds = max(0.0, asked.timestamp() - now())
        elif isinstance(asked, (int, float, decimal.Decimal, fractions.Fraction)) and not isinstance(asked, bool):
            seconds = float(asked)
        else:
            return None
    except Exception:  # of the application's own type, which may do anything
        return None
    return seconds if 0 <= seconds < math.inf else None


def delay_of(job: Job, draw: Callable[[], float] = random.random) -> float | None:
    """Seconds until the next attempt at a failed job, None when there is none.

    Exponential backoff with jitter: the n-th wait is backoff · 2^(n-1), at most max_backoff, of
    which the part ``jitter`` is drawn by chance, so that messages that failed together do not come
    back together. A message of a retry topic gets one attempt there.
    """
    route, error = job.partition.route, job.error
    retry = route.config.retry
    if job.attempt >= retry.attempts or job.origin is not None or hopeless(job):
        return None
    asked = error.delay if isinstance(error, Retry) else getattr(error, "retry_after", None)
    if asked is not None:
        seconds = seconds_of(asked)
        if seconds is not None:
            return seconds
        what = "Retry(delay=…)" if isinstance(error, Retry) else f"{type(error).__name__}.retry_after"
        told = repr(cut(asked, 80)) if type(asked) is str else f"of the type {type(asked).__name__}"
        log.warning("%s is %s, which is no time to wait; the route's backoff decides", what, told)
    wait: float = min(retry.max_backoff, retry.backoff * 2.0 ** min(job.attempt - 1, 60))
    return wait * (1 - retry.jitter * draw())


class Retries:
    """Jobs that wait for their next attempt, by the time they are due: what is due at nearly the
    same time shares an entry. A job that is due goes back to the scheduler."""

    def __init__(self, scheduler: Scheduler, fatal: Fatal) -> None:
        self._scheduler = scheduler
        self._due: dict[int, list[Job]] = {}  # in milliseconds, as time.monotonic() tells it
        self._times: list[int] = []  # the keys of _due as a heap
        self._why: dict[Job, str] = {}  # of those that wait, how the last attempt failed
        self._changed = Event()
        self._loop = Loop("retries", self._run, fatal)

    def __len__(self) -> int:
        return len(self._why)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._why)

    def first(self, most: int) -> Iterator[tuple[Job, float, str]]:
        """Those that are due first: in how many seconds, and how the last attempt failed."""
        now = time.monotonic()
        for due in sorted(self._due):
            for job in self._due[due]:
                if most <= 0:
                    return
                most -= 1
                yield job, max(0.0, due / 1000 - now), self._why[job]

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def add(self, job: Job, delay: float, why: str = "") -> None:
        """Have ``job`` run again in ``delay`` seconds, or up to 1 % of that and a millisecond
        later, a second at the most. why: how the last attempt failed."""
        job.attempt += 1
        step = 1 << max(0, min(10, int(delay * 10).bit_length() - 1))
        due = -(-int((time.monotonic() + delay) * 1000 + 1) // step) * step
        self._why[job] = why
        if due in self._due:
            self._due[due].append(job)
            return
        self._due[due] = [job]
        heapq.heappush(self._times, due)
        if self._times[0] == due:
            self._changed.set()

    def drop(self, partition: Partition) -> list[Job]:
        """Take out the jobs of a partition that is no longer ours."""
        return [job for job, _ in self.take(lambda job: job.partition is partition)]

    def take(self, wanted: Callable[[Job], bool]) -> list[tuple[Job, str]]:
        """Take out those that are wanted, each with how its last attempt failed."""
        taken = [job for jobs in self._due.values() for job in jobs if wanted(job)]
        if taken:
            gone = set(taken)
            for due, jobs in self._due.items():
                self._due[due] = [job for job in jobs if job not in gone]
        return [(job, self._why.pop(job)) for job in taken]

    def _run(self) -> None:
        while True:
            due = self._take_due()
            if due:
                self._scheduler.put_back(due)
            self._changed.clear()
            self._changed.wait(max(0.0, self._times[0] / 1000 - time.monotonic()) if self._times else None)

    def _take_due(self) -> list[Job]:
        now = int(time.monotonic() * 1000)
        due: list[Job] = []
        while self._times and self._times[0] <= now:
            due += self._due.pop(heapq.heappop(self._times))
        for job in due:
            del self._why[job]
        return due
