"""Which partitions are ours: the dictionary of them, and the only place that changes it.

An assignment is a Partition object of its own, from ``assigned`` until ``let_go``:

- assigned: it begins where the group's commit says, and passes over what is finished beyond that;
- withdrawn: nothing more of it is begun; what waits is given back, what runs may finish;
- fenced: what becomes of its jobs changes nothing any more;
- let go: fenced, and no longer ours;
- begun anew: its topic was made anew or its offsets were reset, or an operator has it go on
  elsewhere, so nothing that was known of it holds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from gworkers.events import Events
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.handlers.routes import Route, route_of
from gworkers.kafka.protocols import Committed, Group, Offsets, TopicPartition
from gworkers.offsets import offset_map
from gworkers.offsets.finished import Left, Noting
from gworkers.pipeline.delivery import Delivery
from gworkers.pipeline.ledger import Ledger

log = logging.getLogger(__name__)


class Holder(Protocol):
    """Where jobs wait: the scheduler, the retries, the quarantine."""

    def drop(self, partition: Partition) -> list[Job]:
        """Take out the jobs of a partition that is to go, to be given back."""


class Assignments:
    """See the head of this file. partitions: others read it and none of them writes it. All of it
    on the hub; nothing blocks."""

    def __init__(
        self,
        group: Group,
        partitions: dict[TopicPartition, Partition],
        routes: list[Route],
        holders: Sequence[Holder],
        delivery: Delivery,
        ledger: Ledger,
        notes: Noting,
        events: Events,
    ) -> None:
        self._group = group
        self.partitions = partitions
        self.routes = routes
        self._holders = holders
        self._delivery = delivery
        self._ledger = ledger
        self._notes = notes
        self._events = events
        self._topic_ids: dict[TopicPartition, bytes] = {}  # of the topic whose partition this was when it was last ours
        self._foreign: set[str] = set()  # partitions whose commit's metadata has been said to be none of ours

    def of(self, tps: Iterable[TopicPartition]) -> list[Partition]:
        """Those of ``tps`` that are ours."""
        return [self.partitions[tp] for tp in tps if tp in self.partitions]

    def assigned(self, tps: Iterable[TopicPartition], committed: Offsets) -> list[Partition]:
        """These are ours from now on. committed: what the group has committed for them. Returns
        those that some route consumes."""
        added = []
        left = self._notes.left() if committed else Left([])
        for tp in tps:
            route = route_of(self.routes, tp.topic)
            if route is None:
                continue
            topic_id = self._group.topic_id(tp.topic)
            partition = Partition(tp.topic, tp.partition, route, delay=route.delay_of(tp.topic), topic_id=topic_id)
            self.partitions[TopicPartition(tp.topic, tp.partition)] = partition
            found, anew = committed.get(tp), self._made_anew(tp, topic_id)
            if found is not None and anew:
                log.warning(
                    "%s: the topic was deleted and made anew, and the group's commit of offset %d is of the topic before; "
                    "it begins where auto_offset_reset says",
                    partition.name,
                    found.offset,
                )
                self._group.reset(tp)
                found = None
            if found is not None:
                self._begin_at(partition, found, left)
            self._mark(partition, found)
            added.append(partition)
        if added:
            self._events.assigned.send(added)
        return added

    def _made_anew(self, tp: TopicPartition, topic_id: bytes | None) -> bool:
        """Whether another topic had this name when the partition was last ours. A commit that was
        under way when that was deleted is the group's, and of no use."""
        if topic_id is None:
            return False
        before = self._topic_ids.get(tp)
        self._topic_ids[tp] = topic_id
        return before is not None and before != topic_id

    def look_for_topics_made_anew(self) -> None:
        """Begin the partitions anew whose topic is another one now: reading would go on at the offset
        that it had come to in the one before."""
        for tp, partition in list(self.partitions.items()):
            topic_id = self._group.topic_id(tp.topic)
            if topic_id is None or not partition.active or partition.closing:
                continue
            if partition.offsets.topic_id is None:
                partition.offsets.topic_id = topic_id
            elif partition.offsets.topic_id != topic_id:
                self._topic_ids[tp] = topic_id
                self.begin_anew(partition, None)
                self._group.reset(tp)

    def _mark(self, partition: Partition, committed: Committed | None) -> None:
        """What finishes of it is noted from now on, as beyond this commit."""
        offset, metadata = (committed.offset, committed.metadata) if committed is not None else (None, "")
        partition.mark = self._notes.begin(partition.label, partition.offsets.topic_id, offset, metadata)

    def _begin_at(self, partition: Partition, committed: Committed, left: Left) -> None:
        offsets = partition.offsets
        offsets.next = offsets.end = committed.offset
        partition.committed = offsets.changes
        try:
            found = offset_map.decode(committed.offset, committed.metadata, offsets.topic_id)
        except offset_map.ForeignMetadataError as error:
            self._not_believed(partition, committed.offset, str(error))
            return
        noted = left.finished(partition.label, offsets.topic_id, committed.offset, committed.metadata)
        if noted:
            found = offset_map.with_finished(committed.offset, found, noted)
            offsets.changes += 1  # the group does not know it yet
        if found is not None:
            offsets.restore(found)
            ahead = found.end - committed.offset - len(found.unfinished)
            log.info(
                "%s begins at %d; %d messages beyond it are finished already and do not run again", partition.name, committed.offset, ahead
            )

    def _not_believed(self, partition: Partition, offset: int, why: str) -> None:
        if partition.name not in self._foreign:
            self._foreign.add(partition.name)
            log.warning(
                "the group's commit for %s carries metadata that is no map of finished offsets for it (%s); "
                "it begins at %d with nothing known beyond it",
                partition.name,
                why,
                offset,
            )

    def check_against_the_log(self, partition: Partition, end: int | None) -> None:
        """Forget a restored map that calls offsets finished which the log has not come to. end: of
        the log, None while it is not known."""
        offsets = partition.offsets
        if end is not None and offsets.reaches_beyond(end):
            offsets.forget()
            self._not_believed(partition, offsets.position or 0, f"it reaches beyond the end of the log, {end}")

    def withdraw(self, partitions: Collection[Partition]) -> None:
        """Begin nothing more of these; what runs may finish."""
        for partition in partitions:
            for holder in self._holders:
                self._ledger.give_back(holder.drop(partition))

    def fence(self, partitions: Collection[Partition], *, lost: bool = False) -> None:
        """From now on nothing that becomes of the jobs of these counts. ``lost``: another member
        has them already."""
        self.withdraw(partitions)
        for partition in partitions:
            partition.active = False
        dropped = self._delivery.drop(partitions, lost=lost)
        for job in dropped:
            self._events.fenced.send(job)
        self._ledger.give_back(dropped)

    def let_go(self, partitions: Collection[Partition], *, lost: bool = False) -> None:
        """These are not ours any more."""
        self.fence(partitions, lost=lost)
        for partition in partitions:
            self._notes.end(partition.mark)
            self.partitions.pop(TopicPartition(partition.topic, partition.number), None)
        if partitions:
            (self._events.lost if lost else self._events.revoked).send(list(partitions))

    def begin_anew(self, partition: Partition, offset: int | None) -> Partition:
        """A partition that goes on before where it was: another Partition takes its place, which
        begins at ``offset``; None: with the next message that comes."""
        log.warning(
            "%s goes on at %s, and not at %s where it was: the topic was deleted and made anew, its log has lost its end (an unclean "
            "leader election), or the group's offsets were reset; what was known of finished messages is dropped",
            partition.name,
            "its beginning" if offset is None else f"offset {offset}",
            partition.offsets.next,
        )
        return self.go_on_at(partition, offset)

    def go_on_at(self, partition: Partition, offset: int | None) -> Partition:
        """Another Partition takes the place of this one and begins there; see ``begin_anew``."""
        self.fence([partition])
        self._notes.end(partition.mark)
        topic_id = self._group.topic_id(partition.topic)
        fresh = Partition(partition.topic, partition.number, partition.route, delay=partition.delay, topic_id=topic_id)
        fresh.offsets.next = offset
        self._mark(fresh, None)
        self.partitions[TopicPartition(partition.topic, partition.number)] = fresh
        return fresh


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
