"""The one consumer, shared by all workers.

1. The poller polls under a semaphore and feeds the scheduler, as much as the ledger has room for.
   Partitions that have their share are paused (gworkers.pipeline.shares), and when all are, polling
   goes on: only ``poll()`` keeps a member in its group.
2. What was finished before this process got the partition is passed over
   (gworkers.offsets.offsets).
3. Partitions come and go in gworkers.pipeline.rebalance, progress is written back in
   gworkers.pipeline.committer; neither needs the semaphore.
"""

from __future__ import annotations

import logging
import time

import gevent
from gevent.lock import Semaphore

from gworkers.errors import FatalError, UnavailableError, one_line
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.handlers.routes import kept_from_patterns
from gworkers.kafka.errors import FENCED, Kind, OversizedBatchError, classify, is_kafkas, missing_codec
from gworkers.kafka.protocols import Group, TopicPartition
from gworkers.loop import Fatal, Loop
from gworkers.pipeline import retry_topics
from gworkers.pipeline.assignments import Assignments
from gworkers.pipeline.gaps import Gaps
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.moves import Moves
from gworkers.pipeline.pauses import Pauses
from gworkers.pipeline.rebalance import Rebalance
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.shares import Shares

log = logging.getLogger(__name__)

#: Messages a poll. Reading 1,000 takes 3 to 4 ms, which is as long as the hub should be held in one
#: go.
POLL_MESSAGES = 1000
#: How long a poll may wait for messages, in milliseconds, while some partition is paused and while
#: none is.
POLL_WAIT_PAUSED_MS = 50
POLL_WAIT_MS = 500
#: How long to wait between polls when all partitions are paused, and after a poll that failed, in
#: seconds.
FULL_WAIT = 0.1
#: Between two looks whether a topic was made anew, in seconds.
LOOK_INTERVAL = 1.0
FAILED_WAIT = 1.0


class Consumer:
    """See the head of this file. All of it runs on the hub's thread. group_name: kafka.group."""

    def __init__(
        self,
        group: Group,
        group_name: str,
        assignments: Assignments,
        rebalance: Rebalance,
        pauses: Pauses,
        moves: Moves,
        scheduler: Scheduler,
        ledger: Ledger,
        fatal: Fatal,
    ) -> None:
        self._group = group
        self._group_name = group_name
        self._assignments = assignments
        self._rebalance = rebalance
        self._pauses = pauses
        self._moves = moves
        self._scheduler = scheduler
        self._ledger = ledger
        self._fatal = fatal
        self._shares = Shares(ledger)
        self._gaps = Gaps(group, fatal)
        self._poll_lock = Semaphore(1)
        self._loop = Loop("poller", self._poll, fatal)
        self._draining = False
        self._trouble: Kind | str | None = None  # what has been said of polls that fail
        self.polled = 0  # messages read
        self.skipped = 0  # messages read again that a restored map knew to be finished
        self._looked = self.last_poll = time.monotonic()
        self.last_message = time.monotonic()

    # -- life

    def start(self) -> None:
        routes = self._assignments.routes
        topics = sorted({topic for route in routes for topic in (*route.config.topics, *route.retry_topics)})
        kept = kept_from_patterns(routes)
        patterns = {
            route.config.pattern: kept | ({route.config.output} if route.config.output else set())
            for route in routes
            if route.config.pattern
        }
        self._group.subscribe(topics, patterns, self._rebalance)
        self._loop.start()

    def drain(self) -> None:
        """Begin nothing new: what waits is dropped and will be delivered again; polling goes on to
        stay in the group."""
        self._draining = True
        self._assignments.withdraw(list(self._assignments.partitions.values()))

    @property
    def dead(self) -> bool:
        """Whether the poller has ended."""
        return self._loop.dead

    def stop(self, timeout: float) -> None:
        """Stop polling, fence everything, leave the group and close the client. Blocks up to about
        ``timeout`` seconds."""
        self._loop.stop()
        self._assignments.fence(list(self._assignments.partitions.values()))
        self._rebalance.hurry()
        with self._poll_lock:
            self._group.close(timeout)

    # -- polling

    def _poll(self) -> None:
        partitions = self._assignments.partitions
        while True:
            self._moves.go_on()
            most = 0 if self._draining else self._shares.decide(partitions.values(), POLL_MESSAGES)
            has = self._pauses.has
            paused = {tp for tp, p in partitions.items() if p.paused or p.held or self._draining or has(p)}
            self._group.pause_only(paused)
            if time.monotonic() - self._looked > LOOK_INTERVAL:
                self._looked = time.monotonic()
                self._assignments.look_for_topics_made_anew()
            found = self._poll_once(most, (POLL_WAIT_PAUSED_MS if paused else POLL_WAIT_MS) if most else 0)
            if self._group.membership.fenced():
                raise UnavailableError(FENCED)
            self._gaps.look_for_resets()
            if found:
                self._feed(found)
                gevent.sleep(0)
                continue
            self._catch_up()
            if not most:
                self._ledger.wait_for_room(FULL_WAIT)

    def _catch_up(self) -> None:
        """Everything polled has been fed: note how far it goes, where offsets without a message
        (markers of transactions, what compaction removed, an empty partition) are the last."""
        for tp, offset in self._group.positions():
            partition = self._assignments.partitions.get(tp)
            # What was read of a closing partition has been dropped, not handled: its position must
            # not pass it.
            if partition is not None and partition.active and not partition.closing:
                if partition.offsets.restoring:
                    self._assignments.check_against_the_log(partition, self._group.end(tp))
                expected = partition.offsets.next
                if expected is not None and offset > expected + 1:
                    self._gaps.seen(tp, partition, expected, offset)
                partition.offsets.skip_to(offset)

    def _poll_once(self, most: int, wait_ms: int) -> dict[TopicPartition, list[Job]]:
        try:
            with self._poll_lock:
                self.last_poll = time.monotonic()
                found = self._group.poll(wait_ms, most)
        except Exception as error:
            self._poll_failed(error)
            gevent.sleep(FAILED_WAIT)
            return {}
        if self._trouble is not None and found:
            log.info("reading from Kafka works again")
            self._trouble = None
        return found

    def _poll_failed(self, error: Exception) -> None:
        """Raises what cannot get better by itself; says the rest once."""
        kind = classify(error)
        no_right = self._group.no_right(error)
        if no_right is not None:
            raise UnavailableError(no_right) from error
        if kind is Kind.INSTANCE_FENCED:
            raise UnavailableError(FENCED) from error
        if kind is Kind.GROUP_REFUSES:
            raise UnavailableError(f"the group refuses this member: {one_line(error)}; look at kafka.group and kafka.consumer") from error
        if kind is Kind.OTHER_ASSIGNOR:
            raise UnavailableError(
                f"the group {self._group_name} has members that share partitions out in another way than this one does "
                f"({', '.join(self._group.assignors)}), and refuses it; set kafka.consumer.partition_assignment_strategy to theirs "
                "(cooperative-sticky, sticky, range or roundrobin), or stop them first"
            ) from error
        if kind is Kind.NO_OFFSET:
            raise FatalError(
                f"the group has no valid offset to go on at ({one_line(error)}), and kafka.consumer.auto_offset_reset is none; "
                "set it to earliest or latest, or set the group's offsets with kafka-consumer-groups --reset-offsets"
            ) from error
        if isinstance(error, OversizedBatchError):
            self._hold(error)
            return
        if kind is Kind.DAMAGED:
            raise FatalError(f"a batch in Kafka is damaged, and skipping it would lose messages: {one_line(error)}") from error
        if kind is Kind.NO_CODEC:
            codec = missing_codec(error)
            hint = f"install its library: pip install 'gworkers[{codec}]'" if codec is not None else "this version of kafka-python cannot"
            raise UnavailableError(f"messages cannot be uncompressed: {one_line(error)}; {hint}") from error
        if not is_kafkas(error):
            raise error
        trouble = kind if kind is not Kind.OTHER else one_line(error)
        if self._trouble != trouble:
            log.warning("reading from Kafka fails, and is tried again: %s", one_line(error))
            self._trouble = trouble

    def _hold(self, error: OversizedBatchError) -> None:
        """A partition stands still, the others go on."""
        partition = self._assignments.partitions.get(TopicPartition(error.topic, error.partition))
        if partition is not None and not partition.held:
            partition.held = True
            move = f"kafka-consumer-groups.sh --reset-offsets --topic {error.topic}:{error.partition} --to-offset {error.last + 1}"
            log.error(
                "%s, which buffer.bytes allows; the partition stands still there, the others go on. Raise buffer.bytes, or set "
                "buffer.oversized: skip, or move the group past it by %s",
                error,
                move,
            )

    def _feed(self, found: dict[TopicPartition, list[Job]]) -> None:
        for tp, jobs in found.items():
            partition = self._assignments.partitions.get(tp)
            if partition is None or not partition.active or partition.closing:
                continue
            expected = partition.offsets.next
            if expected is not None and jobs[0].offset < expected:
                partition = self._assignments.begin_anew(partition, jobs[0].offset)
            elif expected is not None and jobs[0].offset > expected + 1:
                self._gaps.seen(tp, partition, expected, jobs[0].offset)
            offsets = partition.offsets
            self.polled += len(jobs)
            if offsets.restoring:
                self._assignments.check_against_the_log(partition, self._group.end(tp))
            if offsets.restoring:
                wanted = [job for job in jobs if offsets.wanted(job.offset)]
                self.skipped += len(jobs) - len(wanted)
                jobs = wanted
            if partition.topic in partition.route.retry_topics:
                jobs = self._taken_back(partition, jobs)
            if not jobs:
                continue
            begin = offsets.begin
            size = 0
            read_at = time.perf_counter()
            partition.route.figures.received += len(jobs)
            partition.reading(jobs[0])
            for job in jobs:
                job.partition = partition
                job.read_at = read_at
                begin(job.offset)
                size += job.size
            self._ledger.admit(partition, len(jobs), size)
            self._shares.measured(len(jobs), size)
            self._scheduler.add(partition, jobs)
        self.last_message = time.monotonic()

    def _taken_back(self, partition: Partition, jobs: list[Job]) -> list[Job]:
        """Of what was read from a retry topic, that which is this group's; the rest is finished
        without being run."""
        ours = []
        for job in jobs:
            if retry_topics.take_back(job, self._group_name):
                ours.append(job)
            else:
                partition.offsets.begin(job.offset)
                partition.offsets.finish(job.offset)
        return ours
