"""Whatever stands in a fetched batch, reading it ends, with its records or with an error."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from gworkers.kafka import green, producing, reading

errors = green.module("kafka.errors")
ROWS: list[Any] = [("t", None, b"k", b"v" * 50, [], 1_700_000_000_000)] * 10


def batch(compression: int = 0) -> bytearray:
    records = green.module("kafka.record.memory_records").MemoryRecordsBuilder(2, compression, 2**20)
    producing._append(records, ROWS, 0, 99, 0)
    records.close()
    return bytearray(records.buffer())


def with_checksum(raw: bytearray) -> bytearray:
    """The batch with the checksum of what stands in it now."""
    crc = green.module("kafka.record.util").calc_crc32c(bytes(raw[21:]))
    raw[17:21] = struct.pack(">I", crc)
    return raw


def partition_records(raw: bytearray, check_crcs: bool = True) -> Any:
    """What kafka-python's fetcher makes of a fetch response, as this process has it."""
    fetcher_class = green.module("kafka.consumer.fetcher").Fetcher
    consumer = SimpleNamespace(_fetcher=type("F", (), {"PartitionRecords": fetcher_class.PartitionRecords})())
    reading.read_lean(consumer)
    tp = green.module("kafka.structs").TopicPartition("t", 0)
    records = green.module("kafka.record.memory_records").MemoryRecords(bytes(raw))
    return consumer._fetcher.PartitionRecords(0, tp, records, check_crcs=check_crcs)


def changed(at: int, value: bytes, raw: bytearray) -> bytearray:
    raw[at : at + len(value)] = value
    return raw


def test_a_good_batch_is_read_to_its_end() -> None:
    found = partition_records(batch() + changed(0, struct.pack(">q", 10), batch()))
    assert [job.offset for job in found.take(15)] == list(range(15))
    assert [job.offset for job in found.take(15)] == list(range(15, 20))
    assert not found


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (changed(100, b"\xff", batch()), "CorruptRecordError"),  # the checksum does not hold
        (changed(16, b"\x07", batch()), "CorruptRecordError"),  # a magic byte of the future
        (with_checksum(changed(21, b"\x00\x07", batch())), "UnsupportedCodecError"),  # a codec of the future
        (with_checksum(changed(70, b"\x00" * 20, batch(1))), "CorruptRecordError"),  # gzip with a hole
        (with_checksum(changed(70, b"\x00" * 20, batch(2))), "CorruptRecordError"),  # snappy
        (with_checksum(changed(70, b"\x00" * 9, batch(3))), "CorruptRecordError"),  # lz4
        (with_checksum(changed(65, b"\x00" * 9, batch(4))), "CorruptRecordError"),  # zstd
        (with_checksum(changed(57, struct.pack(">i", 1000), batch())), "CorruptRecordError"),  # more records than there are
        (with_checksum(changed(57, struct.pack(">i", 3), batch())), "CorruptRecordError"),  # fewer
        (with_checksum(changed(61, b"\xff" * 9, batch())), "CorruptRecordError"),  # a length without end
    ],
    ids=["checksum", "magic", "codec", "gzip", "snappy", "lz4", "zstd", "more", "fewer", "length"],
)
def test_a_bad_batch_is_an_error_once_and_then_nothing_is_left_of_it(raw: bytearray, error: str) -> None:
    found = partition_records(raw)
    jobs: list[Any] = []

    def take_all() -> None:
        for _ in range(10):
            jobs.extend(found.take(4))

    with pytest.raises(getattr(errors, error)):
        take_all()
    assert not found, "it would be asked again without end"
    assert len(jobs) <= 10


def test_the_records_before_a_bad_batch_come_first() -> None:
    found = partition_records(batch() + changed(100, b"\xff", changed(0, struct.pack(">q", 10), batch())))
    assert len(found.take(500)) == 10
    with pytest.raises(errors.CorruptRecordError):
        found.take(500)
    assert not found
