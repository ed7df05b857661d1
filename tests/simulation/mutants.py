"""Bugs to be put in by hand: a simulation that does not find them is worth nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from gworkers.offsets.offsets import Offsets
from gworkers.pipeline.assignments import Assignments
from gworkers.pipeline.outcomes import Outcomes
from gworkers.pipeline.retries import Retries
from gworkers.pipeline.scheduler import Scheduler
from tests.simulation.loop import Change, changed


def _one_too_far() -> list[Change]:
    position: Callable[[Offsets], int | None] = Offsets.position.fget  # type: ignore[attr-defined]

    def further(self: Offsets) -> int | None:
        found = position(self)
        return found + 1 if found is not None and self._unfinished else found

    return [(Offsets, "position", property(further))]


def _no_fence() -> list[Change]:
    def fence(self: Assignments, partitions: Any, *, lost: bool = False) -> None:
        self.withdraw(partitions)

    return [(Assignments, "fence", fence)]


def _lane_freed_early() -> list[Change]:
    complete, finish = Outcomes.complete, Scheduler.finish

    def completed(self: Outcomes, job: Any) -> bool:
        if job.error is None and job.rows and job.partition.active and not job.followers:
            finish(self._scheduler, job)
            job.lane = None
        return complete(self, job)

    return [(Outcomes, "complete", completed)]


def _retry_lost() -> list[Change]:
    drop = Retries.drop

    def dropped(self: Retries, partition: Any) -> list[Any]:
        drop(self, partition)
        return []

    return [(Retries, "drop", dropped)]


def _late_counted() -> list[Change]:
    complete = Outcomes.complete

    def completed(self: Outcomes, job: Any) -> bool:
        if not job.partition.active and job.error is None and job.rows:
            self._delivery.send(job)
            return False
        return complete(self, job)

    return [(Outcomes, "complete", completed)]


#: By name, what is changed.
MUTANTS: dict[str, Callable[[], list[Change]]] = {
    "a commit one too far": _one_too_far,
    "a fence forgotten": _no_fence,
    "a lane freed too early": _lane_freed_early,
    "a retry lost at revocation": _retry_lost,
    "a late completion counted": _late_counted,
}


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """While this holds, the product has the bug."""
    with changed(MUTANTS[name]()):
        yield
