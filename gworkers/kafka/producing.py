"""Producing in blocks: many rows are appended to kafka-python's open batch under one lock with one
callback.

kafka-python's ``send()`` costs 17 µs a message (a look-up, an estimate, a future and a metadata
object each); a block costs about 3 µs a row. What ``send()`` does besides holds here too: a closed
or fenced producer, the partition's part in the transaction, the bound on a record's size, the
splitting of a refused batch.

This file knows the inside of kafka-python; gworkers/kafka/versions.py says of which versions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gworkers.errors import RecordTooLargeError
from gworkers.handlers.job import Job, Row
from gworkers.kafka import bootstrapping, green
from gworkers.kafka.protocols import Acknowledged, TopicPartition
from gworkers.kafka.rights import Rights

#: Rows in one batch. Their acknowledgement is dealt with in one go, about 2 µs a row, and must not
#: hold the hub.
MOST_ROWS = 2000

_OVERHEAD = 61 + 21 + 5 + 5 + 5  # batch header, a record's own fields, and the lengths of key, value and headers


def _varint(value: int) -> bytes:
    """A zigzag varint, as Protocol Buffers define it and Kafka's records use it."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT = 4096
_VARINTS = [_varint(number) for number in range(_SHORT)]
_NULL = _varint(-1)


class _RowFuture:
    """What kafka-python rebinds when it splits a batch that the broker refused as too large."""

    __slots__ = ("_acknowledged", "_job", "_row")

    def __init__(self, acknowledged: Acknowledged, job: Job, row: Row) -> None:
        self._acknowledged = acknowledged
        self._job = job
        self._row = row

    def rebind(self, produce_future: Any, index: int) -> None:
        produce_future.add_callback(partial(self._heard, index))

    def _heard(self, index: int, result: tuple[int, int, Callable[[int], BaseException] | None]) -> None:
        errors = result[2]
        self._acknowledged((self._job,), (self._row,), None if errors is None else lambda _: errors(index))


class _Rows:
    """A batch's rows and the job of each; stands where kafka-python keeps a future a record."""

    __slots__ = ("acknowledged", "jobs", "rows")

    def __init__(self, acknowledged: Acknowledged) -> None:
        self.acknowledged = acknowledged
        self.jobs: list[Job] = []
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> _RowFuture:
        return _RowFuture(self.acknowledged, self.jobs[index], self.rows[index])

    def heard(self, result: tuple[int, int, Callable[[int], BaseException] | None]) -> None:
        self.acknowledged(self.jobs, self.rows, result[2])


def _append(records: Any, rows: Sequence[Row], start: int, most: int, now: int) -> int:
    """Write rows from ``start`` into the builder of a batch, as many as fit and at most ``most``;
    returns the index of the first that was not written."""
    builder = records._builder
    buffer: bytearray = builder._buffer
    limit: int = builder._batch_size
    first: int | None = builder._first_timestamp
    latest: int = builder._max_timestamp or 0
    offset: int = records._next_offset
    begun = offset
    varints = _VARINTS
    index = start
    last = min(len(rows), start + most)
    for index in range(start, last):
        _, _, key, value, headers, timestamp = rows[index]
        if timestamp is None or timestamp < 0:
            timestamp = now
        if first is None:
            first = latest = timestamp
        delta = timestamp - first
        size = len(value) if value is not None else -1
        parts = [
            b"\0",
            varints[delta] if 0 <= delta < _SHORT else _varint(delta),
            varints[offset] if offset < _SHORT else _varint(offset),
            _NULL if key is None else varints[len(key)] if len(key) < _SHORT else _varint(len(key)),
            key or b"",
            varints[size] if 0 <= size < _SHORT else _varint(size),
            value or b"",
        ]
        if headers:
            parts.append(_varint(len(headers)))
            for name, content in headers:
                encoded = name.encode("utf-8", "surrogateescape")
                parts += (_varint(len(encoded)), encoded)
                parts += (_NULL,) if content is None else (_varint(len(content)), content)
        else:
            parts.append(b"\0")
        body = b"".join(parts)
        size = len(body)
        if len(buffer) + size + 5 > limit and offset:
            break
        buffer += varints[size] if size < _SHORT else _varint(size)
        buffer += body
        if timestamp > latest:
            latest = timestamp
        offset += 1
    else:
        index = last
    if offset != begun:
        builder._first_timestamp = first
        builder._max_timestamp = latest
        builder._num_records += offset - begun
        builder._last_offset = offset - 1
        records._next_offset = offset
    return index


def row_size(row: Row) -> int:
    """An upper bound of the bytes that ``row`` takes in a batch of its own."""
    _, _, key, value, headers, _ = row
    size = _OVERHEAD + len(key or b"") + len(value or b"")
    for name, content in headers:
        size += 10 + (len(name) if name.isascii() else 4 * len(name)) + len(content or b"")
    return size


def check_size(row: Row, most: int) -> None:
    """Raises RecordTooLargeError when ``row`` is more than the producer may send."""
    size = row_size(row)
    if size > most:
        raise RecordTooLargeError(
            f"the result for {row[0]} has {size} bytes, and max_request_size allows {most}; "
            "return less, or raise kafka.producer.max_request_size and the topic's max.message.bytes"
        )


class KafkaProducerClient:
    """A KafkaProducer that takes blocks of rows: the surface ProducerClient. Used by one greenlet
    at a time.

    1. ``append`` writes rows of one partition into the open batch, or new ones, under the
       partition's lock;
    2. the Sender greenlet is woken once if there is a new or a full batch;
    3. when a batch is acknowledged or refused for good, ``acknowledged`` is called once with its
       jobs.
    """

    def __init__(self, producer: Any, rights: Rights) -> None:
        self.kafka = producer  # for whoever has transactions
        self._rights = rights
        self.max_request_size: int = producer.config["max_request_size"]
        self._accumulator = producer._accumulator
        self._sender = producer._sender
        self._transactions = producer._transaction_manager
        self._batch_type = green.module("kafka.producer.producer_batch").ProducerBatch
        self._builder_type = green.module("kafka.record.memory_records").MemoryRecordsBuilder
        self._closed_error = green.module("kafka.errors").IllegalStateError
        self._murmur2 = green.module("kafka.partitioner.default").murmur2

    def no_right(self, error: BaseException) -> str | None:
        """A sentence and a command for an error that means a right which Kafka does not give this
        client; None for any other."""
        return self._rights.missing(error)

    def partition_of(self, key: bytes, partitions: int) -> int:
        """Where Kafka's own clients send this key."""
        number: int = (self._murmur2(key) & 0x7FFFFFFF) % partitions
        return number

    def partitions_for(self, topic: str) -> int:
        """How many partitions a topic has, 0 while it does not exist. Blocks; raises kafka-python's
        errors."""
        return len(self.kafka.partitions_for(topic) or ())

    def known_partitions(self, topic: str) -> int:
        """How many partitions a topic had when the metadata last came. Never blocks."""
        return len(self.kafka._metadata.partitions_for_topic(topic) or ())

    def watch(self, topic: str) -> None:
        """Keep the metadata of this topic."""
        self._sender.add_topic(topic)

    def discard_unsent(self, error: BaseException) -> None:
        """Fail all batches that are not yet on their way."""
        self._accumulator.abort_undrained_batches(error)

    def discard_partitions(self, topic: str, start: int, error: BaseException) -> None:
        """Fail what is not on its way to the partitions of a topic from number ``start`` on."""
        accumulator = self._accumulator
        for batch in accumulator._incomplete.all():
            tp = batch.topic_partition
            if tp.topic != topic or tp.partition < start:
                continue
            with accumulator._tp_lock(tp):
                waits = not batch.is_done and batch in accumulator._batches[tp]
                if waits:
                    batch.records.close()
                    accumulator._batches[tp].remove(batch)
            if waits:
                batch.abort(error)
                accumulator.deallocate(batch)

    def hold_back(self, may_send: Callable[[], bool], look_again: float) -> None:
        """Keep complete batches back while ``may_send`` says no; it is asked again each
        ``look_again`` seconds."""
        ready = self._accumulator.ready

        def ready_if_allowed(cluster: Any, now: float | None = None) -> Any:
            return ready(cluster, now=now) if may_send() else (set(), look_again, False)

        self._accumulator.ready = ready_if_allowed

    def look_again(self) -> None:
        bootstrapping.look_again(self.kafka._sender._client._manager)

    def close(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for what is out, and close. Blocks."""
        self.kafka.close(timeout=timeout)

    def append(self, tp: TopicPartition, rows: Sequence[Row], jobs: Sequence[Job], acknowledged: Acknowledged) -> None:
        """Rows of one TopicPartition and the job of each, in order; sizes have been checked.

        Raises IllegalStateError when the producer is closed, and a KafkaError when it is fenced or
        its transaction failed.
        """
        accumulator = self._accumulator
        if self.kafka._closed or accumulator._closed:
            raise self._closed_error("the producer is closed")
        transactions = self._transactions
        if transactions is not None:
            if transactions.has_fatal_error():
                raise transactions.last_error
            if transactions.is_transactional():
                transactions.maybe_add_partition_to_transaction(tp)
        wake = False
        accumulator._appends_in_progress.increment()
        try:
            with accumulator._tp_lock(tp):
                now = time.monotonic()
                now_ms = int(time.time() * 1000)
                batches = accumulator._batches[tp]
                at = 0
                batch = batches[-1] if batches else None
                if batch is not None and isinstance(batch._record_futures, _Rows) and not batch.records._closed:
                    at = self._fill(batch, rows, jobs, 0, now_ms)
                    batch.last_append = now
                while at < len(rows):
                    batch = self._open(tp, now, acknowledged)
                    batches.append(batch)
                    accumulator._incomplete.add(batch)
                    at = self._fill(batch, rows, jobs, at, now_ms)
                    wake = True
                if not wake and batch is not None and (len(batches) > 1 or batch.records.is_full()):
                    wake = True
        finally:
            accumulator._appends_in_progress.decrement()
        if wake:
            self._sender.wakeup()

    def _open(self, tp: TopicPartition, now: float, acknowledged: Acknowledged) -> Any:
        config = self._accumulator.config
        records = self._builder_type(config["message_version"], config["compression_attrs"], config["batch_size"])
        batch = self._batch_type(tp, records, now=now)
        futures = _Rows(acknowledged)
        batch._record_futures = futures
        batch.produce_future.add_callback(futures.heard)
        return batch

    @staticmethod
    def _fill(batch: Any, rows: Sequence[Row], jobs: Sequence[Job], start: int, now_ms: int) -> int:
        before = batch.records.size_in_bytes()
        end = _append(batch.records, rows, start, MOST_ROWS - len(batch._record_futures), now_ms)
        if end > start:
            batch._record_futures.jobs += jobs[start:end]
            batch._record_futures.rows += rows[start:end]
            written = batch.records.size_in_bytes() - before
            batch.max_record_size = max(batch.max_record_size, written // (end - start))
        return end
