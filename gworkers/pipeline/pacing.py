"""How fast and how many at once: ``rate``, ``limits``, ``delay``, and how long a batch waits to
fill.

``most`` says how many jobs of a partition may be taken now. Where that is none, the scheduler sets
the partition aside, which costs the others nothing, and Pacing has it looked at again when the time
has come or a limit has room: nothing that waits holds a worker.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from gworkers import log_context
from gworkers.config.route import Batch
from gworkers.config.units import Rate, format_duration
from gworkers.handlers import batches
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.handlers.routes import Route
from gworkers.loop import Fatal, after
from gworkers.pipeline.scheduler import Scheduler

log = logging.getLogger(__name__)

#: A wait that is longer than this, in seconds, and than the route's delay, is told.
LONG_WAIT = 86_400.0

#: The shortest wait for a rate, in seconds: at high rates several messages are let go at once.
SHORTEST_WAIT = 0.005


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

    def wait(self, count: int) -> float:
        """Seconds until ``count`` are allowed, right after ``allowed`` said fewer."""
        return max(0.0, (count - self._tokens) / self._rate.per_second)

    @property
    def burst(self) -> int:
        return self._rate.burst


class NamedLimit:
    """A named limit: ``used`` of ``count`` handlers run."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.used = 0
        self.waiting: list[Partition] = []  # set aside until one ends


class Pacing:
    """On the hub. ``begun`` follows each block that was taken of a paced route, ``ended`` its end."""

    def __init__(self, routes: list[Route], limits: Mapping[str, int], scheduler: Scheduler, fatal: Fatal) -> None:
        self._scheduler = scheduler
        self._fatal = fatal
        self._limits = {name: NamedLimit(count) for name, count in limits.items()}
        now = time.monotonic()
        self._buckets = {route.name: Bucket(route.config.rate, now) for route in routes if route.config.rate is not None}
        self._said: WeakKeyDictionary[Partition, int] = WeakKeyDictionary()  # the message that has been said to wait long
        self._timers: dict[Partition, float] = {}  # time.monotonic() when each of these is looked at again
        self._uses = {route.name: [self._limits[name] for name in route.config.uses] for route in routes}
        scheduler.forming.subscribe(self._form)

    def most(self, partition: Partition) -> int:
        """How many jobs of ``partition`` may be taken; when 0, ``scheduler.resume`` follows in
        time."""
        route = partition.route
        count = route.batch.max_messages if route.batch is not None else route.block_size
        if partition.delay:
            count, wait = _due(partition, count, time.time())
            if not count:
                self._say_long(partition, wait)
                self._later(partition, min(wait, LONG_WAIT))
                return 0
        for limit in self._uses[route.name]:
            if limit.used >= limit.count:
                limit.waiting.append(partition)
                return 0
        if route.batch is not None and not route.batch_of_lane:
            count = self._batch(partition, route.batch, count)
            if not count:
                return 0
        bucket = self._buckets.get(route.name)
        if bucket is not None:
            wanted = 1 if route.batch is None else min(count, bucket.burst)
            count = min(count, bucket.allowed(time.monotonic()))
            if count < wanted:
                self._later(partition, max(SHORTEST_WAIT, bucket.wait(wanted)))
                return 0
        partition.since = None
        return count

    def _say_long(self, partition: Partition, wait: float) -> None:
        """A timestamp that is not in milliseconds stops its partition for years: say so, once."""
        job = partition.ready[0]
        if wait > LONG_WAIT and wait > 1.01 * partition.delay and job.offset != self._said.get(partition):
            self._said[partition] = job.offset
            log.warning(
                "waits %.0f days for its turn, and holds up its partition: its timestamp is %d, in milliseconds since the epoch, "
                "and the delay %s",
                wait / 86_400,
                job.timestamp,
                format_duration(partition.delay),
                extra=log_context.about(job),
            )

    def _batch(self, partition: Partition, batch: Batch, most: int) -> int:
        """How many of what is ready make a batch that may go now: a full one, or what has come when
        it has waited long enough."""
        count, full = batches.length(partition.ready, most, batch, partition.route.config.retry.attempts)
        if full or not batch.max_wait:
            return count
        now = time.monotonic()
        if partition.since is None:
            partition.since = now
        wait = partition.since + batch.max_wait - now
        if wait <= 0:
            return count
        self._later(partition, wait)
        return 0

    def _form(self, partition: Partition) -> None:
        """A batch of a lane has begun to fill: have it taken when it has waited long enough."""
        batch = partition.route.batch
        assert batch is not None
        after(batch.max_wait, "a batch's wait", self._fatal, self._formed, partition, batch.max_wait)

    def _formed(self, partition: Partition, max_wait: float) -> None:
        now = time.monotonic()
        since = self._scheduler.formed(partition, now - max_wait)
        if since is not None:
            after(max(0.001, since + max_wait - now), "a batch's wait", self._fatal, self._formed, partition, max_wait)

    @property
    def limits(self) -> list[tuple[str, int, int, bool]]:
        """Of each named limit its name, how many handlers may run, how many do, and whether some wait
        for it."""
        return [(name, limit.count, limit.used, bool(limit.waiting)) for name, limit in self._limits.items()]

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

    def _later(self, partition: Partition, wait: float) -> None:
        """Have ``partition`` looked at again in ``wait`` seconds; more of it may come before, and
        what waits then has its timer already."""
        due = time.monotonic() + wait
        if self._timers.get(partition, math.inf) > due:
            self._timers[partition] = due
            after(wait, "a partition's wait", self._fatal, self._resume, partition, due)

    def _resume(self, partition: Partition, due: float) -> None:
        if self._timers.get(partition) == due:
            del self._timers[partition]
        self._scheduler.resume(partition)


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
