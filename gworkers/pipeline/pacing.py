"""How fast and how many at once: ``rate``, ``limits``, ``delay``.

``most`` says how many jobs of a partition may be taken now. Where that is none, the scheduler sets the partition aside, which costs the
others nothing, and Pacing has it looked at again when the time has come or a limit has room: nothing that waits holds a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import gevent

from gworkers.config.units import Rate
from gworkers.pipeline.job import Job
from gworkers.pipeline.partition import Partition
from gworkers.pipeline.routes import Route
from gworkers.pipeline.scheduler import Scheduler

#: The shortest wait for a rate, in seconds: at high rates several messages are let go at once.
STEP = 0.005


class Bucket:
    """A token bucket: what a Rate allows now. Pure logic; ``now`` in seconds."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at = now

    def allowed(self, now: float) -> int:
        self._tokens = min(float(self._rate.burst), self._tokens + (now - self._at) * self._rate.per_second)
        self._at = now
        return int(self._tokens + 1e-9)

    def take(self, count: int) -> None:
        """``count`` have begun; below 0: have been given back."""
        self._tokens -= count

    def wait(self) -> float:
        """Seconds until one is allowed, right after ``allowed`` said 0."""
        return max(0.0, (1 - self._tokens) / self._rate.per_second)


class Limit:
    """A named limit: ``used`` of ``count`` handlers run."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.used = 0
        self.waiting: list[Partition] = []  # set aside until one ends


class Pacing:
    """On the hub. ``begun`` follows each block that was taken of a paced route, ``ended`` its end."""

    def __init__(self, routes: list[Route], limits: Mapping[str, int], scheduler: Scheduler, wake: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._wake = wake
        self._limits = {name: Limit(count) for name, count in limits.items()}
        now = time.monotonic()
        self._buckets = {route.name: Bucket(route.config.rate, now) for route in routes if route.config.rate is not None}
        self._uses = {route.name: [self._limits[name] for name in route.config.uses] for route in routes}

    def most(self, partition: Partition) -> int:
        """How many jobs of ``partition`` may be taken; when 0, ``scheduler.resume`` follows in time."""
        route = partition.route
        count = route.block_size
        if partition.delay:
            count, wait = _due(partition, count, time.time())
            if not count:
                self._later(partition, wait)
                return 0
        for limit in self._uses[route.name]:
            if limit.used >= limit.count:
                limit.waiting.append(partition)
                return 0
        bucket = self._buckets.get(route.name)
        if bucket is not None:
            count = min(count, bucket.allowed(time.monotonic()))
            if not count:
                self._later(partition, max(STEP, bucket.wait()))
        return count

    def begun(self, route: Route, count: int) -> None:
        for limit in self._uses[route.name]:
            limit.used += 1
        bucket = self._buckets.get(route.name)
        if bucket is not None:
            bucket.take(count)

    def free(self, route: Route) -> bool:
        """Whether all of the route's limits have room."""
        return all(limit.used < limit.count for limit in self._uses[route.name])

    def returned(self, route: Route, count: int) -> None:
        """Jobs of a block have been given back before they began."""
        bucket = self._buckets.get(route.name)
        if bucket is not None:
            bucket.take(-count)

    def ended(self, route: Route) -> None:
        for limit in self._uses[route.name]:
            limit.used -= 1
            waiting, limit.waiting = limit.waiting, []
            for partition in waiting:
                self._scheduler.resume(partition)
            if waiting:
                self._wake()

    def _later(self, partition: Partition, wait: float) -> None:
        gevent.spawn_later(wait, self._resume, partition)

    def _resume(self, partition: Partition) -> None:
        self._scheduler.resume(partition)
        self._wake()


def _due(partition: Partition, most: int, now: float) -> tuple[int, float]:
    """How many of the first jobs are due, and when none is, the seconds until the first will be."""
    limit = (now - partition.delay) * 1000
    count = 0
    for job in partition.ready:
        if count == most or (_since(job) > limit and (job.attempt == 1 or job.origin is not None)):
            break
        count += 1
    return count, 0.0 if count else (_since(partition.ready[0]) - limit) / 1000


def _since(job: Job) -> int:
    """From when on a job's delay counts, in milliseconds since the epoch."""
    return job.timestamp if job.origin is None else job.origin.sent
