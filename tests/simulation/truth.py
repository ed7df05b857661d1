"""What is true of one schedule, whatever gworkers believes: which message is finished, what readers of
the outputs see. Each step is held against what must always hold."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gworkers.kafka.protocols import Committed, TopicPartition
from gworkers.offsets import offset_map
from tests.simulation.cluster import Record
from tests.simulation.plan import Msg, Plan


class ViolationError(AssertionError):
    """Something that must always hold did not."""


@dataclass(slots=True, eq=False)
class Message:
    """One input. seen: of each of its results, how often readers have it; ended: it has ended without
    results; dead: letters."""

    tp: TopicPartition
    offset: int
    msg: Msg
    seen: list[int] = field(default_factory=list)
    ended: bool = False
    dead: int = 0
    moved: bool = False  # it waits in a retry topic
    kills: int = 0

    @property
    def finished(self) -> bool:
        return bool(self.dead or self.moved or (all(self.seen) if self.seen else self.ended))

    @property
    def settled(self) -> bool:
        """Whether its last word is spoken."""
        return bool(self.dead or (all(self.seen) if self.seen else self.ended))

    def __str__(self) -> str:
        return f"{self.tp.topic}[{self.tp.partition}]@{self.offset}"


class Truth:
    """See the head of this file."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.messages: dict[TopicPartition, list[Message]] = {}
        self.by_offset: dict[tuple[str, int, int], Message] = {}
        self._lowest: dict[TopicPartition, int] = {}
        self._lanes: dict[Any, list[Message]] = {}
        self._lane_at: dict[Any, int] = {}
        self._latest: dict[Any, Message] = {}  # whose first result came last, by output partition and lane
        self._running: dict[Any, Message] = {}
        self.trace: list[str] = []

    # -- what happens

    def came(self, tp: TopicPartition, record: Record, msg: Msg) -> None:
        message = Message(tp, record.offset, msg, [0] * msg.results)
        self.messages.setdefault(tp, []).append(message)
        self.by_offset[tp.topic, tp.partition, record.offset] = message
        self._lanes.setdefault(self.lane(message), []).append(message)

    def lane(self, message: Message) -> Any:
        """What it keeps in order with."""
        order, key = self._plan.order, message.msg.key
        if order == "partition":
            return message.tp
        if order == "key" and key is not None:
            return message.tp, key
        return message

    def lowest(self, tp: TopicPartition) -> int | None:
        """The first of a partition that is not finished; None when all are."""
        messages = self.messages.get(tp, [])
        at = self._lowest.get(tp, 0)
        while at < len(messages) and messages[at].finished:
            at += 1
        self._lowest[tp] = at
        return messages[at].offset if at < len(messages) else None

    def begins(self, partition: Any, message: Message, read_at: int, covered: Committed | None) -> None:
        """A handler begins. partition: the assignment it was read in, at the offset read_at; covered:
        the commit that this began with."""
        if covered is not None and self._covers(covered, read_at):
            raise ViolationError(f"{message} runs again, though the commit that its partition began with says that it is finished")
        lane = self.lane(message)
        other = self._running.get((partition, lane))
        if other is not None and other is not message:
            raise ViolationError(f"{message} runs beside {other}, which comes before it in order")
        self._running[partition, lane] = message
        if self._plan.delivery == "at-least-once" and lane is not message and not self._plan.batch:
            self._check_before(lane, message)

    def _check_before(self, lane: Any, message: Message) -> None:
        messages, at = self._lanes[lane], self._lane_at.get(lane, 0)
        while at < len(messages) and messages[at].finished:
            at += 1
        self._lane_at[lane] = at
        if at < len(messages) and messages[at].offset < message.offset:
            raise ViolationError(f"{message} runs before {messages[at]} is finished, which comes before it in order")

    def ends(self, partition: Any, message: Message) -> None:
        lane = self.lane(message)
        if self._running.get((partition, lane)) is message:
            del self._running[partition, lane]

    @staticmethod
    def _covers(committed: Committed, offset: int) -> bool:
        if offset < committed.offset:
            return True
        try:
            found = offset_map.decode(committed.offset, committed.metadata, None)
        except offset_map.ForeignMetadataError:
            return False
        return found is not None and offset < found.end and offset not in found.unfinished

    # -- what the broker has

    def appeared(self, results: Iterable[tuple[TopicPartition, Record]]) -> None:
        """Readers of committed messages of the output see these from now on, at the same moment."""
        first: list[tuple[TopicPartition, Message]] = []
        for tp, record in results:
            topic, partition, offset, number = (record.value or b"").split(b"/")
            message = self.by_offset[topic.decode(), int(partition), int(offset)]
            index = int(number)
            message.seen[index] += 1
            if message.seen[index] > 1:
                if self._plan.delivery == "exactly-once":
                    raise ViolationError(f"result {index} of {message} is there twice")
                if not self._plan.disturbed:
                    raise ViolationError(f"result {index} of {message} is there twice, and nothing had happened")
            elif index == 0 and not message.dead:  # dead-lettered in an earlier life, it may come behind
                first.append((tp, message))
        for tp, message in first:
            lane = self.lane(message)
            if lane is message:
                continue
            before = self._latest.get((tp, lane))
            if before is not None and before.offset > message.offset:
                raise ViolationError(f"a result of {before} is there before one of {message}, which comes before it in order")
            self._latest[tp, lane] = message
            if not self._plan.batch or self._plan.delivery == "exactly-once":  # a batch's may go to several partitions
                self._in_order(message, lane)

    def _in_order(self, message: Message, lane: Any) -> None:
        for before in self._lanes[lane]:
            if before is message:
                return
            if not before.finished:
                raise ViolationError(f"a result of {message} is there before {before} is finished, which comes before it in order")

    def lettered(self, record: Record) -> None:
        headers = dict(record.headers)
        topic = headers["kafka_dlt-original-topic"].decode()
        partition, offset = struct.unpack(">iq", headers["kafka_dlt-original-partition"] + headers["kafka_dlt-original-offset"])
        message = self.by_offset[topic, partition, offset]
        message.dead += 1
        if message.dead > 1 and (self._plan.delivery == "exactly-once" or not self._plan.disturbed):
            raise ViolationError(f"{message} is dead-lettered twice")

    def put_off(self, record: Record) -> None:
        headers = dict(record.headers)
        topic, partition, offset = (headers[f"gworkers-retry-{name}"].decode() for name in ("topic", "partition", "offset"))
        self.by_offset[topic, int(partition), int(offset)].moved = True

    def committed(self, tp: TopicPartition, committed: Committed) -> None:
        """The group has committed this."""
        if tp not in self.messages:
            return
        lowest = self.lowest(tp)
        if lowest is not None and committed.offset > lowest:
            raise ViolationError(f"{committed.offset} is committed for {tp.topic}[{tp.partition}], and {lowest} is not finished")
        try:
            found = offset_map.decode(committed.offset, committed.metadata, None)
        except offset_map.ForeignMetadataError as error:
            raise ViolationError(f"the commit of {committed.offset} has a map that cannot be read: {error}") from None
        if found is None:
            return
        unfinished = set(found.unfinished)
        for message in self.messages[tp]:
            if committed.offset <= message.offset < found.end and message.offset not in unfinished and not message.finished:
                raise ViolationError(f"the map of the commit of {committed.offset} says that {message} is finished, and it is not")

    @property
    def unsettled(self) -> list[Message]:
        return [message for messages in self.messages.values() for message in messages if not message.settled]
