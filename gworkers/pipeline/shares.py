"""Which partitions may be read from, so that no partition, key or route takes the buffer from the
others. Pure.

Half of the buffer is divided evenly: each partition may always fill its share of that half, so one
that is stuck (a slow key, a partition in order behind a slow message) cannot starve another. The
other half goes to whoever fills it first, so that one busy partition among idle ones is not slowed
down. A partition that may not read on is paused until there is room for two chunks, so that reads
stay large. What a partition is charged for is what waits; what runs has got its worker already and
is bounded by the buffer as a whole.

A key that floods its partition holds back what comes behind it in the same partition once the
partition's share is full, and nothing else: Kafka hands out a partition in order, and a bounded
buffer cannot look past more than it holds.
"""

from __future__ import annotations

from collections.abc import Collection

from gworkers.handlers.partition import Partition
from gworkers.pipeline.ledger import Ledger

#: The messages that a read should bring at least, where the buffer is large enough.
READ_AT_LEAST = 256


class Shares:
    """Decides, before each poll, which partitions are paused; ``paused`` of each Partition is the
    decision."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._full = False
        self._size = 1024.0  # bytes of a message, smoothed: what one read may bring

    def measured(self, count: int, size: int) -> None:
        """Note that ``count`` messages were read and took ``size`` bytes."""
        self._size += 0.2 * (size / count - self._size)

    def decide(self, partitions: Collection[Partition], most: int) -> int:
        """Set ``paused`` of each partition. Returns how many messages the next poll may bring, 0
        when all are paused; ``most`` at most."""
        ledger = self._ledger
        self._full = not ledger.low if self._full else not ledger.room
        if not partitions:  # the next poll may bring some, and their first messages
            return max(1, min(most, ledger.max_messages // 8))
        if self._full:
            for partition in partitions:
                partition.paused = True
            return 0
        count = len(partitions)
        own, own_bytes = max(1, ledger.max_messages // (2 * count)), max(1, ledger.max_bytes // (2 * count))
        shared = ledger.max_messages // 2 - sum(max(0, p.waiting - own) for p in partitions)
        shared_bytes = ledger.max_bytes // 2 - sum(max(0, p.buffered - own_bytes) for p in partitions)
        chunk = min(READ_AT_LEAST, own)
        allowed = min(most, ledger.room, max(1, int((ledger.max_bytes - ledger.bytes) / self._size)))
        free = False
        for partition in partitions:
            headroom = max(0, own - partition.waiting) + max(0, shared)
            over = partition.waiting > 0 and partition.buffered >= own_bytes and shared_bytes <= 0
            wanted = min(2 * chunk, own) if partition.paused else chunk
            partition.paused = partition.closing or over or headroom < wanted or partition.offsets.crowded(most)
            if not partition.paused:
                free = True
                allowed = min(allowed, headroom)
        return max(1, allowed) if free else 0
