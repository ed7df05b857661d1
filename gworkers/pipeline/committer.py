"""The committer: writes progress back to Kafka, every ``commit.interval``, at a revocation and at the stop.

What is committed is the lowest unfinished offset of each partition that has moved, and with it, in the commit's metadata, what is finished
beyond it (gworkers.pipeline.offset_map). A commit that fails is made up for by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import gevent

from gworkers.kafka import green
from gworkers.pipeline.dead_letters import one_line
from gworkers.pipeline.partition import Partition
from gworkers.pipeline.stats import Stats

log = logging.getLogger(__name__)

#: What one commit is to be: kafka-python's OffsetAndMetadata by TopicPartition, and how far each partition had got when it was made.
Commit = tuple[dict[Any, Any], list[tuple[Partition, int]]]


class Committer:
    """On the hub. ``partitions`` is the consumer's own dictionary of what is assigned."""

    def __init__(self, client: Any, partitions: dict[Any, Partition], stats: Stats, *, interval: float, with_map: bool) -> None:
        self._client = client
        self._partitions = partitions
        self._stats = stats
        self._interval = interval
        self._with_map = with_map

    def run(self) -> None:
        """Commit now and then, for ever: a greenlet of its own."""
        while True:
            gevent.sleep(self._interval)
            self.commit(30.0)

    def commit(self, timeout: float) -> bool:
        """Commit what has moved. Blocks; True when the group knows all of it."""
        made = self.make(self._partitions.values())
        if not made[0]:
            return True
        try:
            self._client.commit(made[0], timeout_ms=int(timeout * 1000))
        except Exception as error:
            self.failed(error)
            return False
        self.succeeded(made)
        return True

    async def commit_revoked(self, partitions: Iterable[Partition]) -> Exception | None:
        """Commit from inside a rebalance, where ``commit`` would block; what stood in the way, or None."""
        for _ in range(2):
            made = self.make(partitions)
            if not made[0]:
                return None
            try:
                await self._client._coordinator._commit_offsets_sync_async(made[0], timeout_ms=5000)
            except Exception as error:
                if self.failed(error):
                    continue
                return error
            self.succeeded(made)
            return None
        return None

    def make(self, partitions: Iterable[Partition]) -> Commit:
        structs = green.module("kafka.structs")
        offsets: dict[Any, Any] = {}
        reached: list[tuple[Partition, int]] = []
        for partition in partitions:
            found = partition.offsets
            position = found.position
            if position is None or not partition.active or partition.committed == found.changes:
                continue
            metadata, whole = found.metadata() if self._with_map else ("", True)
            if not whole:
                log.debug("%s: what is finished far ahead does not fit into the commit", partition.name)
            offsets[structs.TopicPartition(partition.topic, partition.number)] = structs.OffsetAndMetadata(position, metadata, -1)
            reached.append((partition, found.changes))
        return offsets, reached

    def succeeded(self, made: Commit) -> None:
        self._stats.commits += 1
        for partition, changes in made[1]:
            partition.committed = changes

    def failed(self, error: Exception) -> bool:
        """True when it can be tried again at once, in another way."""
        if type(error).__name__ == "OffsetMetadataTooLargeError" and self._with_map:
            self._with_map = False
            log.warning(
                "the broker takes less metadata with a commit than the map of finished offsets needs; it is left out from now on, "
                "and after a crash more messages come twice; raise the broker's offset.metadata.max.bytes to 4096"
            )
            return True
        # A rebalance, or no broker: what is not committed now is committed next time, or at the revocation.
        log.debug("a commit failed and will be repeated: %s", one_line(error))
        return False
