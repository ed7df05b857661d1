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
from gworkers.kafka.errors import Kind, classify
from gworkers.kafka.protocols import Group, Offsets, TopicPartition
from gworkers.pipeline.assignments import Assignments, names
from gworkers.pipeline.delivery import Delivery

log = logging.getLogger(__name__)

#: Seconds that an attempt to read the group's commits may take, and after how many attempts
#: partitions begin without them when the error is none that passes.
ASK_TIMEOUT = 10.0
ASK_ATTEMPTS = 4
#: Seconds between two words on what cannot be read.
TELL_INTERVAL = 30.0
#: Seconds between two of these attempts, and between two looks whether what runs has finished.
ASK_INTERVAL = 0.1
DRAIN_INTERVAL = 0.01

_PASSING = (Kind.PASSING, Kind.TIMED_OUT)


class Rebalance:
    """The group's Listener; see the head of this file. grace: seconds. patient: nothing begins
    before it is known what the group has committed, whatever the error (exactly-once)."""

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
        """What the group has committed. Without it finished messages would run again, so that it is
        asked for until it is known; the transaction of a process that died may hold it back for its
        time-out. Only an error that does not pass by itself ends this, after a few attempts, and not
        with exactly-once."""
        told = time.monotonic()
        for attempt in itertools.count(1):
            try:
                return await self._group.committed(tps, ASK_TIMEOUT)
            except Exception as error:
                passes = self._patient or classify(error) in _PASSING
                if not passes and attempt >= ASK_ATTEMPTS:
                    log.warning("what the group has committed cannot be read, some messages may come twice: %s", one_line(error))
                    return {}
                if time.monotonic() - told > TELL_INTERVAL:
                    told = time.monotonic()
                    log.warning("what the group has committed cannot be read yet, and nothing begins before: %s", one_line(error))
                await self._group.sleep(ASK_INTERVAL)
        raise AssertionError
