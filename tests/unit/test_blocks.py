"""kafka-python's hot paths taken in blocks, against kafka-python's own."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gworkers.errors import RecordTooLargeError, UnavailableError
from gworkers.handlers.job import Job
from gworkers.kafka import green, producing, reading, versions

headers = st.lists(st.tuples(st.text(max_size=5), st.one_of(st.none(), st.binary(max_size=5))), max_size=3)
rows = st.tuples(
    st.just("t"),
    st.none(),
    st.one_of(st.none(), st.binary(max_size=80), st.just(b"k" * 5000)),
    st.one_of(st.none(), st.binary(max_size=300), st.just(b"v" * 5000)),
    headers,
    st.one_of(st.none(), st.integers(0, 2**41), st.just(-1)),
)
NOW = 1_700_000_000_000


def builder(compression: int = 0, size: int = 2**20) -> Any:
    return green.module("kafka.record.memory_records").MemoryRecordsBuilder(2, compression, size)


def read(batch: Any) -> list[Job]:
    return [job for jobs in reading.read_records(batch) for job in jobs]


def batch_of(records: Any) -> Any:
    records.close()
    return green.module("kafka.record.memory_records").MemoryRecords(bytes(records.buffer())).next_batch()


@settings(deadline=None, max_examples=200)
@given(st.lists(rows, min_size=1, max_size=20), st.sampled_from([0, 1, 3]))
def test_a_block_is_the_bytes_that_kafka_python_would_have_written(some: list[Any], compression: int) -> None:
    ours, theirs = builder(compression), builder(compression)
    assert producing._append(ours, some, 0, 99, NOW) == len(some)
    for _, _, key, value, found, timestamp in some:
        theirs.append(NOW if timestamp is None or timestamp < 0 else timestamp, key, value, found)
    assert ours.next_offset if hasattr(ours, "next_offset") else ours._next_offset == len(some)
    with mock.patch("gzip.time.time", return_value=0.0):  # gzip writes the second in which it packs
        ours.close()
        theirs.close()
    assert bytes(ours.buffer()) == bytes(theirs.buffer())


@settings(deadline=None, max_examples=200)
@given(st.lists(rows, min_size=1, max_size=20), st.sampled_from([0, 1, 3]))
def test_a_batch_is_read_as_kafka_python_reads_it(some: list[Any], compression: int) -> None:
    records = builder(compression)
    producing._append(records, some, 0, 99, NOW)
    data = batch_of(records)
    jobs = read(data)
    records = builder(compression)
    producing._append(records, some, 0, 99, NOW)
    theirs = list(batch_of(records))
    assert [(j.offset, j.timestamp, j.key, j.value, list(j.headers)) for j in jobs] == [
        (r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in theirs
    ]


@settings(deadline=None, max_examples=300)
@given(st.lists(rows, min_size=1, max_size=5), st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_batch_is_an_error_and_never_a_wrong_message_without_end(some: list[Any], where: int, byte: int) -> None:
    """What the checksum would have caught must not hang or crash when it is switched off."""
    records = builder()
    producing._append(records, some, 0, 99, NOW)
    records.close()
    raw = bytearray(records.buffer())
    raw[61 + where % (len(raw) - 61)] = byte
    batch = green.module("kafka.record.memory_records").MemoryRecords(bytes(raw)).next_batch()
    try:
        assert len(read(batch)) == len(some)
    except green.module("kafka.errors").CorruptRecordError as error:
        assert "damaged batch at offset 0" in str(error)  # noqa: PT017


def test_a_full_batch_takes_no_more_and_says_where_it_stopped() -> None:
    records = builder(size=1000)
    some: list[Any] = [("t", None, None, b"x" * 300, [], NOW)] * 10
    assert producing._append(records, some, 0, 99, NOW) == 3
    assert len(read(batch_of(records))) == 3


def test_a_row_larger_than_a_batch_gets_a_batch_of_its_own() -> None:
    records = builder(size=1000)
    some: list[Any] = [("t", None, None, b"x" * 3000, [], NOW)] * 2
    assert producing._append(records, some, 0, 99, NOW) == 1


@given(rows)
def test_the_size_is_never_estimated_too_small(row: Any) -> None:
    records = builder()
    producing._append(records, [row], 0, 99, NOW)
    records.close()
    assert len(records.buffer()) <= producing.row_size(row)


def test_a_row_larger_than_allowed_is_refused_with_what_to_do() -> None:
    with pytest.raises(RecordTooLargeError, match="max_request_size allows 1000; return less, or raise"):
        producing.check_size(("t", None, None, b"x" * 2000, [], None), 1000)


def test_the_installed_version_is_one_that_is_known() -> None:
    versions.check()


def test_another_version_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("3.1.0", "3.0.8", "2.2.0"):
        monkeypatch.setattr(versions, "installed", lambda version=version: version)
        with pytest.raises(UnavailableError, match=rf"kafka-python {version} is installed, .* 3\.0\.9 up to but without 3\.1\.0; install"):
            versions.check()


@pytest.mark.parametrize("count", [-1, 4, 1_000_000, 2**31 - 1])
def test_a_record_that_lies_about_its_headers_is_damaged_and_costs_no_time(count: int) -> None:
    records = builder()
    producing._append(records, [("t", None, b"k", b"v", [("h", b"")], NOW)], 0, 99, NOW)
    batch = batch_of(records)
    whole = bytes(batch._buffer)
    assert whole.endswith(b"\x02\x02h\x00")  # one header, its name, and no content
    lie = (count << 1) ^ (count >> 31)
    varint = bytearray()
    while lie >= 0x80:
        varint.append(lie & 0x7F | 0x80)
        lie >>= 7
    batch._buffer = whole[:-4] + bytes((*varint, lie)) + whole[-3:]
    with pytest.raises(green.module("kafka.errors").CorruptRecordError):
        read(batch)
