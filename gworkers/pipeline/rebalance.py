"""Partitions that come and go, on kafka-python's I/O greenlet, while ``poll()`` is blocked.

- revoked: they are to go to another member. Of them nothing new is begun, what runs may finish for ``rebalance.grace``, what is finished
  is committed with its map, and the rest is fenced.
- lost: they have gone already. They are fenced at once; nothing can be committed, and results not yet on their way are dropped.
- assigned: they have come. Where to begin, and what is finished already beyond it, is read from the group's commit.

Each assignment is a Partition object of its own; what becomes of the jobs of a fenced one changes nothing. Draining never needs the
semaphore that guards ``poll()``. Partitions that stay are not touched.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from gworkers.kafka import green
from gworkers.pipeline import offset_map
from gworkers.pipeline.committer import Committer
from gworkers.pipeline.dead_letters import one_line
from gworkers.pipeline.partition import Partition
from gworkers.pipeline.routes import Route

log = logging.getLogger(__name__)

#: How often the commits of the group are asked for before partitions begin without them, each for so many milliseconds.
ASKED = 4
ASK_MS = 10_000


class Rebalance:
    """See the head of this file. ``partitions`` is the consumer's own dictionary, by kafka-python's TopicPartition."""

    def __init__(
        self,
        client: Any,
        routes: list[Route],
        partitions: dict[Any, Partition],
        committer: Committer,
        *,
        grace: float,
        withdraw: Callable[[Partition], None],
        fence: Callable[[Partition], None],
        lost: Callable[[], None],
        arrived: Callable[[list[Partition]], None],
        must_know: bool,
    ) -> None:
        self._client = client
        self._routes = routes
        self._partitions = partitions
        self._committer = committer
        self._withdraw = withdraw
        self._fence = fence
        self._after_loss = lost
        self._arrived = arrived
        self._must_know = must_know  # nothing begins before it is known what the group has committed
        self._foreign: set[str] = set()  # what has been said about metadata
        self.grace = grace

    async def revoked(self, tps: Iterable[Any]) -> None:
        partitions = self._ours(tps)
        for partition in partitions:
            self._withdraw(partition)
        deadline = time.monotonic() + self.grace
        while any(partition.in_flight for partition in partitions) and time.monotonic() < deadline:
            await self._client._net.sleep(0.01)
        error = await self._committer.commit_revoked(partitions)
        if error is not None:
            log.warning("revoked partitions could not be committed, some messages may come twice: %s", one_line(error))
        left = sum(partition.in_flight for partition in partitions)
        self._let_go(partitions)
        if partitions:
            log.info("revoked: %s%s", names(partitions), f"; {left} messages were still running" if left else "")

    async def lost(self, tps: Iterable[Any]) -> None:
        partitions = self._ours(tps)
        left = sum(partition.in_flight for partition in partitions)
        self._let_go(partitions)
        self._after_loss()
        if partitions:
            told = f"; {left} messages were running" if left else ""
            log.warning("lost, because Kafka did not hear from this process in time: %s%s", names(partitions), told)

    async def assigned(self, tps: Iterable[Any]) -> None:
        tps = [tp for tp in tps if tp not in self._partitions]
        committed = await self._committed(set(tps)) if tps else {}
        added = []
        for tp in tps:
            route = next((route for route in self._routes if route.consumes(tp.topic)), None)
            if route is None:
                continue
            self._partitions[tp] = partition = Partition(tp.topic, tp.partition, route, delay=route.delay_of(tp.topic))
            found = committed.get(tp)
            if found is not None and found.offset >= 0:
                self._begin_at(partition, found.offset, found.metadata)
            added.append(partition)
        if added:
            self._arrived(added)
            log.info("assigned: %s", names(added))

    def _begin_at(self, partition: Partition, offset: int, metadata: str) -> None:
        offsets = partition.offsets
        offsets.next = offsets.end = offset
        partition.committed = offsets.changes
        try:
            found = offset_map.decode(offset, metadata)
        except offset_map.ForeignMetadataError as error:
            if partition.name not in self._foreign:
                self._foreign.add(partition.name)
                log.warning(
                    "the group's commit for %s carries metadata that is no map of finished offsets (%s); "
                    "it begins at %d with nothing known beyond it",
                    partition.name,
                    error,
                    offset,
                )
            return
        if found is not None:
            offsets.restore(found)
            ahead = found.end - offset - len(found.unfinished)
            log.info("%s begins at %d; %d messages beyond it are finished already and do not run again", partition.name, offset, ahead)

    async def _committed(self, tps: set[Any]) -> dict[Any, Any]:
        """What the group has committed. Asked for several times: without it finished messages would run again. With exactly-once it
        is asked for until it is known; the transaction of a process that died may hold it back for its time-out."""
        for attempt in itertools.count(1):
            try:
                found: dict[Any, Any] = await self._client._coordinator.fetch_committed_offsets_async(tps, timeout_ms=ASK_MS)
                return found
            except Exception as error:
                if self._must_know:
                    level = logging.WARNING if attempt % 100 == 0 else logging.DEBUG
                    log.log(level, "what the group has committed cannot be read yet: %s", one_line(error))
                else:
                    level = logging.WARNING if attempt == ASKED else logging.DEBUG
                    log.log(level, "what the group has committed cannot be read, some messages may come twice: %s", one_line(error))
                    if attempt == ASKED:
                        break
                await self._client._net.sleep(0.1)
        return {}

    def _ours(self, tps: Iterable[Any]) -> list[Partition]:
        return [self._partitions[tp] for tp in tps if tp in self._partitions]

    def _let_go(self, partitions: list[Partition]) -> None:
        for partition in partitions:
            self._fence(partition)
        for tp, partition in list(self._partitions.items()):
            if partition in partitions:
                del self._partitions[tp]

    def listener(self) -> Any:
        """kafka-python's listener; its class comes from the green module, so it cannot stand at the top of this file."""
        base = green.module("kafka.consumer.subscription_state").AsyncConsumerRebalanceListener
        rebalance = self

        class Listener(base):  # type: ignore[misc, valid-type]
            async def on_partitions_revoked(self, revoked: Any) -> None:
                await rebalance.revoked(revoked)

            async def on_partitions_assigned(self, assigned: Any) -> None:
                await rebalance.assigned(assigned)

            async def on_partitions_lost(self, lost: Any) -> None:
                await rebalance.lost(lost)

        return Listener()


def names(partitions: Iterable[Partition]) -> str:
    """``orders[0-3], refunds[1]``"""
    by_topic: dict[str, list[int]] = {}
    for partition in partitions:
        by_topic.setdefault(partition.topic, []).append(partition.number)
    parts = []
    for topic, numbers in sorted(by_topic.items()):
        numbers.sort()
        whole = numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2
        told = f"{numbers[0]}-{numbers[-1]}" if whole else ",".join(map(str, numbers))
        parts.append(f"{topic}[{told}]")
    return ", ".join(parts)
