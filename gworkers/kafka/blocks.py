"""kafka-python's hot paths, taken in blocks: reading records lean, and appending many records to the producer at once.

kafka-python 3 spends 17 µs on ``send()`` of a message (a look-up, an estimate, a future and a metadata object each) and
6 µs on reading one (a generator, a 13-field tuple). Here a block of rows is appended to the open batch of its partition
under one lock with one callback, at about 3 µs a row, and a record is read straight into a Job, at about 3 µs.

This file knows kafka-python's inside; nothing else does. It is written for the versions in ``KNOWN`` and tested against
both ends of that range. With another version ``known()`` is False, and callers use ``poll()`` and ``send()`` as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from gworkers.errors import RecordTooLargeError
from gworkers.kafka import green
from gworkers.message import Headers
from gworkers.pipeline.job import AppendTimeJob, Job, Row

#: kafka-python's versions whose inside this file knows: from the first, up to but without the second.
KNOWN = ((3, 0, 5), (3, 1, 0))

#: Called once for the rows of a batch, or for one row of a batch that had to be split: the jobs, in the order of their rows,
#: and None or a function from the index of a row to its error. Runs on the Sender greenlet and must not block.
Acknowledged = Callable[[Sequence[Job], "Callable[[int], BaseException] | None"], None]

#: Rows in one batch. Their acknowledgement is dealt with in one go, about 2 µs a row, and must not hold the hub.
MOST_ROWS = 2000

_OVERHEAD = 61 + 21 + 5 + 5 + 5  # batch header, a record's own fields, and the lengths of key, value and headers


def version() -> tuple[int, ...]:
    """The installed kafka-python's version as numbers."""
    text: str = green.module("kafka.version").__version__
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def known() -> bool:
    """Whether the installed kafka-python is one this file was written for."""
    return KNOWN[0] <= version() < KNOWN[1]


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


# ---------------------------------------------------------------------------------------------------------- reading


def _read_varint(buffer: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (result >> 1) ^ -(result & 1), at
        shift += 7


#: Records that are read in one go. A batch may hold tens of thousands, and reading those at once would hold the hub for 25 ms and more.
CHUNK = 500


def read_records(batch: Any) -> Iterator[list[Job]]:
    """The records of one batch (magic 2) as Jobs, in order, in lists of CHUNK. Raises CorruptRecordError when the batch is damaged.

    Works on one bytes object for the whole batch: slices of it are the keys and values, without a second copy.
    """
    batch._maybe_uncompress()
    at: int = batch._pos
    buffer = bytes(batch._buffer)
    base_offset: int = batch.base_offset
    base_timestamp: int = batch.first_timestamp
    log_append_time: int | None = batch.max_timestamp if batch.timestamp_type == 1 else None
    make = Job if log_append_time is None else AppendTimeJob
    jobs: list[Job] = []
    append = jobs.append
    try:
        for _ in range(batch.records_count):
            # length
            number = buffer[at]
            at += 1
            if number >= 0x80:
                second = buffer[at]
                if second < 0x80:
                    number = (number & 0x7F) | second << 7
                    at += 1
                else:
                    number, at = _read_varint(buffer, at - 1)
                    number <<= 1
            end = at + (number >> 1)
            start = at
            at += 1  # attributes: unused
            # timestamp delta
            number = buffer[at]
            at += 1
            if number >= 0x80:
                delta, at = _read_varint(buffer, at - 1)
            else:
                delta = (number >> 1) ^ -(number & 1)
            # offset delta
            number = buffer[at]
            at += 1
            if number >= 0x80:
                offset, at = _read_varint(buffer, at - 1)
            else:
                offset = number >> 1
            # key
            number = buffer[at]
            at += 1
            if number >= 0x80:
                length, at = _read_varint(buffer, at - 1)
            else:
                length = (number >> 1) ^ -(number & 1)
            if length >= 0:
                key: bytes | None = buffer[at : at + length]
                at += length
            else:
                key = None
            # value
            number = buffer[at]
            at += 1
            if number >= 0x80:
                length, at = _read_varint(buffer, at - 1)
            else:
                length = (number >> 1) ^ -(number & 1)
            if length >= 0:
                value: bytes | None = buffer[at : at + length]
                at += length
            else:
                value = None
            # headers
            headers: Headers = ()
            number = buffer[at]
            at += 1
            if number:
                count, at = _read_varint(buffer, at - 1)
                found = []
                for _ in range(count):
                    length, at = _read_varint(buffer, at)
                    name = buffer[at : at + length].decode()
                    at += length
                    length, at = _read_varint(buffer, at)
                    found.append((name, buffer[at : at + length] if length >= 0 else None))
                    at += max(length, 0)
                headers = found
            if at != end:
                raise ValueError(f"a record says it has {end - start} bytes and has {at - start}")
            timestamp = base_timestamp + delta if log_append_time is None else log_append_time
            append(make(base_offset + offset, timestamp, key, value, headers, end - start))
            if len(jobs) == CHUNK:
                yield jobs
                jobs = []
                append = jobs.append
        if at != len(buffer):
            raise ValueError(f"{len(buffer) - at} bytes are left over after the last record")
    except (IndexError, ValueError) as error:
        raise green.module("kafka.errors").CorruptRecordError(f"damaged batch at offset {base_offset}: {error}") from error
    yield jobs


def read_lean(consumer: Any) -> None:
    """Make this KafkaConsumer's ``poll()`` return Jobs in place of ConsumerRecords."""
    fetcher = consumer._fetcher
    base = type(fetcher).PartitionRecords
    errors = green.module("kafka.errors")
    committed = green.module("kafka.consumer.fetcher").IsolationLevel.READ_COMMITTED

    class LeanPartitionRecords(base):  # type: ignore[misc, valid-type]
        """Records of one partition of one fetch response, batch by batch, as Jobs."""

        def _unpack_records(self, tp: Any, records: Any, key_deserializer: Any, value_deserializer: Any) -> Any:
            batch = records.next_batch()
            while batch is not None:
                if self.check_crcs and not batch.validate_crc():
                    raise errors.CorruptRecordError(f"{tp.topic}[{tp.partition}]: the batch at offset {batch.base_offset} is damaged")
                if batch.magic < 2:
                    yield from self._old_records(batch)
                else:
                    self.leader_epoch = batch.leader_epoch
                    if not self._aborted(batch) and not batch.is_control_batch:
                        for jobs in read_records(batch):
                            for job in jobs:
                                self.records_read += 1
                                self.bytes_read += job.size
                                self.next_fetch_offset = job.offset + 1
                                yield job
                    self.next_fetch_offset = batch.next_offset  # compaction may have removed the last records
                batch = records.next_batch()
            self.drain()

        def _old_records(self, batch: Any) -> Any:
            """Records written before Kafka 0.11, without headers."""
            for record in batch:
                if self.check_crcs and not record.validate_crc():
                    raise errors.CorruptRecordError(f"the record at offset {record.offset} is damaged")
                self.next_fetch_offset = record.offset + 1
                size = len(record.key or b"") + len(record.value or b"")
                yield Job(record.offset, record.timestamp or -1, record.key, record.value, (), size)

        def _aborted(self, batch: Any) -> bool:
            """Whether a read_committed reader must not see this batch (KIP-98)."""
            if self.isolation_level != committed or not batch.has_producer_id():
                return False
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
                return False
            return bool(self._is_batch_aborted(batch))

    fetcher.PartitionRecords = LeanPartitionRecords


# -------------------------------------------------------------------------------------------------------- producing


class _RowFuture:
    """What kafka-python rebinds when it splits a batch that the broker refused as too large."""

    __slots__ = ("_acknowledged", "_job")

    def __init__(self, acknowledged: Acknowledged, job: Job) -> None:
        self._acknowledged = acknowledged
        self._job = job

    def rebind(self, produce_future: Any, index: int) -> None:
        produce_future.add_callback(partial(self._settle, index))

    def _settle(self, index: int, result: tuple[int, int, Callable[[int], BaseException] | None]) -> None:
        errors = result[2]
        self._acknowledged((self._job,), None if errors is None else lambda _: errors(index))


class _Rows(list[Job]):
    """A batch's jobs, row by row; stands where kafka-python keeps a future a record."""

    __slots__ = ("acknowledged",)

    def __init__(self, acknowledged: Acknowledged) -> None:
        self.acknowledged = acknowledged

    def __getitem__(self, index: Any) -> Any:
        return _RowFuture(self.acknowledged, super().__getitem__(index))

    def settle(self, result: tuple[int, int, Callable[[int], BaseException] | None]) -> None:
        self.acknowledged(self, result[2])


def _append(records: Any, rows: Sequence[Row], start: int, most: int, now: int) -> int:
    """Write rows from ``start`` into the builder of a batch, as many as fit and at most ``most``; returns the index of the first that
    was not written."""
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
                encoded = name.encode()
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
        size += 10 + 4 * len(name) + len(content or b"")
    return size


def check_size(row: Row, most: int) -> None:
    """Raises RecordTooLargeError when ``row`` is more than the producer may send."""
    size = row_size(row)
    if size > most:
        raise RecordTooLargeError(
            f"the result for {row[0]} has {size} bytes, and max_request_size allows {most}; "
            "return less, or raise kafka.producer.max_request_size and the topic's max.message.bytes"
        )


class BlockProducer:
    """Appends blocks of rows to a KafkaProducer. Used by one greenlet at a time.

    1. ``append`` writes rows of one partition into the open batch, or new ones, under the partition's lock;
    2. the Sender greenlet is woken once if there is a new or a full batch;
    3. when a batch is acknowledged or refused for good, ``acknowledged`` is called once with its jobs.
    """

    def __init__(self, producer: Any, acknowledged: Acknowledged) -> None:
        self._producer = producer
        self._accumulator = producer._accumulator
        self._sender = producer._sender
        self._acknowledged = acknowledged
        self._transactions = producer._transaction_manager
        self._batch_type = green.module("kafka.producer.producer_batch").ProducerBatch
        self._builder_type = green.module("kafka.record.memory_records").MemoryRecordsBuilder
        self._closed_error = green.module("kafka.errors").IllegalStateError

    def append(self, tp: Any, rows: Sequence[Row], jobs: Sequence[Job]) -> None:
        """Rows of one TopicPartition and the job of each, in order; sizes have been checked.

        Raises IllegalStateError when the producer is closed, and a KafkaError when it is fenced or its transaction failed.
        """
        accumulator = self._accumulator
        if self._producer._closed or accumulator._closed:
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
                    batch = self._open(tp, now)
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

    def _open(self, tp: Any, now: float) -> Any:
        config = self._accumulator.config
        records = self._builder_type(config["message_version"], config["compression_attrs"], config["batch_size"])
        batch = self._batch_type(tp, records, now=now)
        futures = _Rows(self._acknowledged)
        batch._record_futures = futures
        batch.produce_future.add_callback(futures.settle)
        return batch

    @staticmethod
    def _fill(batch: Any, rows: Sequence[Row], jobs: Sequence[Job], start: int, now_ms: int) -> int:
        before = batch.records.size_in_bytes()
        end = _append(batch.records, rows, start, MOST_ROWS - len(batch._record_futures), now_ms)
        if end > start:
            batch._record_futures.extend(jobs[start:end])
            written = batch.records.size_in_bytes() - before
            batch.max_record_size = max(batch.max_record_size, written // (end - start))
        return end
