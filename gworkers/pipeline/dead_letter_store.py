"""Dead letters read back: which are there, which have been dealt with, and dealing with them.

What has been replayed or dropped is kept where progress is kept, in the commits of a group of its
own, ``<group>.dead-letters``: the lowest letter not dealt with, and in the metadata what is dealt
with beyond it (gworkers.offsets.offset_map). A replay sends letters and commits that progress in
one transaction, so each is sent once, however often it is interrupted and run again.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gworkers.errors import NoTopicError, UnavailableError
from gworkers.handlers.job import Job
from gworkers.kafka import green, options, topics
from gworkers.kafka.clients import Clients
from gworkers.kafka.late_requests import LateRequests
from gworkers.kafka.reading import read_lean
from gworkers.offsets import offset_map
from gworkers.offsets.offsets import Offsets
from gworkers.pipeline.dead_letters import OURS, SPRING
from gworkers.text import text_of

log = logging.getLogger(__name__)

#: The header of a letter that was sent again with another value.
EDITED = "gworkers-edited"

#: Letters in one transaction of a replay.
LETTERS_A_TRANSACTION = 200

#: What ``--where`` can ask for.
WHERE_NAMES = frozenset(
    {"headers", "key", "value", "topic", "partition", "offset", "timestamp", "route", "reason", "exception", "error", "attempts"}
)


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter of ``in_topic``. record: the message, as a Job without a partition; dealt_with:
    it has been replayed or dropped."""

    in_topic: str
    partition: int
    record: Job
    dealt_with: bool
    edited: bool = False  # its value is not the one it came with

    def header(self, name: str) -> bytes | None:
        return next((value for key, value in reversed(self.record.headers) if key == name), None)

    def text(self, name: str) -> str | None:
        return text_of(self.header(name))

    def number(self, name: str) -> int | None:
        value = self.header(name)
        if value is None:
            return None
        if len(value) in (4, 8):
            return int(struct.unpack(">i" if len(value) == 4 else ">q", value)[0])
        return int(value) if value.isdigit() and len(value) < 20 else None

    @property
    def id(self) -> str:
        return f"{self.partition}@{self.record.offset}"

    @property
    def topic(self) -> str | None:
        return self.text(SPRING + "original-topic")

    @property
    def origin(self) -> str:
        return f"{self.topic}[{self.number(SPRING + 'original-partition')}]@{self.number(SPRING + 'original-offset')}"

    @property
    def failed_at(self) -> int:
        """When it failed, in milliseconds since the epoch; its timestamp where that is not told."""
        text = self.text(OURS + "failed-at")
        return int(text) if text is not None and text.isdecimal() and len(text) < 20 else self.record.timestamp

    @property
    def reason(self) -> str:
        return self.text(OURS + "reason") or "-"

    @property
    def route(self) -> str:
        return self.text(OURS + "route") or "-"

    @property
    def exception(self) -> str:
        return self.text(SPRING + "exception-fqcn") or "-"

    @property
    def error(self) -> str:
        return self.text(SPRING + "exception-message") or ""

    @property
    def own_headers(self) -> list[tuple[str, bytes | None]]:
        """The message's headers as it came; of an edited one with a mark that it is."""
        found = [(name, value) for name, value in self.record.headers if not name.startswith((SPRING, OURS))]
        return [*found, (EDITED, b"true")] if self.edited else found

    def with_value(self, value: bytes) -> Letter:
        """The same letter with another value."""
        record = self.record
        changed = Job(record.offset, record.timestamp, record.key, value, record.headers, record.size)
        return replace(self, record=changed, edited=True)


class _Name(str):
    """A header's name that is sent as the bytes it came as; kafka-python asks a name for its UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return super().encode(encoding, "surrogateescape")


def _for_kafka(headers: list[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """kafka-python's ``send()`` takes no header without a value; an empty one comes nearest."""
    return [(_Name(name), value if value is not None else b"") for name, value in headers]


class DeadLetterStore:
    """The dead letters of one topic. Blocks while it reads; ``close`` at the end."""

    def __init__(self, clients: Clients, group: str, topic: str) -> None:
        self.topic = topic
        self._clients = clients
        self._group = f"{group}.dead-letters"
        self._structs = green.module("kafka.structs")
        self._consumer = clients.consumer(
            group_id=self._group,
            group_instance_id=None,
            partition_assignment_strategy=[options.assignor("range")],
            **({} if clients.embedded else {"isolation_level": "read_committed"}),
        )
        read_lean(self._consumer)
        try:
            numbers = topics.partitions_of(self._consumer, topic)
        except BaseException:
            self.close()
            raise
        if not numbers:
            self.close()
            raise NoTopicError(f"there is no topic {topic}; no message has been dead-lettered to it")
        self._tps = [self._structs.TopicPartition(topic, number) for number in sorted(numbers)]
        self._offsets: dict[Any, Offsets] = {}

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    # -- reading

    def letters(self, *, dealt_with: bool = False) -> Iterator[Letter]:
        """The letters that are there now, a partition after the other; with ``dealt_with`` also those
        that have been dealt with."""
        begins, ends = self._consumer.beginning_offsets(self._tps), self._consumer.end_offsets(self._tps)
        for tp in self._tps:
            offsets = self._offsets[tp] = self._restored(tp)
            start = begins[tp] if dealt_with or offsets.next is None else max(begins[tp], offsets.next)
            if offsets.next is None:
                offsets.next = begins[tp]
            if start >= ends[tp]:
                continue
            self._consumer.assign([tp])
            self._consumer.seek(tp, start)
            first = offsets.next
            while self._consumer.position(tp) < ends[tp]:
                for record in next(iter(self._consumer.poll(timeout_ms=500, max_records=500).values()), ()):
                    if record.offset >= ends[tp]:
                        break
                    if record.offset < first or (offsets.restoring and not offsets.wanted(record.offset)):
                        if dealt_with:
                            yield Letter(self.topic, tp.partition, record, True)
                        continue
                    offsets.begin(record.offset)
                    yield Letter(self.topic, tp.partition, record, False)

    def _restored(self, tp: Any) -> Offsets:
        committed = self._consumer.committed(tp, metadata=True)
        if committed is None or committed.offset < 0:
            return Offsets()
        offsets = Offsets(committed.offset)
        try:
            found = offset_map.decode(committed.offset, committed.metadata or "")
        except offset_map.ForeignMetadataError as error:
            if error.moved:
                log.warning(
                    "what has been dealt with beyond offset %d of %s[%d] is not known: the metadata of %s's commit is no map for it (%s)",
                    committed.offset,
                    self.topic,
                    tp.partition,
                    self._group,
                    error,
                )
                return offsets
            raise UnavailableError(
                f"the commit of {self._group} for {self.topic}[{tp.partition}] is not of this program ({error}); "
                f"delete that group's offsets to begin anew"
            ) from error
        if found is not None:
            offsets.restore(found)
        return offsets

    # -- dealing with them

    def drop(self, letters: Iterable[Letter]) -> int:
        """Mark letters as dealt with. Returns how many."""
        count = 0
        for letter in letters:
            self._deal_with(letter)
            count += 1
            if count % LETTERS_A_TRANSACTION == 0:
                self._consumer.commit(self._progress())
        if count % LETTERS_A_TRANSACTION:
            self._consumer.commit(self._progress())
        return count

    def replay(self, letters: Iterable[Letter], to: str | None, sent: Callable[[int], None]) -> int:
        """Send letters to their original topics, or to ``to``; ``sent`` hears how many after each
        transaction. Returns how many.

        With the embedded broker, which knows no transactions, a letter may be sent again after an
        interruption.
        """
        transactional = not self._clients.embedded
        producer = self._clients.producer(**({"transactional_id": f"{self._group}.{self.topic}"} if transactional else {}))
        begin = LateRequests(producer).begin if transactional else None
        errors = green.module("kafka.errors")
        count = 0
        try:
            if transactional:
                producer.init_transactions()
            batch: list[Letter] = []
            for letter in letters:
                batch.append(letter)
                if len(batch) == LETTERS_A_TRANSACTION:
                    self._send(producer, batch, to, begin)
                    count += len(batch)
                    sent(len(batch))
                    batch = []
            if batch:
                self._send(producer, batch, to, begin)
                count += len(batch)
                sent(len(batch))
        except errors.ProducerFencedError as error:
            raise UnavailableError(f"another replay of {self.topic} has begun; this one has stopped, and nothing was sent twice") from error
        except errors.KafkaError as error:
            rights = replace(self._clients.rights_of_producer(f"{self._group}.{self.topic}"), group=self._group)
            no_right = rights.missing(error)
            if no_right is not None:
                raise UnavailableError(no_right) from error
            raise UnavailableError(f"replaying {self.topic} stopped after {count:,} letters: {error}; run it again to go on") from error
        finally:
            producer.close(timeout=10)
        return count

    def _send(self, producer: Any, letters: list[Letter], to: str | None, begin: Callable[[], None] | None) -> None:
        """begin: opens a transaction, None where there are none."""
        if begin is not None:
            begin()
        try:
            futures = []
            for letter in letters:
                record = letter.record
                futures.append(producer.send(to or letter.topic, record.value, record.key, _for_kafka(letter.own_headers)))
                self._deal_with(letter)
            producer.flush(60)
            for future in futures:
                future.get(60)
            if begin is not None:
                producer.send_offsets_to_transaction(self._progress(), self._group)
                producer.commit_transaction()
            else:
                self._consumer.commit(self._progress())
        except BaseException:
            if begin is not None:
                producer.abort_transaction()
            raise

    def _deal_with(self, letter: Letter) -> None:
        tp = self._structs.TopicPartition(self.topic, letter.partition)
        self._offsets[tp].finish(letter.record.offset)

    def _progress(self) -> dict[Any, Any]:
        progress = {}
        for tp, offsets in self._offsets.items():
            position = offsets.position
            if position is None or not offsets.changes:
                continue
            metadata, complete = offsets.metadata()
            if not complete:
                raise UnavailableError(
                    f"more letters of {self.topic}[{tp.partition}] are left out than can be noted; deal with the older ones first, "
                    "with drop or with a wider filter"
                )
            progress[tp] = self._structs.OffsetAndMetadata(position, metadata, -1)
        return progress
