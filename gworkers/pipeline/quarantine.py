"""Messages that ran when a process died: which of them kills it, and that one does so no more.

What the journal (gworkers.offsets.journal) names is suspected. A suspect that comes up again is
taken out of its block and waits here:

1. suspects run one at a time, beside whatever else runs. One that ends, well or badly, is cleared:
   its deaths were not in a row;
2. one that has been there at all deaths but one of ``poison.deaths`` runs wholly alone, while the
   workers wait. If the process dies now, it was this one;
3. one that has been there at ``poison.deaths`` deaths, and alone at the last, is not run again: it
   goes the way of a failed message.

The suspects are kept in ``suspects.json`` beside the journals, shared by the group's processes on
this machine under a lock.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import gevent
from gevent.event import Event

from gworkers import log_context
from gworkers.errors import KilledError
from gworkers.events import Events
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.loop import Fatal, Loop
from gworkers.offsets import journal
from gworkers.offsets.journal import JournalError, Suspect
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.outcomes import Outcomes
from gworkers.pipeline.pacing import Pacing
from gworkers.pipeline.runner import Runner

log = logging.getLogger(__name__)

#: How long to wait before looking again whether a named limit has room for a suspect, seconds.
LIMIT_INTERVAL = 0.02


class Suspicions(Protocol):
    """Who is suspected. Raises JournalError when that cannot be read or written."""

    def gather(self) -> int:
        """Take up what ran in processes that have died since. Returns how many processes those
        were."""

    def of(self, topic: str, number: int) -> dict[int, Suspect] | None:
        """The suspects of one partition by offset; None when there are none."""

    def clear(self, topic: str, number: int, offsets: list[int]) -> None:
        """These are suspected no more."""


class NoSuspects:
    """Without a state directory nobody is suspected."""

    def gather(self) -> int:
        return 0

    def of(self, topic: str, number: int) -> dict[int, Suspect] | None:
        return None

    def clear(self, topic: str, number: int, offsets: list[int]) -> None:
        pass


class Suspects:
    """The file of suspects of one group on this machine. Raises JournalError when it cannot be read
    or written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "suspects.json"
        self._known: dict[tuple[str, int], dict[int, Suspect]] = {}
        self.own: Path | None = None  # the journal of this process

    def gather(self) -> int:
        """Take up what ran in processes that have died since. Returns how many processes those
        were."""
        deaths = 0
        with self._locked():
            self._read()
            for ran in journal.left_behind(self._folder, self.own):
                if not ran:
                    continue
                deaths += 1
                alone = len(ran) == 1 and ran[0].first == ran[0].last
                for span in ran:
                    of_partition = self._known.setdefault((span.topic, span.partition), {})
                    for offset in range(span.first, span.last + 1):
                        before = of_partition.get(offset)
                        of_partition[offset] = Suspect(span.topic, span.partition, offset, 1 + (before.deaths if before else 0), alone)
                self._write()
        return deaths

    def of(self, topic: str, number: int) -> dict[int, Suspect] | None:
        """The suspects of one partition by offset; None when there are none."""
        return self._known.get((topic, number)) or None

    def clear(self, topic: str, number: int, offsets: list[int]) -> None:
        """These are suspected no more."""
        with self._locked():
            self._read()
            of_partition = self._known.get((topic, number), {})
            for offset in offsets:
                of_partition.pop(offset, None)
            if not of_partition:
                self._known.pop((topic, number), None)
            self._write()

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with open(self._folder / "suspects.lock", "a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise JournalError(f"{error.filename or self._path} cannot be used: {os.strerror(error.errno or 0)}") from None

    def _read(self) -> None:
        try:
            told = json.loads(self._path.read_text("utf-8"))
            found = [Suspect(**entry) for entry in told["suspects"]]
        except FileNotFoundError:
            found = []
        except (ValueError, KeyError, TypeError):
            raise JournalError(f"{self._path} is damaged; move it away, what it recorded is lost") from None
        self._known = {}
        for suspect in found:
            self._known.setdefault((suspect.topic, suspect.partition), {})[suspect.offset] = suspect

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        entries = [asdict(suspect) for of_partition in self._known.values() for suspect in of_partition.values()]
        temporary.write_text(json.dumps({"version": 1, "suspects": entries}, indent=1) + "\n", "utf-8")
        temporary.replace(self._path)


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
        self._loop = Loop("quarantine", self._serve, fatal)
        events.assigned.subscribe(self.assigned)
        events.dead_lettered.subscribe(self._dead_lettered)

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

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
            told = "with nothing beside it" if alone else "one suspect at a time"
            log.info("ran when the process died (%d in a row); it runs again, %s", suspect.deaths, told, extra=log_context.about(job))
        if alone:
            self._runner.pause()
        try:
            if job.partition.closing or not job.partition.active:
                self._ledger.give_back((job,))
                return
            self._runner.run([job])
        finally:
            if alone:
                self._runner.resume()
        self._cleared(job)

    def _cleared(self, job: Job) -> None:
        if job.partition.suspects is not None:
            job.partition.suspects.pop(job.offset, None)
            job.partition.suspects = job.partition.suspects or None
        self._clear(job.partition, [job.offset])

    def _clear(self, partition: Partition, offsets: list[int]) -> None:
        try:
            self._suspects.clear(partition.topic, partition.number, offsets)
        except JournalError as error:
            log.warning("the state directory cannot be written: %s", error)


def gather(folder: Path) -> Suspects:
    """The suspects of a group, with what ran in processes that died. Raises JournalError."""
    suspects = Suspects(folder)
    deaths = suspects.gather()
    if deaths:
        log.warning("%s died while handling messages; %d of them are suspected and run one at a time", _processes(deaths), len(suspects))
    return suspects


def _processes(count: int) -> str:
    return "a process" if count == 1 else f"{count} processes"
