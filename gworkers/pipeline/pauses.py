"""What an operator has paused: routes, topics, partitions. Of these nothing is begun and nothing read;
what runs goes on, and the process stays a member of its group.

A pause is of this process and ends with it; it holds for partitions that come later as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gworkers.handlers.partition import Partition
from gworkers.kafka.protocols import TopicPartition
from gworkers.pipeline.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Selection:
    """Partitions by route, topic and number; None: whichever."""

    route: str | None = None
    topic: str | None = None
    partition: int | None = None

    def has(self, partition: Partition) -> bool:
        return (
            self.route in (None, partition.route.name)
            and self.topic in (None, partition.topic)
            and self.partition in (None, partition.number)
        )

    def covers(self, other: Selection) -> bool:
        """Whether all that ``other`` may have is in this one."""
        pairs = ((self.route, other.route), (self.topic, other.topic), (self.partition, other.partition))
        return all(own in (None, theirs) for own, theirs in pairs)

    def __str__(self) -> str:
        named = (("route", self.route), ("topic", self.topic), ("partition", self.partition))
        return ", ".join(f"{name} {value}" for name, value in named if value is not None) or "all of it"


class Pauses:
    """On the hub; nothing blocks. partitions: what is assigned, kept by Assignments."""

    def __init__(self, partitions: Mapping[TopicPartition, Partition], scheduler: Scheduler) -> None:
        self._partitions = partitions
        self._scheduler = scheduler
        self.selections: list[Selection] = []

    def has(self, partition: Partition) -> bool:
        return any(selection.has(partition) for selection in self.selections)

    def pause(self, selection: Selection) -> list[Partition]:
        """Returns what is paused by it of that which is assigned now."""
        if selection not in self.selections:
            self.selections.append(selection)
        return [partition for partition in self._partitions.values() if selection.has(partition)]

    def resume(self, selection: Selection) -> list[Partition]:
        """End the pauses of ``selection`` and of parts of it. Returns what goes on."""
        before = [partition for partition in self._partitions.values() if self.has(partition)]
        self.selections = [one for one in self.selections if not selection.covers(one)]
        free = [partition for partition in before if not self.has(partition)]
        for partition in free:
            self._scheduler.resume(partition)
        return free
