"""The one kafka-python consumer, shared by all workers: polls, rebalances, commits.

1. The poller, a greenlet, polls under a semaphore and feeds the scheduler, as much as the buffer has room for. When there
   is none, all partitions are paused and polling goes on, because only ``poll()`` keeps a member in its group.
2. Rebalances arrive on kafka-python's I/O greenlet, while ``poll()`` is blocked. Of what is revoked nothing new is begun, what
   runs may finish for ``rebalance.grace``, what is finished is committed, and the rest is fenced: each assignment is a Partition object
   of its own, and what becomes of jobs of a fenced one changes nothing. Draining never needs the semaphore.
3. The committer, a greenlet, commits every ``commit.interval`` what has moved. A commit does not need the semaphore either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from gworkers.errors import FatalError, GworkersError, UnavailableError
from gworkers.kafka import blocks, green
from gworkers.kafka.clients import positions
from gworkers.pipeline.dead_letters import one_line
from gworkers.pipeline.job import Job
from gworkers.pipeline.partition import Partition
from gworkers.pipeline.routes import Route
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.stats import Buffer, Stats

log = logging.getLogger(__name__)

#: Messages a poll. Reading 1,000 takes 3 to 4 ms, which is as long as the hub should be held in one go.
POLL_MESSAGES = 1000
#: How long a poll may wait for messages, in milliseconds, and how long to sleep between polls when the buffer is full.
POLL_WAIT_MS = 500
FULL_WAIT = 0.1


class Consumer:
    """See the head of this file. ``revoked`` is called with partitions whose jobs must be given back."""

    def __init__(
        self,
        client: Any,
        routes: list[Route],
        scheduler: Scheduler,
        buffer: Buffer,
        stats: Stats,
        *,
        commit_interval: float,
        rebalance_grace: float,
        wake: Callable[[], None],
        withdraw: Callable[[Partition], None],
        fence: Callable[[Partition], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._client = client
        self._routes = routes
        self._scheduler = scheduler
        self._buffer = buffer
        self._stats = stats
        self._commit_interval = commit_interval
        self._grace = rebalance_grace
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
        self.partitions: dict[Any, Partition] = {}  # by kafka-python's TopicPartition
        self.assignments = 0  # rebalances that ended with an assignment
        self.last_poll = time.monotonic()
        self.last_message = time.monotonic()
        if self._lean:
            blocks.read_lean(client)

    # -- life

    def start(self) -> None:
        topics = sorted({topic for route in self._routes for topic in route.config.topics})
        patterns = [route.config.pattern for route in self._routes if route.config.pattern]
        listener = _listener(self)
        if patterns:
            exact = [f"(?:{_escape(topic)})\\Z" for topic in topics]
            self._client.subscribe(pattern="|".join([*exact, *(f"(?:{pattern})" for pattern in patterns)]), listener=listener)
        else:
            self._client.subscribe(topics=topics, listener=listener)
        self._greenlets = [gevent.spawn(self._guarded, self._poll), gevent.spawn(self._guarded, self._commit_now_and_then)]

    def stop_reading(self) -> None:
        """Begin nothing new: what waits is dropped and will be delivered again; polling goes on to stay in the group."""
        self._stopping = True
        for partition in list(self.partitions.values()):
            self._withdraw(partition)

    def stop(self, timeout: float) -> None:
        """Commit what is finished, leave the group and close the client. Blocks up to about ``timeout`` seconds."""
        for greenlet in self._greenlets:
            greenlet.kill(block=False)
        self.commit(timeout)
        for partition in list(self.partitions.values()):
            self._fence(partition)
        self._grace = 0.0
        with self._poll_guard:
            self._client.close(autocommit=False, timeout_ms=int(timeout * 1000))

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
        paused = False
        while True:
            room = 0 if self._stopping or (paused and not self._buffer.low) else self._buffer.room
            if bool(room) == paused:
                paused = not room
                tps = list(self._client.assignment())
                (self._client.pause if paused else self._client.resume)(*tps)
            elif paused:
                self._client.pause(*self._client.assignment())  # partitions that came meanwhile
            found = self._poll_once(min(max(room, 1), POLL_MESSAGES), 0 if paused else POLL_WAIT_MS)
            if found:
                self._feed(found)
                gevent.sleep(0)
                continue
            self._catch_up()
            if paused:
                self._room.clear()
                self._room.wait(FULL_WAIT)

    def _catch_up(self) -> None:
        """Everything polled has been fed: note how far it goes, where offsets without a message (markers of transactions, what compaction
        removed, an empty partition) are the last."""
        for tp, offset in positions(self._client):
            partition = self.partitions.get(tp)
            if partition is not None and partition.active:
                partition.offsets.skip_to(offset)

    def _poll_once(self, most: int, wait_ms: int) -> dict[Any, list[Any]]:
        try:
            with self._poll_guard:
                self.last_poll = time.monotonic()
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
        if name in ("InvalidGroupIdError", "FencedInstanceIdError", "InconsistentGroupProtocolError", "InvalidSessionTimeoutError"):
            raise UnavailableError(f"the group refuses this member: {one_line(error)}; look at kafka.group and kafka.consumer") from error
        if name == "CorruptRecordError":
            raise FatalError(f"a batch in Kafka is damaged, and skipping it would lose messages: {one_line(error)}") from error
        if self._trouble != name:
            log.warning("reading from Kafka fails, and is tried again: %s", one_line(error))
            self._trouble = name

    def _feed(self, found: dict[Any, list[Any]]) -> None:
        buffer, scheduler = self._buffer, self._scheduler
        for tp, records in found.items():
            partition = self.partitions.get(tp)
            if partition is None or not partition.active or partition.closing:
                continue
            jobs: list[Job] = records if self._lean else [_job(record) for record in records]
            offsets = partition.offsets
            begin = offsets.begin
            size = 0
            for job in jobs:
                job.partition = partition
                begin(job.offset)
                size += job.size
            buffer.messages += len(jobs)
            buffer.bytes += size
            self._stats.polled += len(jobs)
            scheduler.add(partition, jobs)
        self.last_message = time.monotonic()
        self._wake()

    def room_came(self) -> None:
        """The buffer has room again: a poller that waits for it need not wait out its time."""
        if not self._room.is_set():
            self._room.set()

    # -- committing

    def _commit_now_and_then(self) -> None:
        while True:
            gevent.sleep(self._commit_interval)
            self.commit(30.0)

    def commit(self, timeout: float) -> bool:
        """Commit the positions that have moved. Blocks; True when the group knows them all."""
        offsets = self._moved(self.partitions.values())
        if not offsets:
            return True
        try:
            self._client.commit(offsets, timeout_ms=int(timeout * 1000))
        except Exception as error:
            # A rebalance, or no broker: what is not committed now is committed next time, or at the revocation.
            log.debug("a commit failed and will be repeated: %s", one_line(error))
            return False
        self._committed(offsets)
        return True

    def _moved(self, partitions: Iterable[Partition]) -> dict[Any, Any]:
        structs = green.module("kafka.structs")
        offsets = {}
        for partition in partitions:
            position = partition.offsets.position
            if position is not None and partition.active and partition.committed != (position, ""):
                tp = structs.TopicPartition(partition.topic, partition.number)
                offsets[tp] = structs.OffsetAndMetadata(position, "", -1)
        return offsets

    def _committed(self, offsets: dict[Any, Any]) -> None:
        self._stats.commits += 1
        for tp, offset in offsets.items():
            partition = self.partitions.get(tp)
            if partition is not None:
                partition.committed = (offset.offset, offset.metadata)

    # -- rebalances, on kafka-python's I/O greenlet

    async def revoked(self, tps: Iterable[Any]) -> None:
        """Partitions are to go to another member: drain, commit, fence. The old owner may still commit."""
        partitions = [self.partitions[tp] for tp in tps if tp in self.partitions]
        for partition in partitions:
            self._withdraw(partition)
        deadline = time.monotonic() + self._grace
        while any(partition.in_flight for partition in partitions) and time.monotonic() < deadline:
            await self._client._net.sleep(0.01)
        offsets = self._moved(partitions)
        if offsets:
            try:
                await self._client._coordinator._commit_offsets_sync_async(offsets, timeout_ms=5000)
                self._committed(offsets)
            except Exception as error:
                log.warning("%d revoked partitions could not be committed, some messages may come twice: %s", len(offsets), one_line(error))
        left = sum(partition.in_flight for partition in partitions)
        self._let_go(partitions)
        if partitions:
            log.info("revoked: %s%s", _names(partitions), f"; {left} messages were still running" if left else "")

    async def lost(self, tps: Iterable[Any]) -> None:
        """Partitions have gone to another member already: fence them; nothing can be committed."""
        partitions = [self.partitions[tp] for tp in tps if tp in self.partitions]
        left = sum(partition.in_flight for partition in partitions)
        self._let_go(partitions)
        if partitions:
            log.warning(
                "lost, because Kafka did not hear from this process in time: %s; %d messages were running", _names(partitions), left
            )

    async def assigned(self, tps: Iterable[Any]) -> None:
        """Partitions have come to this member: find out where to begin."""
        tps = [tp for tp in tps if tp not in self.partitions]
        try:
            committed = await self._client._coordinator.fetch_committed_offsets_async(set(tps), timeout_ms=30000)
        except Exception as error:
            log.debug("committed offsets could not be read now: %s", one_line(error))
            committed = {}
        added = []
        for tp in tps:
            route = next((route for route in self._routes if route.consumes(tp.topic)), None)
            if route is None:
                continue
            partition = Partition(tp.topic, tp.partition, route)
            found = committed.get(tp)
            if found is not None and found.offset >= 0:
                partition.offsets.next = found.offset
                partition.committed = (found.offset, found.metadata)
            self.partitions[tp] = partition
            added.append(partition)
        self.assignments += 1
        if added:
            log.info("assigned: %s", _names(added))

    def _let_go(self, partitions: list[Partition]) -> None:
        for partition in partitions:
            self._fence(partition)
        for tp, partition in list(self.partitions.items()):
            if partition in partitions:
                del self.partitions[tp]

    # -- figures

    def lag(self) -> int | None:
        """Messages between what is finished and the end of the partitions; None until all ends are known."""
        total = 0
        for tp, partition in self.partitions.items():
            highwater = self._client.highwater(tp)
            position = partition.offsets.position
            if highwater is None or position is None:
                return None
            total += max(0, highwater - position)
        return total

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


def _names(partitions: Iterable[Partition]) -> str:
    """``orders[0-3], refunds[1]``"""
    by_topic: dict[str, list[int]] = {}
    for partition in partitions:
        by_topic.setdefault(partition.topic, []).append(partition.number)
    parts = []
    for topic, numbers in sorted(by_topic.items()):
        numbers.sort()
        whole = numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2
        told = f"{numbers[0]}-{numbers[-1]}" if whole else ",".join(map(str, numbers))
        parts.append(f"{topic}[{told}]")
    return ", ".join(parts)


def _job(record: Any) -> Job:
    """A Job from one of kafka-python's own records."""
    size = len(record.key or b"") + len(record.value or b"") + 20
    return Job(record.offset, record.timestamp, record.key, record.value, record.headers, size)


def _listener(consumer: Consumer) -> Any:
    """kafka-python's listener; its class comes from the green module, so it cannot stand at the top of this file."""
    base = green.module("kafka.consumer.subscription_state").AsyncConsumerRebalanceListener

    class Listener(base):  # type: ignore[misc, valid-type]
        async def on_partitions_revoked(self, revoked: Any) -> None:
            await consumer.revoked(revoked)

        async def on_partitions_assigned(self, assigned: Any) -> None:
            await consumer.assigned(assigned)

        async def on_partitions_lost(self, lost: Any) -> None:
            await consumer.lost(lost)

    return Listener()
