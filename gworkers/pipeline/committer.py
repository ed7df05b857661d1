"""Progress written back to Kafka: what to commit (OffsetBuilder), and committing it now and then
(Committer).

What is committed is the lowest unfinished offset of each partition that has moved, and with it, in
the commit's metadata, what is finished beyond it (gworkers.offsets.offset_map). A commit that fails
is made up for by the next one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import gevent
from gevent.event import Event

from gworkers.errors import UnavailableError, one_line
from gworkers.events import Events
from gworkers.figures import Histogram
from gworkers.handlers.partition import Partition
from gworkers.kafka.errors import FENCED, Kind, classify
from gworkers.kafka.protocols import Committed, Group, Offsets, TopicPartition
from gworkers.loop import Fatal, Loop
from gworkers.offsets.finished import Noting

log = logging.getLogger(__name__)

#: How long one commit may take before it is tried again, in seconds: now and then, and while
#: partitions are revoked.
COMMIT_TIMEOUT = 30.0
REVOKE_COMMIT_TIMEOUT = 5.0
#: Between two commits that are wanted at once, in seconds.
HURRY_INTERVAL = 0.05
#: The interval while the group has nothing of some partition. Until it has, whoever comes after a
#: crash knows neither where this process began (with ``auto_offset_reset: latest`` messages would be
#: passed over) nor what the notes of it are relative to.
FIRST_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """What one commit is to be, and how far each partition had got when it was built
    (``Offsets.changes``)."""

    offsets: Offsets
    reached: list[tuple[Partition, int]]

    def commits(self) -> list[tuple[int, int, str]]:
        """As notes of what has finished (gworkers.offsets.finished) want them."""
        return [
            (partition.mark, committed.offset, committed.metadata)
            for (partition, _), committed in zip(self.reached, self.offsets.values(), strict=True)
        ]


class OffsetBuilder:
    """Builds commits. with_map: whether what is finished beyond the lowest unfinished offset goes
    along; needed: nothing is delivered without it."""

    def __init__(self, group: Group, events: Events, *, with_map: bool, needed: bool = False) -> None:
        self._group = group
        self._events = events
        self._with_map = with_map
        self._needed = needed

    @staticmethod
    def moved(partition: Partition) -> bool:
        """Whether there is something to commit."""
        return partition.active and partition.committed != partition.offsets.changes and partition.offsets.position is not None

    def build(self, partitions: Iterable[Partition]) -> Progress:
        """What is to be committed of those that have moved."""
        offsets: dict[TopicPartition, Committed] = {}
        reached: list[tuple[Partition, int]] = []
        for partition in partitions:
            found = partition.offsets
            position = found.position
            if position is None or not self.moved(partition):
                continue
            metadata, whole = found.metadata() if self._with_map else ("", True)
            if not whole:
                log.debug("%s: what is finished far ahead does not fit into the commit", partition.name)
            tp = TopicPartition(partition.topic, partition.number)
            offsets[tp] = Committed(position, metadata, self._group.leader_epoch(tp, position))
            reached.append((partition, found.changes))
        return Progress(offsets, reached)

    def succeeded(self, progress: Progress) -> None:
        """The group has it."""
        for partition, changes in progress.reached:
            partition.committed = changes
        self._events.committed.send([partition for partition, _ in progress.reached])

    def failed(self, error: BaseException) -> bool:
        """True when it can be tried again at once, in another way. Raises UnavailableError when no
        further attempt can help."""
        if classify(error) is Kind.METADATA_TOO_LARGE and self._with_map:
            if self._needed:
                raise UnavailableError(
                    "the broker takes less metadata with a commit than the map of finished offsets needs, without which results would "
                    "come twice after a crash; raise the broker's offset.metadata.max.bytes to 4096, or write delivery: at-least-once"
                ) from error
            self._with_map = False
            log.warning(
                "the broker takes less metadata with a commit than the map of finished offsets needs; it is left out from now on, "
                "and after a crash more messages come twice; raise the broker's offset.metadata.max.bytes to 4096"
            )
            return True
        # A rebalance, or no broker: what is not committed now is committed next time, or at the
        # revocation.
        log.debug("a commit failed and will be repeated: %s", one_line(error))
        return False


class Committer:
    """Commits each ``interval`` seconds, and when asked to. On the hub. partitions: what is
    assigned, kept by Assignments."""

    def __init__(
        self,
        group: Group,
        partitions: Mapping[TopicPartition, Partition],
        builder: OffsetBuilder,
        notes: Noting,
        interval: float,
        fatal: Fatal,
    ) -> None:
        self._group = group
        self._partitions = partitions
        self._builder = builder
        self._notes = notes
        self._interval = interval
        self._hurry = Event()
        self.took = Histogram()
        self._loop = Loop("committer", self._run, fatal)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    @property
    def dead(self) -> bool:
        """Whether its loop has ended."""
        return self._loop.dead

    def _run(self) -> None:
        while True:
            first = not self._partitions or any(partition.committed is None for partition in self._partitions.values())
            if self._hurry.wait(min(self._interval, FIRST_INTERVAL) if first else self._interval):
                gevent.sleep(HURRY_INTERVAL)
                self._hurry.clear()
            error = self._try(COMMIT_TIMEOUT)
            no_right = self._group.no_right(error) if error is not None else None
            if no_right is not None:
                raise UnavailableError(no_right)
            if error is not None and classify(error) is Kind.INSTANCE_FENCED:
                raise UnavailableError(FENCED)

    def hurry(self) -> None:
        """Commit soon: little room is left for notes. Does not block."""
        self._hurry.set()

    def commit(self, timeout: float) -> bool:
        """Commit what has moved. Blocks; True when the group knows all of it."""
        return self._try(timeout) is None

    def _try(self, timeout: float) -> Exception | None:
        """Commit what has moved; what stood in the way, or None."""
        progress = self._builder.build(self._partitions.values())
        if not progress.offsets:
            return None
        commits = progress.commits()
        self._notes.committing(commits, everything=True)
        begun = time.monotonic()
        try:
            self._group.commit(progress.offsets, timeout)
        except Exception as error:
            self._builder.failed(error)
            return error
        self.took.add(time.monotonic() - begun)
        self._notes.committed(commits, everything=True)
        self._builder.succeeded(progress)
        return None

    async def commit_revoked(self, partitions: Iterable[Partition]) -> Exception | None:
        """Commit from inside a rebalance, where ``commit`` would block; what stood in the way, or
        None."""
        for _ in range(2):
            progress = self._builder.build(partitions)
            if not progress.offsets:
                return None
            commits = progress.commits()
            self._notes.committing(commits, everything=False)
            try:
                await self._group.commit_in_rebalance(progress.offsets, REVOKE_COMMIT_TIMEOUT)
            except Exception as error:
                if self._builder.failed(error):
                    continue
                return error
            self._notes.committed(commits, everything=False)
            self._builder.succeeded(progress)
            return None
        return None
