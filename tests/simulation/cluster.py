"""A simulated Kafka, as its clients can tell it from outside: logs, one consumer group, transactions.

Everything here happens at one moment, when a request has arrived (gworkers' side of the network is in
clients.py). What it does not know: replicas, several groups, compaction beyond holes in the offsets.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gworkers.handlers.job import Row
from gworkers.kafka import green
from gworkers.kafka.errors import _OF_A_NEIGHBOUR
from gworkers.kafka.protocols import Committed, TopicPartition
from tests.simulation.loop import EPOCH, Loop

#: What the broker refuses a record for that carries it as a header.
REFUSED, TOO_LARGE = "refused", "too-large"


def error(name: str, *args: Any) -> Exception:
    """One of kafka-python's errors."""
    made: Exception = getattr(green.module("kafka.errors"), name)(*args)
    return made


@dataclass(slots=True)
class Record:
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Any
    timestamp: int
    state: str = "there"  # or "open", or "aborted"


@dataclass(slots=True)
class Log:
    """One partition. holes: offsets at which there is no message."""

    tp: TopicPartition
    records: list[Record] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    end: int = 0
    open: dict[str, int] = field(default_factory=dict)  # transactional id → first offset of its open transaction
    sequences: dict[Any, int] = field(default_factory=dict)  # producer → how many batches it has written

    @property
    def stable(self) -> int:
        """Where a reader of committed messages stops."""
        return min(self.open.values(), default=self.end)

    def append(self, row: Row, now: int, state: str = "there") -> Record:
        _, _, key, value, headers, timestamp = row
        record = Record(self.end, key, value, headers, timestamp if timestamp is not None else now, state)
        self.records.append(record)
        self.offsets.append(self.end)
        self.end += 1
        return record

    def read(self, position: int, most: int) -> tuple[list[Record], int]:
        """Up to ``most`` committed messages from ``position`` on, and where reading goes on: behind
        the last of them, or past markers and what was aborted when those are all there are."""
        end, found = self.stable, []
        for record in itertools.islice(self.records, bisect.bisect_left(self.offsets, position), None):
            if record.offset >= end:
                break
            if record.state != "aborted":
                found.append(record)
                if len(found) == most:
                    return found, record.offset + 1
        return found, max(position, end)


@dataclass(slots=True)
class Transaction:
    """What the coordinator keeps of one transactional id."""

    epoch: int = -1
    began: float | None = None  # while one is open
    records: list[tuple[Log, Record]] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    offsets: dict[TopicPartition, Committed] = field(default_factory=dict)
    last: tuple[int, int] | None = None  # epoch and number of the last one that was committed


@dataclass(slots=True)
class Member:
    id: str
    heard: Callable[[int, list[TopicPartition]], None]  # the answer to its JoinGroup
    owned: list[TopicPartition]
    seen: float
    joined: bool = True
    gone: bool = False


class Cluster:
    """committed_hook and appended_hook are told of each commit and of each record that readers of
    committed messages can see from now on."""

    def __init__(self, loop: Loop, *, session: float, rebalance: float, eager: bool) -> None:
        self.loop = loop
        self.session = session
        self.rebalance = rebalance
        self.eager = eager
        self.logs: dict[TopicPartition, Log] = {}
        self.committed: dict[TopicPartition, Committed] = {}
        self.inputs: list[TopicPartition] = []
        self.transactions: dict[str, Transaction] = {}
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.preparing = False
        self.turn = 0  # moves who gets what
        self.waiting: list[Callable[[], None]] = []  # who is told of new messages
        self.on_commit: Callable[[TopicPartition, Committed], None] = lambda tp, committed: None
        self.say: Callable[[str], None] | None = None  # told of what happens, where somebody wants to know
        self.on_records: Callable[[list[tuple[TopicPartition, Record]]], None] = lambda records: None
        self._members = 0
        self._producers = itertools.count()
        self._begun = 0

    @property
    def now_ms(self) -> int:
        return int((EPOCH + self.loop.now) * 1000)

    def make(self, topic: str, partitions: int, *, consumed: bool = False) -> None:
        for number in range(partitions):
            tp = TopicPartition(topic, number)
            self.logs[tp] = Log(tp)
            if consumed:
                self.inputs.append(tp)

    def partitions(self, topic: str) -> int:
        return sum(tp.topic == topic for tp in self.logs)

    # -- producing

    def producer(self) -> int:
        """Who a new producer is. Not the object's address: another one gets that, when it is gone."""
        return next(self._producers)

    def produce(self, tp: TopicPartition, producer: Any, sequence: int, rows: list[Row], identity: tuple[str, int] | None) -> Any:
        """Returns None, or a function from a row's index to its error. producer: who sends it, and
        sequence: which of its batches for this partition it is: a batch is written once."""
        log = self.logs[tp]
        transaction = None
        if identity is not None:
            transaction = self.transactions[identity[0]]
            if identity[1] != transaction.epoch:
                fenced = error("ProducerFencedError", "a newer epoch")
                return lambda index: fenced
        if log.sequences.get(producer, 0) > sequence:
            return None
        refused = [index for index, row in enumerate(rows) if any(name in (REFUSED, TOO_LARGE) for name, _ in row[4])]
        if refused and self.say is not None:
            self.say(f"refused for {tp.topic}[{tp.partition}]: {', '.join(map(_named, rows))}")
        if refused:
            large = {index for index in refused if any(name == TOO_LARGE for name, _ in rows[index][4])}

            def errors(index: int) -> BaseException:
                if index in large:
                    return error("MessageSizeTooLargeError")
                return error("InvalidRecordError", "refused") if index in refused else error("InvalidRecordError", _OF_A_NEIGHBOUR)

            return errors
        log.sequences[producer] = sequence + 1
        if self.say is not None:
            self.say(f"{identity or 'somebody'} writes to {tp.topic}[{tp.partition}]: {', '.join(map(_named, rows))}")
        if transaction is None:
            written = [log.append(row, self.now_ms) for row in rows]
            self.on_records([(tp, record) for record in written])
        else:
            assert identity is not None
            if transaction.began is None:
                transaction.began = self.loop.now
            if identity[0] not in log.open:
                log.open[identity[0]] = log.end
                transaction.logs.append(log)
            transaction.records += [(log, log.append(row, self.now_ms, "open")) for row in rows]
        self._tell()
        return None

    def feed(self, tp: TopicPartition, row: Row, hole: int) -> Record:
        """A message of somebody else's, behind ``hole`` offsets without one."""
        log = self.logs[tp]
        log.end += hole
        record = log.append(row, self.now_ms)
        self._tell()
        return record

    def _tell(self) -> None:
        for told in self.waiting:
            told()

    # -- transactions

    def begin_producer(self, name: str, resume: int | None) -> int:
        """InitProducerId. resume: the epoch that is taken over, None for a new producer. Returns the
        epoch."""
        transaction = self.transactions.setdefault(name, Transaction())
        if resume is not None and resume != transaction.epoch:
            raise error("ProducerFencedError", "another has taken over")
        self._end(name, transaction, commit=False)
        transaction.epoch += 1
        return transaction.epoch

    def expire(self, limit: float) -> None:
        """Give up transactions that have been open for longer than ``limit`` seconds."""
        for name, transaction in self.transactions.items():
            if transaction.began is not None and self.loop.now - transaction.began > limit:
                self._end(name, transaction, commit=False)
                transaction.epoch += 1

    def add_offsets(self, name: str, epoch: int, offsets: dict[TopicPartition, Committed], generation: tuple[str, int]) -> None:
        transaction = self.transactions[name]
        if epoch != transaction.epoch:
            raise error("ProducerFencedError", "a newer epoch")
        self._check(*generation)
        if transaction.began is None:
            transaction.began = self.loop.now
        transaction.offsets.update(offsets)

    def end(self, name: str, epoch: int, number: int) -> None:
        """EndTxn: commit. Asked again it is answered as before."""
        transaction = self.transactions[name]
        if transaction.last == (epoch, number):
            return
        if epoch != transaction.epoch:
            raise error("ProducerFencedError", "a newer epoch")
        transaction.last = (epoch, number)
        self._end(name, transaction, commit=True)

    def _end(self, name: str, transaction: Transaction, *, commit: bool) -> None:
        if self.say is not None and (transaction.records or transaction.offsets):
            self.say(f"{name} epoch {transaction.epoch}: {'committed' if commit else 'aborted'}, {_offsets(transaction.offsets)}")
        for _, record in transaction.records:
            record.state = "there" if commit else "aborted"
        records, logs, offsets = transaction.records, transaction.logs, transaction.offsets
        transaction.began, transaction.records, transaction.logs, transaction.offsets = None, [], [], {}
        for log in logs:
            log.open.pop(name, None)
            log.end += 1  # its marker
        if commit:
            self.on_records([(log.tp, record) for log, record in records])
            for tp, committed in offsets.items():
                self.committed[tp] = committed
                self.on_commit(tp, committed)
        if logs:
            self._tell()

    # -- the group

    def _check(self, member: str, generation: int) -> None:
        if member not in self.members or generation != self.generation:
            raise error("CommitFailedError", "the group has gone on")

    def commit(self, offsets: dict[TopicPartition, Committed], member: str, generation: int) -> None:
        self._check(member, generation)
        if self.say is not None:
            self.say(f"{member} commits {_offsets(offsets)}")
        for tp, committed in offsets.items():
            self.committed[tp] = committed
            self.on_commit(tp, committed)

    def pending(self, tps: Iterable[TopicPartition]) -> bool:
        """Whether a transaction is open that has offsets of these."""
        return any(tp in transaction.offsets for transaction in self.transactions.values() for tp in tps)

    def join(self, member: str, owned: list[TopicPartition], heard: Callable[[int, list[TopicPartition]], None]) -> str:
        """JoinGroup: ``heard`` is called with the generation and the assignment when all members have
        joined. Returns the member's id."""
        if member and member not in self.members:
            raise error("UnknownMemberIdError")
        if not member:
            self._members += 1
            member = f"member-{self._members}"
            self._prepare()
            self.members[member] = Member(member, heard, owned, self.loop.now)
        else:
            self._prepare()
            one = self.members[member]
            one.heard, one.owned, one.seen, one.joined = heard, owned, self.loop.now, True
        self.loop.later(self.session, None, self._look_at, member)
        self._complete()
        return member

    def _prepare(self) -> None:
        if not self.preparing:
            self.preparing = True
            self._begun += 1
            for one in self.members.values():
                one.joined = False
            self.loop.later(self.rebalance, None, self._late, self._begun)

    def _late(self, which: int) -> None:
        """Whoever has not joined by now is out."""
        if self.preparing and which == self._begun:
            self.members = {name: one for name, one in self.members.items() if one.joined}
            self._complete()

    def _complete(self) -> None:
        if not self.preparing or not all(one.joined for one in self.members.values()):
            return
        self.preparing = False
        self.generation += 1
        if not self.members:
            return
        self.turn += 1
        wanted = self._shared_out()
        if self.say is not None:
            self.say(f"generation {self.generation}: {', '.join(f'{tp.topic}[{tp.partition}] {name}' for tp, name in wanted.items())}")
        for one in self.members.values():
            one.seen = self.loop.now
            self.loop.later(self.session, None, self._look_at, one.id)
            one.heard(self.generation, [tp for tp, name in wanted.items() if name == one.id])

    def _shared_out(self) -> dict[TopicPartition, str]:
        """Who gets what. Not eager: who has a partition keeps it, up to its share; one beyond that is
        nobody's until it has been given up."""
        names = list(self.members)
        names = names[self.turn % len(names) :] + names[: self.turn % len(names)]
        owner = {} if self.eager else {tp: one.id for one in self.members.values() for tp in one.owned}
        share = -(-len(self.inputs) // len(names))
        counts = dict.fromkeys(names, 0)
        wanted: dict[TopicPartition, str] = {}
        for tp, name in owner.items():
            if counts[name] < share:
                counts[name] += 1
                wanted[tp] = name
        for tp in self.inputs:
            if tp not in owner:
                name = min(names, key=counts.__getitem__)
                counts[name] += 1
                wanted[tp] = name
        return wanted

    def heartbeat(self, member: str, generation: int) -> str:
        """``well``, ``rejoin`` or ``unknown``."""
        one = self.members.get(member)
        if one is None or generation > self.generation:
            return "unknown"
        one.seen = self.loop.now
        self.loop.later(self.session, None, self._look_at, member)
        if generation != self.generation:
            return "unknown" if not self.preparing and one.joined else "rejoin"
        return "rejoin" if self.preparing else "well"

    def _look_at(self, member: str) -> None:
        one = self.members.get(member)
        if one is not None and self.loop.now - one.seen >= self.session - 1e-9 and not (self.preparing and one.joined):
            self.leave(member)

    def leave(self, member: str) -> None:
        if self.members.pop(member, None) is not None:
            self._prepare()
            self._complete()


def _named(row: Row) -> str:
    return (row[3] or b"").decode()


def _offsets(offsets: dict[TopicPartition, Committed]) -> str:
    return ", ".join(f"{tp.topic}[{tp.partition}]={one.offset}{' with a map' * bool(one.metadata)}" for tp, one in offsets.items())
