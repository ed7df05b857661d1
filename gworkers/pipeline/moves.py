"""Partitions that an operator has go on elsewhere, while their process works and stays in its group.

1. Asked: nothing more of the partition is begun or read; what runs may finish, and what it gives is
   sent and committed as ever. What waits, also for another attempt, is dropped.
2. When nothing of it is left, the poller, between two polls, has another Partition take its place,
   which begins at the wanted offset with nothing known beyond it, and the consumer reads on there.
3. The next commit says so to the group: from then on it holds for whoever has the partition later.

A partition that goes to another member before is left where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from gworkers.errors import one_line
from gworkers.handlers.partition import Partition
from gworkers.kafka.errors import is_kafkas
from gworkers.kafka.protocols import Group, TopicPartition
from gworkers.pipeline.assignments import Assignments
from gworkers.pipeline.delivery import Delivery

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Move:
    partition: Partition
    offset: int


class Moves:
    """On the hub. partitions: what is assigned, kept by Assignments."""

    def __init__(self, group: Group, partitions: Mapping[TopicPartition, Partition], assignments: Assignments, delivery: Delivery) -> None:
        self._group = group
        self._partitions = partitions
        self._assignments = assignments
        self._delivery = delivery
        self._asked: dict[TopicPartition, _Move] = {}

    def has(self, partition: Partition) -> bool:
        move = self._asked.get(TopicPartition(partition.topic, partition.number))
        return move is not None and move.partition is partition

    def ask(self, topic: str, number: int, offset: int) -> str | None:
        """Have a partition go on at ``offset``; what stands in the way, or None. Asks Kafka where the
        partition begins, and blocks for that."""
        tp = TopicPartition(topic, number)
        try:
            begin = self._group.beginning(tp) if tp in self._partitions else 0
        except Exception as error:
            if not is_kafkas(error):
                raise
            return f"Kafka cannot be asked where {topic}[{number}] begins: {one_line(error)}"
        partition = self._partitions.get(tp)
        if partition is None:
            return f"{topic}[{number}] is not assigned here"
        if partition.closing and not self.has(partition):
            return f"{partition.name} is about to go to another member, or its process stops"
        end = self._group.end(tp)
        if not begin <= offset <= (end if end is not None else offset):
            return f"{partition.name} has the offsets {begin} to {end}, and not {offset}"
        log.info(
            "%s is to go on at %d, and not at %s where it is; %d messages of it run and may finish before",
            partition.name,
            offset,
            partition.offsets.position,
            partition.in_flight,
        )
        self._asked[tp] = _Move(partition, offset)
        self._assignments.withdraw([partition])
        return None

    def go_on(self) -> None:
        """Between two polls: move those of which nothing is left. Does not block."""
        for tp, move in list(self._asked.items()):
            partition = move.partition
            if self._partitions.get(tp) is not partition or not partition.active:
                del self._asked[tp]
                log.warning("%s does not go on at %d: it is not this process's any more", partition.name, move.offset)
            elif not partition.in_flight and not self._delivery.holds(partition):
                del self._asked[tp]
                self._assignments.go_on_at(partition, move.offset)
                self._group.seek(tp, move.offset)
                log.info("%s goes on at %d", partition.name, move.offset)
