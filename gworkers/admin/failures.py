"""What has failed lately: the last attempts that did, one by one, and all of them by what looks the
same, each with how often, since when and an example."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from gworkers.admin.answer import Answer
from gworkers.errors import one_line, raised_at
from gworkers.events import Events
from gworkers.handlers.job import Job
from gworkers.text import KEY_SHOWN, cut, text_of

#: How many failures are kept one by one, and how many kinds of them; of more kinds those that have
#: not been seen for the longest time are forgotten.
RECENT = 200
KINDS = 100
#: Characters of an exception's text that are kept.
SHOWN = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that failed. at: seconds since 1970; outcome: ``retried`` or ``dead-lettered``;
    again: seconds until the next attempt, where there is one here; where: the innermost line of code
    that raised it."""

    at: float
    outcome: str
    again: float | None
    route: str
    topic: str
    partition: int
    offset: int
    key: str | None
    attempt: int
    error: str
    text: str
    where: str | None


@dataclass(slots=True)
class Kind:
    """Failures of a route with the same exception from the same line of code."""

    count: int
    first: float
    last: Failure


class Failures:
    """Subscribes to the events of a pipeline; all of it on the hub."""

    def __init__(self, events: Events) -> None:
        self._recent: deque[Failure] = deque(maxlen=RECENT)
        self._kinds: dict[tuple[str, str, str | None], Kind] = {}
        events.retried.subscribe(lambda job, delay: self._note(job, job.error, "retried", delay))
        events.retry_sent.subscribe(lambda job, topic: self._note(job, job.error, "retried", None))
        events.failed.subscribe(lambda job, error: self._note(job, error, "dead-lettered", None))

    def _note(self, job: Job, error: BaseException | None, outcome: str, again: float | None) -> None:
        topic, partition, offset = job.source
        name = type(error).__name__ if error is not None else "the batch failed"
        text = cut(one_line(error), SHOWN) if error is not None else ""
        where = raised_at(error) if error is not None else None
        key = cut(text_of(job.key) or "", KEY_SHOWN) if job.key is not None else None
        route = job.partition.route.name
        failure = Failure(time.time(), outcome, again, route, topic, partition, offset, key, job.attempt, name, text, where)
        self._recent.append(failure)
        kind = self._kinds.pop((route, name, where), None)
        if kind is None:
            if len(self._kinds) >= KINDS:
                del self._kinds[next(iter(self._kinds))]
            kind = Kind(0, failure.at, failure)
        kind.count += 1
        kind.last = failure
        self._kinds[route, name, where] = kind  # at the end: seen last

    def page(self) -> Answer:
        """The latest first."""
        recent = [asdict(failure) for failure in reversed(self._recent)]
        kinds: list[dict[str, Any]] = [
            {"count": kind.count, "first": kind.first, "last": asdict(kind.last)} for kind in reversed(self._kinds.values())
        ]
        return Answer.shown(True, {"recent": recent, "kinds": kinds})
