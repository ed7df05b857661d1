"""Messages that ran when a process died: which of them kills it, and that one does so no more.

What the journal (gworkers.offsets.journal) names is suspected. A suspect that comes up again is
taken out of its block and waits here:

1. suspects run a few at a time, beside whatever else runs. One that ends, well or badly, is cleared:
   its deaths were not in a row. So the thousands that a batch route leaves behind are cleared in
   seconds, and when one of them kills the process again, only the few that ran are left;
2. one that has been there at all deaths but one of ``poison.deaths`` runs wholly alone, while the
   workers wait. If the process dies now, it was this one;
3. one that has been there at ``poison.deaths`` deaths, and alone at the last, is not run again: it
   goes the way of a failed message.

The suspects are kept in the state directory (gworkers.offsets.suspects); who was cleared is written
there in the background, on a thread of its own: what is lost of it runs once more as a suspect.
"""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from gworkers import log_context
from gworkers.errors import KilledError
from gworkers.events import Events
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.loop import Fatal, Loop
from gworkers.offsets.journal import JournalError
from gworkers.offsets.suspects import Suspect, Suspects
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.outcomes import Outcomes
from gworkers.pipeline.pacing import Pacing
from gworkers.pipeline.runner import Runner

log = logging.getLogger(__name__)

#: How long to wait before looking again whether a named limit has room for a suspect, seconds.
LIMIT_INTERVAL = 0.02
#: How many suspects run beside each other, while none of them has to be alone.
AT_ONCE = 16
#: Seconds between two writings of who was cleared.
WRITE_INTERVAL = 0.1
#: With so many suspects waiting the log tells of each no more.
TOLD_EACH = 50


class Suspicions(Protocol):
    """Who is suspected. Raises JournalError when that cannot be read or written."""

    def gather(self) -> int:
        """Take up what ran in processes that have died since. Returns how many processes those
        were."""

    def of(self, topic: str, number: int) -> dict[int, Suspect] | None:
        """The suspects of one partition by offset; None when there are none."""

    def clear(self, topic: str, number: int, offsets: list[int]) -> None:
        """These are suspected no more; ``flush`` writes it down."""

    @property
    def unwritten(self) -> bool:
        """Whether ``flush`` has something to write."""

    def flush(self) -> None:
        """Write down who was cleared. Blocks the thread."""


class NoSuspects:
    """Without a state directory nobody is suspected."""

    def gather(self) -> int:
        return 0

    def of(self, topic: str, number: int) -> dict[int, Suspect] | None:
        return None

    def clear(self, topic: str, number: int, offsets: list[int]) -> None:
        pass

    unwritten = False

    def flush(self) -> None:
        pass


class Quarantine:
    """The suspects that have come up, run by one loop of its own. All methods run on the hub's
    thread."""

    def __init__(
        self,
        suspects: Suspicions,
        deaths: int,
        runner: Runner,
        pacing: Pacing,
        outcomes: Outcomes,
        ledger: Ledger,
        events: Events,
        fatal: Fatal,
    ) -> None:
        self._suspects = suspects
        self._deaths = deaths
        self._runner = runner
        self._pacing = pacing
        self._outcomes = outcomes
        self._ledger = ledger
        self._waiting: deque[Job] = deque()
        self._came = Event()
        self._alone = Semaphore(1)  # held while one runs wholly alone
        self._loops = [Loop("quarantine", self._serve, fatal) for _ in range(AT_ONCE)]
        self._loops.append(Loop("suspects", self._write, fatal))
        events.assigned.subscribe(self.assigned)
        events.dead_lettered.subscribe(self._dead_lettered)

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Blocks while it writes down who was cleared."""
        for loop in self._loops:
            loop.stop()
        self._flush()

    def _write(self) -> None:
        """Off the hub: another process may hold the lock, and the disk may be slow."""
        while True:
            gevent.sleep(WRITE_INTERVAL)
            if self._suspects.unwritten:
                gevent.get_hub().threadpool.apply(self._flush)

    def _flush(self) -> None:
        try:
            self._suspects.flush()
        except JournalError as error:
            log.warning("the state directory cannot be written: %s", error)

    def assigned(self, partitions: list[Partition]) -> None:
        """Partitions have come, perhaps from a process that died."""
        try:
            self._suspects.gather()
        except JournalError as error:
            log.warning("what other processes ran when they died is not known: %s", error)
        for partition in partitions:
            self._assigned(partition)

    def _assigned(self, partition: Partition) -> None:
        found = self._suspects.of(partition.topic, partition.number) or {}
        start = partition.offsets.position
        finished = [offset for offset in found if start is not None and offset < start]
        if finished:
            self._clear(partition, finished)
            found = {offset: suspect for offset, suspect in found.items() if offset not in finished}
        partition.suspects = dict(found) or None

    def take_out(self, jobs: list[Job]) -> list[Job]:
        """Of a block that was taken: keep the suspects here, return the others."""
        suspects = jobs[0].partition.suspects
        assert suspects is not None
        others = []
        for job in jobs:
            if job.offset in suspects:
                self._waiting.append(job)
            else:
                others.append(job)
        if self._waiting:
            self._came.set()
        return others

    def drop(self, partition: Partition) -> list[Job]:
        """Take out the jobs of a partition that is no longer ours."""
        dropped = [job for job in self._waiting if job.partition is partition]
        if dropped:
            self._waiting = deque(job for job in self._waiting if job.partition is not partition)
        return dropped

    def _dead_lettered(self, job: Job) -> None:
        """If it was a suspect, its story is over."""
        suspects = job.partition.suspects
        if suspects and job.offset in suspects:
            self._cleared(job)

    def _next(self) -> Job:
        """The next suspect whose route's limits have room. Blocks until there is one."""
        while True:
            if not self._waiting:
                self._came.clear()
                self._came.wait()
            elif not self._pacing.free(self._waiting[0].partition.route):
                gevent.sleep(LIMIT_INTERVAL)
            else:
                return self._waiting.popleft()

    def _serve(self) -> None:
        try:
            self._serve_on()
        finally:
            self._runner.executor.leave()

    def _serve_on(self) -> None:
        while True:
            job = self._next()
            suspect = (job.partition.suspects or {}).get(job.offset)
            if suspect is not None and suspect.deaths >= self._deaths and suspect.alone:
                job.error = KilledError(
                    f"the process died {suspect.deaths} times in a row while it ran, the last time with nothing beside it"
                )
                self._outcomes.fail(job)
                continue
            self._try(job, suspect)

    def _try(self, job: Job, suspect: Suspect | None) -> None:
        alone = suspect is not None and suspect.deaths >= max(1, self._deaths - 1)
        if suspect is not None:
            told = "with nothing beside it" if alone else "as a suspect"
            level = logging.INFO if alone or len(self._waiting) < TOLD_EACH else logging.DEBUG
            log.log(level, "ran when the process died (%d in a row); it runs again, %s", suspect.deaths, told, extra=log_context.about(job))
        with self._alone:  # who is not to be alone only waits for one that is
            while self._runner.paused:
                gevent.sleep(LIMIT_INTERVAL)
            if alone:
                self._runner.pause()
                try:
                    self._run(job)
                finally:
                    self._runner.resume()
        if not alone:
            self._run(job)

    def _run(self, job: Job) -> None:
        if job.partition.closing or not job.partition.active:
            self._ledger.give_back((job,))
            return
        self._runner.run([job])
        self._cleared(job)

    def _cleared(self, job: Job) -> None:
        if job.partition.suspects is not None:
            job.partition.suspects.pop(job.offset, None)
            job.partition.suspects = job.partition.suspects or None
        self._clear(job.partition, [job.offset])

    def _clear(self, partition: Partition, offsets: list[int]) -> None:
        self._suspects.clear(partition.topic, partition.number, offsets)


def gather(folder: Path) -> Suspects:
    """The suspects of a group, with what ran in processes that died. Raises JournalError."""
    suspects = Suspects(folder)
    deaths = suspects.gather()
    if deaths:
        log.warning("%s died while handling messages; %d of them are suspected and run a few at a time", _processes(deaths), len(suspects))
    return suspects


def _processes(count: int) -> str:
    return "a process" if count == 1 else f"{count} processes"
