"""Partitions that come and go, on kafka-python's I/O greenlet, while ``poll()`` is blocked.

- revoked: they are to go to another member. Of them nothing new is begun, what runs may finish for
  ``rebalance.grace``, what is finished is committed with its map, and the rest is fenced.
- lost: they have gone already. They are fenced at once; nothing can be committed, and results not
  yet on their way are dropped.
- assigned: they have come. Where to begin, and what is finished already beyond it, is read from the
  group's commit.

Draining never needs the semaphore that guards ``poll()``. Partitions that stay are not touched.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable

from gworkers.errors import one_line
from gworkers.kafka.protocols import Group, Offsets, TopicPartition
from gworkers.pipeline.assignments import Assignments, names
from gworkers.pipeline.delivery import Delivery

log = logging.getLogger(__name__)

#: How often the commits of the group are asked for before partitions begin without them, and how
#: long each time, in seconds.
ASK_ATTEMPTS = 4
ASK_TIMEOUT = 10.0
#: Seconds between two of these attempts, and between two looks whether what runs has finished.
ASK_INTERVAL = 0.1
DRAIN_INTERVAL = 0.01


class Rebalance:
    """The group's Listener; see the head of this file. grace: seconds. patient: nothing begins
    before it is known what the group has committed (exactly-once)."""

    def __init__(self, group: Group, assignments: Assignments, delivery: Delivery, *, grace: float, patient: bool) -> None:
        self._group = group
        self._assignments = assignments
        self._delivery = delivery
        self._patient = patient
        self._grace = grace

    def hurry(self) -> None:
        """The process stops: what runs has had its grace."""
        self._grace = 0.0

    async def revoked(self, tps: Iterable[TopicPartition]) -> None:
        partitions = self._assignments.of(tps)
        self._assignments.withdraw(partitions)
        deadline = time.monotonic() + self._grace
        while any(partition.in_flight for partition in partitions) and time.monotonic() < deadline:
            await self._group.sleep(DRAIN_INTERVAL)
        error = await self._delivery.commit_revoked(partitions)
        if error is not None:
            log.warning("revoked partitions could not be committed, some messages may come twice: %s", one_line(error))
        left = sum(partition.in_flight for partition in partitions)
        self._assignments.let_go(partitions)
        if partitions:
            log.info("revoked: %s%s", names(partitions), f"; {left} messages were still running" if left else "")

    async def lost(self, tps: Iterable[TopicPartition]) -> None:
        partitions = self._assignments.of(tps)
        left = sum(partition.in_flight for partition in partitions)
        self._assignments.let_go(partitions, lost=True)
        if partitions:
            told = f"; {left} messages were running" if left else ""
            log.warning("lost, because Kafka did not hear from this process in time: %s%s", names(partitions), told)

    async def assigned(self, tps: Iterable[TopicPartition]) -> None:
        new = [tp for tp in tps if tp not in self._assignments.partitions]
        committed = await self._committed(new) if new else {}
        added = self._assignments.assigned(new, committed)
        if added:
            log.info("assigned: %s", names(added))

    async def _committed(self, tps: list[TopicPartition]) -> Offsets:
        """What the group has committed. Asked for several times: without it finished messages would
        run again. With exactly-once it is asked for until it is known; the transaction of a process
        that died may hold it back for its time-out."""
        for attempt in itertools.count(1):
            try:
                return await self._group.committed(tps, ASK_TIMEOUT)
            except Exception as error:
                if self._patient:
                    level = logging.WARNING if attempt % 100 == 0 else logging.DEBUG
                    log.log(level, "what the group has committed cannot be read yet: %s", one_line(error))
                else:
                    level = logging.WARNING if attempt == ASK_ATTEMPTS else logging.DEBUG
                    log.log(level, "what the group has committed cannot be read, some messages may come twice: %s", one_line(error))
                    if attempt == ASK_ATTEMPTS:
                        break
                await self._group.sleep(ASK_INTERVAL)
        return {}
