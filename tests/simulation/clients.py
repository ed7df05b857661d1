"""gworkers' side of the simulated Kafka: what implements gworkers.kafka.protocols for one process.

Each request travels for a while, may be lost on its way or lose its answer, and what it does at the
broker it does whatever has become of its sender by then.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gevent
from gevent.event import AsyncResult, Event

from gworkers.figures import Histogram, Times
from gworkers.handlers.job import Job, Row
from gworkers.kafka.errors import is_kafkas
from gworkers.kafka.protocols import Acknowledged, Committed, Listener, Offsets, ProducerClient, TopicPartition, Trouble
from gworkers.kafka.transactional import FencedError
from tests.simulation.cluster import Cluster, error
from tests.simulation.loop import Loop, Owner

#: How long a client waits for an answer that does not come, in seconds.
ANSWER_TIMEOUT = 1.0
HEARTBEAT = 1.0


class Network:
    """Between one process and the cluster. latency: seconds one way, at most; loss: the part of
    requests that is lost, or whose answer is; down: until when nothing gets through."""

    def __init__(self, loop: Loop, draw: random.Random, owner: Owner, latency: float, loss: float) -> None:
        self.loop = loop
        self.draw = draw
        self.owner = owner
        self.latency = latency
        self.loss = loss
        self.down = 0.0

    def wait(self) -> float:
        """How long something takes on its way."""
        return self.draw.random() * self.latency

    def send(self, effect: Callable[[], Any], answered: Callable[[Any, BaseException | None], None]) -> None:
        """``effect`` at the broker, and its result or its error to ``answered``, perhaps never. Does
        not block."""
        draw = self.draw
        lost = draw.random()
        if self.loop.now < self.down or lost < self.loss / 2:
            return

        def arrive() -> None:
            try:
                result, failure = effect(), None
            except Exception as raised:
                if not is_kafkas(raised):
                    self.loop.broken(raised)
                    return
                result, failure = None, raised
            if self.loop.now >= self.down and lost >= self.loss:
                self.loop.later(self.wait(), self.owner, answered, result, failure)

        self.loop.later(self.wait(), None, arrive)

    def ask(self, effect: Callable[[], Any], attempts: int = 1) -> Any:
        """The same for who waits. Raises the broker's error, or KafkaTimeoutError after so many
        attempts without an answer. Blocks."""
        for _ in range(attempts):
            answer: AsyncResult[Any] = AsyncResult()
            self.send(effect, lambda result, failure, answer=answer: answer.set((result, failure)))  # type: ignore[misc]
            try:
                result, failure = answer.get(timeout=ANSWER_TIMEOUT)
            except gevent.Timeout:
                continue
            if failure is not None:
                raise failure
            return result
        raise error("KafkaTimeoutError", "no answer")


class SimMembership:
    def __init__(self, cluster: Cluster) -> None:
        self._loop = cluster.loop
        self.session = cluster.session
        self.member_id = ""
        self.generation = -1
        self.confirmed = -1.0  # when the last heartbeat was sent that has been answered
        self.stable = self.lost = False

    def sure(self) -> bool:
        return not self.lost and self._loop.now - self.confirmed < self.session

    def joined(self) -> bool:
        return self.stable

    def fenced(self) -> bool:
        return False

    @property
    def joins(self) -> Times:
        return Histogram().times


class SimGroup:
    """Consumes as kafka-python's consumer does. See gworkers.kafka.protocols.Group."""

    def __init__(self, cluster: Cluster, network: Network) -> None:
        self._cluster = cluster
        self._network = network
        self.membership = SimMembership(cluster)
        self._listener: Listener | None = None
        self._assigned: list[TopicPartition] = []
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._paused: list[TopicPartition] = []
        self._rejoin = True
        self._news = Event()
        self._told = lambda: cluster.loop.later(network.wait(), network.owner, self._news.set)
        cluster.waiting.append(self._told)
        self._closed = False
        self._beating: Any = None
        self.covered: dict[TopicPartition, Committed] = {}  # what was committed when it was assigned

    assignors: Sequence[str] = ("simulated",)
    connected = True
    trouble: Trouble | None = None

    def no_right(self, failure: Exception) -> str | None:
        return None

    def no_right_to_read(self, topics: Collection[str]) -> str | None:
        return None

    def subscribe(self, topics: Sequence[str], patterns: Mapping[str, Collection[str]], listener: Listener) -> None:
        self._listener = listener
        self._beating = gevent.spawn(self._beat)

    # -- the group

    def _beat(self) -> None:
        membership = self.membership
        while not self._closed:
            gevent.sleep(HEARTBEAT)
            if not membership.member_id or not membership.stable:
                continue
            sent, generation = self._cluster.loop.now, membership.generation
            try:
                answer = self._network.ask(lambda: self._cluster.heartbeat(membership.member_id, membership.generation))
            except Exception:
                continue
            if generation != membership.generation or not membership.stable:
                continue
            if answer == "unknown":
                membership.stable, membership.lost = False, True
                self._news.set()
            else:
                membership.confirmed = max(membership.confirmed, sent)
                if answer == "rejoin":
                    self._rejoin = True
                    self._news.set()

    def _io(self, call: Callable[[], Any]) -> None:
        """On a greenlet of its own, as kafka-python has it: who waits for it may be killed, and it
        goes on."""
        done: AsyncResult[None] = AsyncResult()

        def run() -> None:
            try:
                coroutine = call()
                try:
                    coroutine.send(None)
                except StopIteration:
                    done.set(None)
                else:
                    raise AssertionError("a listener has waited for something unknown")
            except BaseException as failure:
                done.set_exception(failure)

        gevent.spawn(run)
        done.get()

    def _join(self) -> None:
        listener, membership = self._listener, self.membership
        assert listener is not None
        if membership.lost:
            lost, self._assigned = self._assigned, []
            membership.member_id = ""
            self._io(lambda: listener.lost(lost))
            membership.lost = False
        elif self._cluster.eager and self._assigned:
            gone, self._assigned = list(self._assigned), []
            self._io(lambda: listener.revoked(gone))
        membership.stable = False
        self._rejoin = False
        answer: AsyncResult[tuple[str, int, list[TopicPartition]]] = AsyncResult()
        sent = self._cluster.loop.now

        def join() -> None:
            name: list[str] = []

            def heard(generation: int, assignment: list[TopicPartition]) -> None:
                self._cluster.loop.later(
                    self._network.wait(), self._network.owner, lambda: answer.set((name[0] if name else known(), generation, assignment))
                )

            def known() -> str:
                return next(one.id for one in self._cluster.members.values() if one.heard is heard)

            name.append(self._cluster.join(membership.member_id, list(self._assigned), heard))

        def failed(result: Any, failure: BaseException | None) -> None:
            if failure is not None:  # the group does not know this member any more
                membership.lost = True
                answer.set_exception(gevent.Timeout())

        self._network.send(join, failed)
        try:
            membership.member_id, membership.generation, assignment = answer.get(timeout=self._cluster.rebalance + 1)
        except gevent.Timeout:
            self._rejoin = True
            return
        membership.stable, membership.confirmed = True, sent
        gone = [tp for tp in self._assigned if tp not in assignment]
        if gone:
            self._assigned = [tp for tp in self._assigned if tp in assignment]
            self._io(lambda: listener.revoked(gone))
            self._rejoin = True
        came = [tp for tp in assignment if tp not in self._assigned]
        if came:
            for tp in came:
                self._positions.pop(tp, None)
                self._ends.pop(tp, None)
            self._io(lambda: listener.assigned(came))
            self._assigned += came

    def poll(self, wait_ms: int, most: int) -> dict[TopicPartition, list[Job]]:
        if self._rejoin or self.membership.lost:
            self._join()
        self._find_positions()
        found = self._fetch(most)
        if not found and wait_ms and not self._rejoin:
            self._news.clear()
            self._news.wait(wait_ms / 1000)
            found = self._fetch(most)
        else:
            gevent.sleep(0)
        return found

    def _find_positions(self) -> None:
        for tp in [tp for tp in self._assigned if tp not in self._positions]:
            committed = self._network.ask(partial(self._cluster.committed.get, tp), attempts=5)
            self._positions[tp] = committed.offset if committed is not None else 0

    def _fetch(self, most: int) -> dict[TopicPartition, list[Job]]:
        found: dict[TopicPartition, list[Job]] = {}
        if self._cluster.loop.now < self._network.down:
            return found
        for tp in self._assigned:
            if tp in self._paused or tp not in self._positions or most <= 0:
                continue
            log = self._cluster.logs[tp]
            position = self._positions[tp]
            count = self._network.draw.randint(1, most)
            records, self._positions[tp] = log.read(position, count)
            self._ends[tp] = log.stable
            if records:
                found[tp] = [Job(r.offset, r.timestamp, r.key, r.value, r.headers, 100 + len(r.value or b"")) for r in records]
                most -= len(records)
        return found

    def pause_only(self, tps: Collection[TopicPartition]) -> None:
        self._paused = list(tps)

    def positions(self) -> Iterator[tuple[TopicPartition, int]]:
        yield from [(tp, self._positions[tp]) for tp in self._assigned if tp in self._positions]

    def out_of_range(self) -> list[tuple[TopicPartition, int]]:
        return []

    def end(self, tp: TopicPartition) -> int | None:
        return self._ends.get(tp)

    def look_for_ends(self) -> None: ...

    def reset(self, tp: TopicPartition) -> None:
        raise AssertionError("nothing is reset here")

    def seek(self, tp: TopicPartition, offset: int) -> None:
        raise AssertionError("nobody seeks here")

    def beginning(self, tp: TopicPartition) -> int:
        return 0

    def topic_id(self, topic: str) -> bytes | None:
        return topic.encode().ljust(16, b"\1")[:16]

    # -- commits

    def _commit(self, offsets: Offsets) -> None:
        membership = self.membership
        member, generation, told = membership.member_id, membership.generation, dict(offsets)
        self._network.ask(lambda: self._cluster.commit(told, member, generation), attempts=2)

    def leader_epoch(self, tp: TopicPartition, offset: int) -> int:
        return -1  # one leader, for ever

    def commit(self, offsets: Offsets, timeout: float) -> None:
        self._commit(offsets)

    async def commit_in_rebalance(self, offsets: Offsets, timeout: float) -> None:
        self._commit(offsets)

    async def committed(self, tps: Collection[TopicPartition], timeout: float) -> Offsets:
        def look() -> dict[TopicPartition, Committed]:
            if self._cluster.pending(tps):
                raise error("KafkaTimeoutError", "a transaction is open")
            return {tp: self._cluster.committed[tp] for tp in tps if tp in self._cluster.committed}

        found: dict[TopicPartition, Committed] = self._network.ask(look)
        self.covered.update(found)
        return found

    async def sleep(self, seconds: float) -> None:
        gevent.sleep(seconds)

    def generation(self) -> tuple[str, int]:
        return self.membership.member_id, self.membership.generation

    def remove(self, member_ids: Iterable[str], timeout: float) -> None:
        for name in list(member_ids):
            self._network.ask(partial(self._cluster.leave, name), attempts=3)

    def look_for_trouble(self) -> None: ...

    def missing(self, topics: Iterable[str]) -> set[str]:
        return set()

    def look_for_topics(self) -> None: ...

    def close(self, timeout: float) -> None:
        listener, gone = self._listener, self._assigned
        self._assigned = []
        if listener is not None and gone and not self.membership.lost:
            self._io(lambda: listener.revoked(gone))
        self._closed = True
        self._cluster.waiting.remove(self._told)
        if self._beating is not None:
            self._beating.kill(block=False)
        if self.membership.member_id:
            name = self.membership.member_id
            self._network.send(lambda: self._cluster.leave(name), lambda result, failure: None)


class _Batch:
    __slots__ = ("acknowledged", "jobs", "rows", "sequence")

    def __init__(self, acknowledged: Acknowledged) -> None:
        self.acknowledged = acknowledged
        self.rows: list[Row] = []
        self.jobs: list[Job] = []
        self.sequence: int | None = None


class SimProducer:
    """One request a partition at a time, sent again until it is answered. See
    gworkers.kafka.protocols.ProducerClient. identity: with transactions its name and epoch."""

    max_request_size = 10_000

    def __init__(self, cluster: Cluster, network: Network, most_rows: int, identity: tuple[str, int] | None = None) -> None:
        self._cluster = cluster
        self._network = network
        self._id = cluster.producer()
        self._most = most_rows
        self.identity = identity
        self._queues: dict[TopicPartition, deque[_Batch]] = {}
        self._out: dict[TopicPartition, _Batch] = {}
        self._sequences: dict[TopicPartition, int] = {}
        self._may_send: Callable[[], bool] = lambda: True
        self._look_again = 0.05
        self._due = Event()
        self.closed = False
        self.broken: BaseException | None = None
        self._sender = gevent.spawn(self._send)

    def no_right(self, failure: BaseException) -> str | None:
        return None

    def partition_of(self, key: bytes, partitions: int) -> int:
        return sum(key) % partitions

    def partitions_for(self, topic: str) -> int:
        gevent.sleep(self._network.wait())
        return self._cluster.partitions(topic)

    def known_partitions(self, topic: str) -> int:
        return self._cluster.partitions(topic)

    def watch(self, topic: str) -> None: ...

    def append(self, tp: TopicPartition, rows: Sequence[Row], jobs: Sequence[Job], acknowledged: Acknowledged) -> None:
        if self.closed:
            raise error("IllegalStateError", "the producer is closed")
        if self.broken is not None:
            raise self.broken
        queue = self._queues.setdefault(tp, deque())
        for row, job in zip(rows, jobs, strict=True):
            if not queue or len(queue[-1].rows) >= self._most or queue[-1].sequence is not None:
                queue.append(_Batch(acknowledged))
            queue[-1].rows.append(row)
            queue[-1].jobs.append(job)
        self._due.set()

    def _send(self) -> None:
        while not self.closed:
            self._due.wait()
            self._due.clear()
            while any(self._queues.values()) and not self._may_send():
                gevent.sleep(self._look_again)
            for tp, queue in list(self._queues.items()):
                if queue and tp not in self._out:
                    batch = self._out[tp] = queue.popleft()
                    if batch.sequence is None:
                        batch.sequence = self._sequences.get(tp, 0)
                        self._sequences[tp] = batch.sequence + 1
                    gevent.spawn(self._deliver, tp, batch)

    def _deliver(self, tp: TopicPartition, batch: _Batch) -> None:
        assert batch.sequence is not None
        sequence, rows = batch.sequence, list(batch.rows)
        while True:
            try:
                errors = self._network.ask(lambda: self._cluster.produce(tp, self._id, sequence, rows, self.identity))
            except Exception:
                if self.closed:
                    return
                gevent.sleep(self._network.wait())
                continue
            break
        self._out.pop(tp, None)
        self._due.set()
        if errors is not None:
            failed = errors(0)
            if type(failed).__name__ == "ProducerFencedError":
                self.broken = failed
            large = [index for index in range(len(rows)) if type(errors(index)).__name__ == "MessageSizeTooLargeError"]
            if large and len(rows) > 1:  # kafka-python splits it, and sends the rest
                self._split(tp, batch, errors)
                return
        batch.acknowledged(batch.jobs, batch.rows, errors)

    def _split(self, tp: TopicPartition, batch: _Batch, errors: Callable[[int], BaseException]) -> None:
        queue = self._queues.setdefault(tp, deque())
        singles = []
        for row, job in zip(batch.rows, batch.jobs, strict=True):
            single = _Batch(batch.acknowledged)
            single.rows, single.jobs = [row], [job]
            single.sequence = self._sequences[tp]
            self._sequences[tp] += 1
            singles.append(single)
        queue.extendleft(reversed(singles))

    def discard_unsent(self, failure: BaseException) -> None:
        for queue in self._queues.values():
            while queue:
                batch = queue.popleft()
                batch.acknowledged(batch.jobs, batch.rows, lambda index: failure)

    def discard_partitions(self, topic: str, start: int, failure: BaseException) -> None: ...

    def look_again(self) -> None:
        """The brokers stay where they are."""

    def hold_back(self, may_send: Callable[[], bool], look_again: float) -> None:
        self._may_send, self._look_again = may_send, look_again

    def flush(self, timeout: float) -> bool:
        """Wait until all is answered. Blocks."""
        deadline = self._cluster.loop.now + timeout
        while (self._out or any(self._queues.values())) and self._cluster.loop.now < deadline and self.broken is None:
            gevent.sleep(0.005)
        return not self._out and not any(self._queues.values())

    def close(self, timeout: float) -> None:
        if timeout:
            self.flush(timeout)
        self.closed = True
        self._sender.kill(block=False)


class SimTransactional:
    """See gworkers.kafka.protocols.TransactionalClient. name: the transactional id."""

    timeout = 20.0

    def __init__(self, cluster: Cluster, network: Network, most_rows: int, name: str) -> None:
        self._cluster = cluster
        self._network = network
        self._most = most_rows
        self._name = name
        self._number = 0
        epoch = network.ask(lambda: cluster.begin_producer(name, None), attempts=20)
        self._producer = SimProducer(cluster, network, most_rows, (name, epoch))

    @property
    def producer(self) -> ProducerClient:
        return self._producer

    @property
    def _epoch(self) -> int:
        assert self._producer.identity is not None
        return self._producer.identity[1]

    def begin(self) -> None:
        self._number += 1
        if self._producer.broken is not None:
            raise self._producer.broken

    def send_offsets(self, offsets: Offsets, generation: Any) -> None:
        told, epoch = dict(offsets), self._epoch
        self._network.ask(lambda: self._cluster.add_offsets(self._name, epoch, told, generation), attempts=2)

    def commit(self) -> None:
        if not self._producer.flush(20):
            raise self._producer.broken or error("KafkaTimeoutError", "not flushed")
        epoch, number = self._epoch, self._number
        self._network.ask(lambda: self._cluster.end(self._name, epoch, number), attempts=6)

    def renew(self, age: float) -> ProducerClient:
        self._producer.close(0)
        epoch = self._epoch
        self._cluster.expire(self.timeout)
        attempts = 0
        while True:
            attempts += 1
            try:
                fresh = self._network.ask(partial(self._cluster.begin_producer, self._name, epoch if age < self.timeout else None))
                break
            except Exception as failure:
                if type(failure).__name__ != "ProducerFencedError":
                    continue
                if attempts > 1 and self._cluster.transactions[self._name].epoch == epoch + 1:
                    epoch += 1  # the answer to an attempt of ours was lost
                    continue
                raise self.fenced() from failure
        self._producer = SimProducer(self._cluster, self._network, self._most, (self._name, fresh))
        return self._producer

    def no_right(self, failure: BaseException) -> str | None:
        return None

    def fenced(self) -> BaseException:
        return FencedError("another process has taken over")
