"""Reading kafka-python's record batches lean: a record becomes a Job at about 3 µs, where
kafka-python's generator and 13-field tuple cost 6.

This file knows the inside of kafka-python; gworkers/kafka/versions.py says of which versions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from gworkers.handlers.job import AppendTimeJob, Job
from gworkers.kafka import green
from gworkers.kafka.errors import OversizedBatchError
from gworkers.kafka.leader_epochs import LeaderEpochs
from gworkers.kafka.unpacking import TooLargeError, unpack
from gworkers.message import Headers


def _read_varint(buffer: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (result >> 1) ^ -(result & 1), at
        shift += 7


log = logging.getLogger(__name__)

#: What one batch may unpack to, in bytes, where nobody says anything else.
MOST_BYTES = 256 * 2**20

#: Records that are read in one go. A batch may hold tens of thousands, and reading those at once
#: would hold the hub for 25 ms and more.
READ_AT_ONCE = 500


def read_records(batch: Any, most: int = MOST_BYTES) -> Iterator[list[Job]]:
    """The records of one batch (magic 2) as Jobs, in order, in lists of READ_AT_ONCE. Raises
    CorruptRecordError when the batch is damaged, TooLargeError when it unpacks to more than ``most``
    bytes.

    Works on one bytes object for the whole batch: slices of it are the keys and values, without a
    second copy.
    """
    _uncompress(batch, most)
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
                if not 0 <= 2 * count <= end - at <= len(buffer) - at:  # each takes two bytes at least
                    raise ValueError(f"a record of {end - start} bytes says it has {count} headers")
                found = []
                for _ in range(count):
                    length, at = _read_varint(buffer, at)
                    if length < 0:
                        raise ValueError("the name of a header has a length below 0")
                    name = buffer[at : at + length].decode("utf-8", "surrogateescape")  # back to these bytes when it is sent
                    at += length
                    length, at = _read_varint(buffer, at)
                    found.append((name, buffer[at : at + length] if length >= 0 else None))
                    at += max(length, 0)
                headers = found
            if at != end:
                raise ValueError(f"a record says it has {end - start} bytes and has {at - start}")
            timestamp = base_timestamp + delta if log_append_time is None else log_append_time
            append(make(base_offset + offset, timestamp, key, value, headers, end - start))
            if len(jobs) == READ_AT_ONCE:
                yield jobs
                jobs = []
                append = jobs.append
        if at != len(buffer):
            raise ValueError(f"{len(buffer) - at} bytes are left over after the last record")
    except (IndexError, ValueError) as error:
        raise green.module("kafka.errors").CorruptRecordError(f"damaged batch at offset {base_offset}: {error}") from error
    yield jobs


def _uncompress(batch: Any, most: int) -> None:
    """Raises CorruptRecordError when what stands in the batch is not what its codec makes,
    TooLargeError, and UnsupportedCodecError when the codec's library is not installed."""
    errors = green.module("kafka.errors")
    codec = batch.compression_type
    if batch._decompressed or not codec:
        batch._decompressed = True
        return
    batch._assert_has_codec(codec)
    try:
        batch._buffer, batch._pos = unpack(codec, bytes(memoryview(batch._buffer)[batch._pos :]), most), 0
        batch._decompressed = True
    except TooLargeError:
        raise
    except Exception as error:  # each codec's library has errors of its own
        told = f"the batch at offset {batch.base_offset} cannot be uncompressed: {type(error).__name__}: {error}"
        raise errors.CorruptRecordError(told) from error


def read_lean(consumer: Any, most: int = MOST_BYTES, *, skip: bool = False, epochs: LeaderEpochs | None = None) -> None:
    """Make this KafkaConsumer's ``poll()`` return Jobs in place of ConsumerRecords, and tell
    ``epochs`` what was read. A batch that unpacks to more than ``most`` bytes is passed over
    (``skip``), or ``poll()`` raises OversizedBatchError."""
    note_epoch = (epochs or LeaderEpochs()).read
    fetcher = consumer._fetcher
    base = type(fetcher).PartitionRecords
    errors = green.module("kafka.errors")
    committed = green.module("kafka.consumer.fetcher").IsolationLevel.READ_COMMITTED

    class LeanPartitionRecords(base):  # type: ignore[misc, valid-type]
        """Records of one partition of one fetch response, batch by batch, as Jobs."""

        def take(self, n: int | None = None) -> Any:
            """kafka-python asks again after an error, gets nothing, and asks without end: so what is
            left is dropped, and the next poll fetches it once more."""
            try:
                return super().take(n)
            except (errors.KafkaError, OversizedBatchError):
                self.drain()
                raise
            except Exception as error:
                self.drain()
                tp = self.topic_partition
                told = f"{tp.topic}[{tp.partition}] cannot be read at offset {self.next_fetch_offset}: {type(error).__name__}: {error}"
                raise errors.CorruptRecordError(told) from error

        def _unpack_records(self, tp: Any, records: Any, key_deserializer: Any, value_deserializer: Any) -> Any:
            batch = records.next_batch()
            while batch is not None:
                if self.check_crcs and not batch.validate_crc():
                    raise errors.CorruptRecordError(f"{tp.topic}[{tp.partition}]: the batch at offset {batch.base_offset} is damaged")
                if batch.magic < 2:
                    yield from self._old_records(batch)
                else:
                    self.leader_epoch = batch.leader_epoch
                    note_epoch(tp, batch.base_offset, batch.leader_epoch)
                    if not self._aborted(batch) and not batch.is_control_batch:
                        try:
                            for jobs in read_records(batch, most):
                                for job in jobs:
                                    self.records_read += 1
                                    self.bytes_read += job.size
                                    self.next_fetch_offset = job.offset + 1
                                    yield job
                        except TooLargeError:
                            span = batch.base_offset, batch.last_offset
                            error = OversizedBatchError(tp.topic, tp.partition, *span, len(batch._buffer), most)
                            if not skip:
                                raise error from None
                            log.error("%s; it is passed over, as buffer.oversized says", error)
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
