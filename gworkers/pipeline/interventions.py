"""What an operator sees of single messages and does with them: those that wait for another attempt,
one that runs for too long, and what is finished of a partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.kafka.protocols import TopicPartition
from gworkers.message import Reject
from gworkers.pipeline.moves import Moves
from gworkers.pipeline.outcomes import Outcomes
from gworkers.pipeline.retries import Retries
from gworkers.pipeline.runner import Runner
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.time_keeper import TimeKeeper
from gworkers.text import KEY_SHOWN, cut, text_of

#: As many messages that wait are told, those that are due first.
TOLD = 1000
#: What an offset may be, in the order in which a span of several is shown as one of them.
STATES = ("retrying", "running", "waiting", "finished")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits for another attempt. attempt: which one is next; due: in how many seconds;
    text: how the last one failed."""

    route: str
    topic: str
    partition: int
    offset: int
    key: str | None
    attempt: int
    due: float
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of a partition from ``first`` to before ``end`` that are in one state of STATES."""

    first: int
    end: int
    state: str


class Interventions:
    """On the hub; nothing blocks but ``seek``, which is of gworkers.pipeline.moves."""

    def __init__(
        self,
        partitions: Mapping[TopicPartition, Partition],
        runner: Runner,
        retries: Retries,
        outcomes: Outcomes,
        scheduler: Scheduler,
        time_keeper: TimeKeeper,
        moves: Moves,
    ) -> None:
        self._partitions = partitions
        self._runner = runner
        self._retries = retries
        self._outcomes = outcomes
        self._scheduler = scheduler
        self._time_keeper = time_keeper
        self.seek = moves.ask

    def waiting(self) -> list[Waiting]:
        """Those that are due first, TOLD at the most."""
        return [
            Waiting(
                job.partition.route.name,
                *job.source,
                cut(text_of(job.key) or "", KEY_SHOWN) if job.key is not None else None,
                job.attempt,
                due,
                why,
            )
            for job, due, why in self._retries.first(TOLD)
        ]

    def retry_now(self, wanted: Callable[[Job], bool]) -> int:
        """Have those that wait run as soon as they may. Returns how many."""
        found = [job for job, _ in self._retries.take(wanted)]
        self._scheduler.put_back(found)
        return len(found)

    def give_up(self, wanted: Callable[[Job], bool]) -> int:
        """Have those that wait fail for good: they go to their dead-letter topic; those that have none
        go on waiting. Returns how many."""
        found = self._retries.take(lambda job: wanted(job) and job.partition.route.config.dead_letter is not None)
        for job, why in found:
            job.attempt -= 1  # the one that failed, not the one that was to come
            job.error = Reject(f"an operator gave it up; the last attempt: {why}")
            self._outcomes.fail(job)
        return len(found)

    def interrupt(self, source: tuple[str, int, int]) -> str | None:
        """Have a handler end that runs, as when it is over its route's time-out; what stands in the
        way, or None."""
        for block in self._runner.blocks:
            slot = block.slot
            job = slot.job if slot is not None else None
            if job is not None and job.source == source:
                if block.route.timeout is None:
                    return f"the route {block.route.name} has no timeout, which is what makes its handlers interruptible"
                self._time_keeper.interrupt(job)
                return None
        return "it does not run any more"

    def spans(self, topic: str, number: int) -> list[Span] | None:
        """What is known of a partition's offsets, from the first that is not finished to the last that
        was read; None when it is not assigned here."""
        partition = next((p for p in self._partitions.values() if p.topic == topic and p.number == number), None)
        if partition is None:
            return None
        return list(self._spans(partition))

    def _spans(self, partition: Partition) -> Iterator[Span]:
        offsets = partition.offsets
        begin, end = offsets.position, offsets.next
        if begin is None or end is None:
            return
        running = {job.offset for job in self._runner.jobs if job.partition is partition}
        retrying = {job.offset for job in self._retries if job.partition is partition}
        at = begin
        for offset in offsets.unfinished():
            if offset >= end:
                break
            state = "retrying" if offset in retrying else "running" if offset in running else "waiting"
            if offset > at:
                yield Span(at, offset, "finished")
            yield Span(offset, offset + 1, state)
            at = offset + 1
        if at < end:
            yield Span(at, end, "finished")
