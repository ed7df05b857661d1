"""Who may read on, and how much."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gworkers.handlers.partition import Partition
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.shares import Shares
from tests.support.jobs import partition_of


def partitions_of(count: int) -> list[Partition]:
    return [partition_of(number=number) for number in range(count)]


def read(buffer: Ledger, partition: Partition, count: int, size: int = 100) -> None:
    partition.waiting += count
    partition.buffered += count * size
    buffer.messages += count
    buffer.bytes += count * size


def test_a_lone_busy_partition_gets_more_than_its_share_and_leaves_the_others_theirs() -> None:
    buffer = Ledger(10_000, 2**40)
    shares, partitions = Shares(buffer), partitions_of(4)
    while True:
        most = shares.decide(partitions, 1000)
        if partitions[0].paused:
            break
        read(buffer, partitions[0], most)
    assert 5_900 < partitions[0].waiting <= 6_250
    assert [partition.paused for partition in partitions] == [True, False, False, False]


@settings(deadline=None, max_examples=200)
@given(st.integers(8, 20_000), st.integers(1, 40), st.integers(0, 39))
def test_partitions_that_are_stuck_never_starve_another(messages: int, count: int, lucky: int) -> None:
    """All but one are stuck for ever and read whenever they may; the last one can still read."""
    buffer = Ledger(messages, 2**40)
    shares, partitions = Shares(buffer), partitions_of(count)
    lucky %= count
    for _ in range(10_000):
        most = shares.decide(partitions, 1000)
        greedy = [partition for partition in partitions if not partition.paused and partition.number != lucky]
        if not greedy or not most:
            break
        read(buffer, greedy[0], most)
    else:
        raise AssertionError("they read on for ever")
    assert buffer.messages <= messages
    if messages >= 4 * count:
        assert not partitions[lucky].paused


def test_a_message_larger_than_any_share_is_read_all_the_same() -> None:
    buffer = Ledger(1000, 1_000_000)
    shares, partitions = Shares(buffer), partitions_of(10)
    shares.measured(1, 900_000)
    assert shares.decide(partitions, 1000) >= 1
    assert not any(partition.paused for partition in partitions)


def test_large_messages_are_read_a_few_at_a_time() -> None:
    buffer = Ledger(10_000, 10_000_000)
    shares, partitions = Shares(buffer), partitions_of(2)
    for _ in range(30):
        shares.measured(1, 1_000_000)
    assert 1 <= shares.decide(partitions, 1000) <= 10


def test_when_the_bytes_are_used_up_everybody_waits_until_a_quarter_is_free() -> None:
    buffer = Ledger(10_000, 1000)
    shares, partitions = Shares(buffer), partitions_of(2)
    read(buffer, partitions[0], 10)
    assert shares.decide(partitions, 1000) == 0
    buffer.bytes = 800
    assert shares.decide(partitions, 1000) == 0
    buffer.bytes = 700
    assert shares.decide(partitions, 1000) > 0


def test_a_partition_whose_map_would_not_fit_waits_alone() -> None:
    buffer = Ledger(100_000, 2**40)
    shares, partitions = Shares(buffer), partitions_of(2)
    for offset in range(70_000):
        partitions[0].offsets.begin(offset)
        if offset % 2:
            partitions[0].offsets.finish(offset)
    shares.decide(partitions, 1000)
    assert [partition.paused for partition in partitions] == [True, False]
    for offset in range(0, 69_000, 2):
        partitions[0].offsets.finish(offset)
    shares.decide(partitions, 1000)
    assert [partition.paused for partition in partitions] == [False, False]
