"""The one kafka-python consumer, shared by all workers.

1. The poller, a greenlet, polls under a semaphore and feeds the scheduler, as much as the buffer has room for. Partitions that have
   their share are paused (gworkers.pipeline.shares), and when all are, polling goes on: only ``poll()`` keeps a member in its group.
2. What was finished before this process got the partition is passed over (gworkers.pipeline.offsets).
3. Partitions come and go in gworkers.pipeline.rebalance, progress is written back in gworkers.pipeline.committer; neither needs the
   semaphore.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from gworkers.errors import FatalError, GworkersError, UnavailableError
from gworkers.kafka import blocks
from gworkers.kafka.clients import positions
from gworkers.kafka.membership import Membership
from gworkers.pipeline import durable
from gworkers.pipeline.committer import Committer
from gworkers.pipeline.dead_letters import one_line
from gworkers.pipeline.job import Job
from gworkers.pipeline.partition import Partition
from gworkers.pipeline.rebalance import Rebalance
from gworkers.pipeline.routes import Route
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.shares import Shares
from gworkers.pipeline.stats import Buffer, Stats

log = logging.getLogger(__name__)

#: Messages a poll. Reading 1,000 takes 3 to 4 ms, which is as long as the hub should be held in one go.
POLL_MESSAGES = 1000
#: How long a poll may wait for messages, in milliseconds, while some partition is held and while none is.
POLL_WAIT_HELD_MS = 50
POLL_WAIT_MS = 500
#: How long to sleep between polls when all partitions are held, in seconds.
FULL_WAIT = 0.1
#: A hole between offsets that is looked into: compaction and transactions make smaller ones all the time.
JUMP = 10_000

FENCED = (
    "another process has joined the group under this one's kafka.group_instance_id, and this one is out; "
    "give each process a name of its own, with %(host)s or a variable"
)


class Consumer:
    """See the head of this file. All of it runs on the hub's thread."""

    def __init__(
        self,
        client: Any,
        routes: list[Route],
        scheduler: Scheduler,
        buffer: Buffer,
        stats: Stats,
        *,
        group: str,
        committer: Callable[[Any, dict[Any, Partition]], Committer],
        rebalance_grace: float,
        wake: Callable[[], None],
        withdraw: Callable[[Partition], None],
        fence: Callable[[Partition], None],
        lost: Callable[[], None],
        arrived: Callable[[list[Partition]], None],
        must_know: bool,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._client = client
        self._routes = routes
        self._scheduler = scheduler
        self._buffer = buffer
        self._stats = stats
        self._group = group
        self._wake = wake
        self._withdraw = withdraw
        self._fence = fence
        self._fatal = fatal
        self._poll_guard = Semaphore(1)
        self._room = Event()
        self._stopping = False
        self._greenlets: list[gevent.Greenlet] = []
        self._lean = blocks.known()
        self._trouble: str | None = None
        self.membership = Membership(client) if self._lean else None  # the producer asks it as well
        self._paused: set[Any] = set()  # what kafka-python has been told to pause
        self.partitions: dict[Any, Partition] = {}  # by kafka-python's TopicPartition
        self.shares = Shares(buffer)
        self.committer = committer(client, self.partitions)
        self.rebalance = Rebalance(
            client,
            routes,
            self.partitions,
            self.committer,
            grace=rebalance_grace,
            withdraw=withdraw,
            fence=fence,
            lost=lost,
            arrived=arrived,
            must_know=must_know,
        )
        self.last_poll = time.monotonic()
        self.last_message = time.monotonic()
        if self._lean:
            blocks.read_lean(client)

    # -- life

    def start(self) -> None:
        topics = sorted({topic for route in self._routes for topic in (*route.config.topics, *route.retry_topics)})
        patterns = [route.config.pattern for route in self._routes if route.config.pattern]
        listener = self.rebalance.listener()
        if patterns:
            exact = [f"(?:{_escape(topic)})\\Z" for topic in topics]
            self._client.subscribe(pattern="|".join([*exact, *(f"(?:{pattern})" for pattern in patterns)]), listener=listener)
        else:
            self._client.subscribe(topics=topics, listener=listener)
        self._greenlets = [gevent.spawn(self._guarded, self._poll), gevent.spawn(self._guarded, self.committer.run)]

    def stop_reading(self) -> None:
        """Begin nothing new: what waits is dropped and will be delivered again; polling goes on to stay in the group."""
        self._stopping = True
        for partition in list(self.partitions.values()):
            self._withdraw(partition)

    def stop(self, timeout: float) -> bool:
        """Commit what is finished, leave the group and close the client. Blocks up to about ``timeout`` seconds.

        True when all of it is committed. While the group rebalances it takes no commits, so polling goes on until it has.
        """
        deadline = time.monotonic() + timeout
        while (
            not (committed := self.committer.commit(1.0)) and time.monotonic() < deadline and not any(one.dead for one in self._greenlets)
        ):
            gevent.sleep(0.05)
        for greenlet in self._greenlets:
            greenlet.kill(block=False)
        for partition in list(self.partitions.values()):
            self._fence(partition)
        self.rebalance.grace = 0.0
        with self._poll_guard:
            self._client.close(autocommit=False, timeout_ms=int(timeout * 1000))
        return committed

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except gevent.GreenletExit:
            raise
        except BaseException as error:
            self._fatal(error if isinstance(error, GworkersError) else FatalError(f"reading from Kafka failed: {one_line(error)}"))
            if not isinstance(error, GworkersError):
                log.debug("where it failed", exc_info=True)

    # -- polling

    def _poll(self) -> None:
        while True:
            most = 0 if self._stopping else self.shares.decide(self.partitions.values(), POLL_MESSAGES)
            held = self._hold()
            found = self._poll_once(most or 1, (POLL_WAIT_HELD_MS if held else POLL_WAIT_MS) if most else 0)
            if found:
                self._feed(found)
                gevent.sleep(0)
                continue
            self._catch_up()
            if self.membership is not None and self.membership.fenced():
                raise UnavailableError(FENCED)
            if not most:
                self._room.clear()
                self._room.wait(FULL_WAIT)

    def _hold(self) -> bool:
        """Tell kafka-python which partitions are held; True when some are."""
        held = {tp for tp, partition in self.partitions.items() if partition.held or self._stopping}
        assigned = self._client.assignment()
        paused = self._paused & assigned
        if held - paused:
            self._client.pause(*((held - paused) & assigned))
        if paused - held:
            self._client.resume(*(paused - held))
        self._paused = held & assigned
        return bool(held)

    def _catch_up(self) -> None:
        """Everything polled has been fed: note how far it goes, where offsets without a message (markers of transactions, what compaction
        removed, an empty partition) are the last."""
        for tp, offset in positions(self._client):
            partition = self.partitions.get(tp)
            # What was read of a closing partition has been dropped, not handled: its position must not pass it.
            if partition is not None and partition.active and not partition.closing:
                partition.offsets.skip_to(offset)

    def _poll_once(self, most: int, wait_ms: int) -> dict[Any, list[Any]]:
        try:
            with self._poll_guard:
                self.last_poll = time.monotonic()
                if self.membership is not None:
                    self.membership.join()
                found: dict[Any, list[Any]] = self._client.poll(timeout_ms=wait_ms, max_records=most)
        except Exception as error:
            self._poll_failed(error)
            gevent.sleep(1.0)
            return {}
        if self._trouble is not None and found:
            log.info("reading from Kafka works again")
            self._trouble = None
        return found

    def _poll_failed(self, error: Exception) -> None:
        """Raises what cannot get better by itself; says the rest once."""
        name = type(error).__name__
        if name in ("GroupAuthorizationFailedError", "TopicAuthorizationFailedError", "ClusterAuthorizationFailedError"):
            raise UnavailableError(f"Kafka refuses this client: {one_line(error)}; give it the right to, or change kafka.client") from error
        if name == "FencedInstanceIdError":
            raise UnavailableError(FENCED) from error
        if name in ("InvalidGroupIdError", "InconsistentGroupProtocolError", "InvalidSessionTimeoutError"):
            raise UnavailableError(f"the group refuses this member: {one_line(error)}; look at kafka.group and kafka.consumer") from error
        if name in ("NoOffsetForPartitionError", "OffsetOutOfRangeError"):
            raise FatalError(
                f"the group has no valid offset to go on at ({one_line(error)}), and kafka.consumer.auto_offset_reset is none; "
                "set it to earliest or latest, or set the group's offsets with kafka-consumer-groups --reset-offsets"
            ) from error
        if name == "CorruptRecordError":
            raise FatalError(f"a batch in Kafka is damaged, and skipping it would lose messages: {one_line(error)}") from error
        if self._trouble != name:
            log.warning("reading from Kafka fails, and is tried again: %s", one_line(error))
            self._trouble = name

    def _feed(self, found: dict[Any, list[Any]]) -> None:
        buffer = self._buffer
        for tp, records in found.items():
            partition = self.partitions.get(tp)
            if partition is None or not partition.active or partition.closing:
                continue
            jobs: list[Job] = records if self._lean else [_job(record) for record in records]
            expected = partition.offsets.next
            if expected is not None and jobs[0].offset < expected:
                partition = self._begin_anew(tp, partition, jobs[0].offset)
            elif expected is not None and jobs[0].offset > expected + 1:
                self._jumped(tp, partition, expected, jobs[0].offset)
            offsets = partition.offsets
            self._stats.polled += len(jobs)
            if offsets.restoring:
                wanted = [job for job in jobs if offsets.wanted(job.offset)]
                self._stats.skipped += len(jobs) - len(wanted)
                if not wanted:
                    continue
                jobs = wanted
            if partition.topic in partition.route.retry_topics:
                jobs = self._taken_back(partition, jobs)
                if not jobs:
                    continue
            begin = offsets.begin
            size = 0
            for job in jobs:
                job.partition = partition
                begin(job.offset)
                size += job.size
            buffer.messages += len(jobs)
            buffer.bytes += size
            partition.buffered += size
            self.shares.measured(len(jobs), size)
            self._scheduler.add(partition, jobs)
        self.last_message = time.monotonic()
        self._wake()

    def _taken_back(self, partition: Partition, jobs: list[Job]) -> list[Job]:
        """Of what was read from a retry topic, that which is this group's; the rest is finished without being run."""
        ours = []
        for job in jobs:
            if durable.take_back(job, self._group):
                ours.append(job)
            else:
                partition.offsets.begin(job.offset)
                partition.offsets.finish(job.offset)
        return ours

    def _begin_anew(self, tp: Any, partition: Partition, offset: int) -> Partition:
        """A partition that begins again before where it was: nothing that was known of its offsets holds any more."""
        log.warning(
            "%s goes on at offset %d, before %s where it was: the topic was deleted and made anew, or the group's offsets were reset; "
            "what was known of finished messages is dropped",
            partition.name,
            offset,
            partition.offsets.next,
        )
        self._fence(partition)
        fresh = self.partitions[tp] = Partition(partition.topic, partition.number, partition.route, delay=partition.delay)
        fresh.offsets.next = offset
        return fresh

    def _jumped(self, tp: Any, partition: Partition, expected: int, offset: int) -> None:
        """Offsets are missing: what compaction and transactions leave out needs no word, what retention has deleted does."""
        known = partition.started
        partition.started = True
        if known and offset - expected < JUMP:
            return

        def look() -> None:
            try:
                begins: int = self._client.beginning_offsets([tp])[tp]
            except Exception as error:
                log.debug("where %s begins cannot be told: %s", partition.name, one_line(error))
                return
            if begins > expected:
                log.warning(
                    "%s: retention has deleted the offsets from %d to %d before their messages were handled; it goes on at %d",
                    partition.name,
                    expected,
                    begins - 1,
                    offset,
                )

        gevent.spawn(look)

    def room_came(self) -> None:
        """The buffer has room again: a poller that waits for it need not wait out its time."""
        if not self._room.is_set():
            self._room.set()

    # -- figures

    def lag(self) -> int | None:
        """Messages that are not finished, read or not; None until all ends are known."""
        backlog = self.backlog()
        return None if backlog is None else backlog + sum(len(partition.offsets) for partition in self.partitions.values())

    def backlog(self) -> int | None:
        """Messages in Kafka that have not been read; None until all ends are known."""
        total = 0
        for tp, partition in self.partitions.items():
            highwater = self._client.highwater(tp)
            if highwater is None or partition.offsets.next is None:
                return None
            total += max(0, highwater - partition.offsets.next)
        return total


def _escape(topic: str) -> str:
    return topic.replace(".", r"\.")


def _job(record: Any) -> Job:
    """A Job from one of kafka-python's own records."""
    size = len(record.key or b"") + len(record.value or b"") + 20
    return Job(record.offset, record.timestamp, record.key, record.value, record.headers, size)
