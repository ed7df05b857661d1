"""One member of a consumer group, on kafka-python's KafkaConsumer. See
gworkers.kafka.protocols.Group."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gworkers.handlers.job import Job
from gworkers.kafka import bootstrapping, green, probe, reasons, troubles
from gworkers.kafka.errors import is_kafkas
from gworkers.kafka.leader_epochs import LeaderEpochs
from gworkers.kafka.membership import KafkaMembership
from gworkers.kafka.protocols import Committed, Listener, Offsets, TopicPartition, Trouble
from gworkers.kafka.reading import MOST_BYTES, read_lean
from gworkers.kafka.rights import Rights

#: How long asking for the ends of paused partitions may take, in milliseconds.
ENDS_TIMEOUT_MS = 5000


class KafkaGroup:
    """Wraps a KafkaConsumer that nobody else uses. All of it runs on the hub's thread."""

    def __init__(self, consumer: Any, rights: Rights, most: int = MOST_BYTES, *, skip_oversized: bool = False) -> None:
        self._epochs = LeaderEpochs()
        read_lean(consumer, most, skip=skip_oversized, epochs=self._epochs)
        self._rights = rights
        self.membership = KafkaMembership(consumer)
        self._consumer = consumer
        self._coordinator = consumer._coordinator
        self._structs = green.module("kafka.structs")
        self._trouble: Trouble | None = None
        self._out_of_range: list[tuple[TopicPartition, int]] = []
        self._hear_of_resets(consumer._subscription)

    @property
    def assignors(self) -> list[str]:
        return [assignor.name for assignor in self._coordinator.config["assignors"]]

    def no_right(self, error: Exception) -> str | None:
        return self._rights.missing(error)

    def no_right_to_read(self, topics: Collection[str]) -> str | None:
        found = set(topics) & set(self._consumer._manager.cluster.unauthorized_topics)
        return self._rights.topics(found) if found else None

    # -- reading

    def subscribe(self, topics: Sequence[str], patterns: Mapping[str, Collection[str]], listener: Listener) -> None:
        if patterns:
            parts = [f"(?:{re.escape(topic)})\\Z" for topic in topics]
            for pattern, left_out in patterns.items():
                but = f"(?!(?:{'|'.join(map(re.escape, sorted(left_out)))})\\Z)" if left_out else ""
                parts.append(f"{but}(?:{pattern})")
            pattern = "|".join(parts)
            self._consumer.subscribe(pattern=pattern, listener=_listener(listener))
        else:
            self._consumer.subscribe(topics=list(topics), listener=_listener(listener))

    def poll(self, wait_ms: int, most: int) -> dict[TopicPartition, list[Job]]:
        self.membership.join()
        if not most and (assigned := self._consumer.assignment()):
            self._consumer.pause(*assigned)  # also those that have just come
        found: dict[TopicPartition, list[Job]] = self._consumer.poll(timeout_ms=wait_ms, max_records=most or 1)
        return found

    def pause_only(self, tps: Collection[TopicPartition]) -> None:
        assigned = self._consumer.assignment()
        wanted = assigned & set(tps)
        paused = self._consumer.paused()  # asked each time: a partition that went and came back is not paused
        if wanted - paused:
            self._consumer.pause(*self._theirs(wanted - paused))
        if paused - wanted:
            self._consumer.resume(*self._theirs(paused - wanted))

    def positions(self) -> Iterator[tuple[TopicPartition, int]]:
        for tp, state in list(self._consumer._subscription.assignment.items()):
            if state.position is not None:
                yield tp, state.position.offset

    def _hear_of_resets(self, subscription: Any) -> None:
        """With auto_offset_reset latest kafka-python goes on at the end, without a word."""
        if self._consumer.config["auto_offset_reset"] != "latest":
            return
        reset = subscription.request_offset_reset

        def request_offset_reset(partition: Any, *strategy: Any) -> None:
            state = subscription.assignment.get(partition)
            if state is not None and state.position is not None:
                self._out_of_range.append((TopicPartition(partition.topic, partition.partition), state.position.offset))
            reset(partition, *strategy)

        subscription.request_offset_reset = request_offset_reset

    def out_of_range(self) -> list[tuple[TopicPartition, int]]:
        found, self._out_of_range = self._out_of_range, []
        return found

    def end(self, tp: TopicPartition) -> int | None:
        state = self._consumer._subscription.assignment.get(self._their(tp))  # highwater() raises where it is not assigned
        highwater: int | None = state.highwater if state is not None else None
        return highwater

    def look_for_ends(self) -> None:
        assigned = list(self._consumer._subscription.assignment.items())
        wanted = [theirs for theirs, state in assigned if state.paused or state.highwater is None]
        try:
            found = self._consumer.end_offsets(wanted, timeout_ms=ENDS_TIMEOUT_MS) if wanted else {}
        except Exception as error:
            if not is_kafkas(error):
                raise
            return
        for theirs, end in found.items():
            state = self._consumer._subscription.assignment.get(theirs)
            if state is not None and end is not None and (state.highwater is None or end > state.highwater):
                state.highwater = end

    def reset(self, tp: TopicPartition) -> None:
        theirs = self._their(tp)
        if theirs in self._consumer._subscription.assignment:
            self._consumer._subscription.request_offset_reset(theirs)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._consumer.seek(self._their(tp), offset)
        self._epochs.begin(tp, offset, -1)

    def beginning(self, tp: TopicPartition) -> int:
        theirs = self._their(tp)
        offset: int = self._consumer.beginning_offsets([theirs])[theirs]
        return offset

    def topic_id(self, topic: str) -> bytes | None:
        found = self._consumer._manager.cluster.topic_id(topic)
        return found.bytes if found is not None and found.int else None

    # -- committing

    def leader_epoch(self, tp: TopicPartition, offset: int) -> int:
        return self._epochs.before(tp, offset)

    def commit(self, offsets: Offsets, timeout: float) -> None:
        self._consumer.commit(to_kafka(offsets), timeout_ms=int(timeout * 1000))

    async def commit_in_rebalance(self, offsets: Offsets, timeout: float) -> None:
        await self._coordinator._commit_offsets_sync_async(to_kafka(offsets), timeout_ms=int(timeout * 1000))

    async def committed(self, tps: Collection[TopicPartition], timeout: float) -> Offsets:
        wanted = set(self._theirs(tps))
        found: Mapping[Any, Any] = await self._coordinator.fetch_committed_offsets_async(wanted, timeout_ms=int(timeout * 1000))
        offsets = {}
        for theirs, one in found.items():
            if one.offset >= 0:
                tp, epoch = TopicPartition(*theirs), one.leader_epoch if one.leader_epoch is not None else -1
                self._epochs.begin(tp, one.offset, epoch)
                offsets[tp] = Committed(one.offset, one.metadata or "", epoch)
        return offsets

    async def sleep(self, seconds: float) -> None:
        await self._consumer._net.sleep(seconds)

    def generation(self) -> Any:
        return self._consumer.group_metadata()

    def remove(self, member_ids: Iterable[str], timeout: float) -> None:
        leave = green.module("kafka.protocol.consumer").LeaveGroupRequest
        coordinator, manager = self._coordinator, self._consumer._manager
        limit = int(timeout * 1000)
        for member_id in member_ids:
            if not coordinator.ensure_coordinator_ready(timeout_ms=limit):
                return
            member = leave.MemberIdentity(member_id=member_id, group_instance_id=None, reason="its process has died")
            request = leave(group_id=coordinator.group_id, member_id=member_id, members=[member])
            manager.run(manager.wait_for, manager.send(request, node_id=coordinator.coordinator_id), limit)

    # -- the cluster

    @property
    def connected(self) -> bool:
        return bootstrapping.connected(self._consumer._manager)

    @property
    def trouble(self) -> Trouble | None:
        return self._trouble if not self.connected else None

    def look_for_trouble(self) -> None:
        self._trouble = None
        bootstrapping.look_again(self._consumer._manager)
        latest = troubles.latest()
        if latest is not None:
            address, error = latest
            found = reasons.explain(address, error, self._consumer._manager.config)
            told = found.text if found is not None else probe.refuses(address)
            if told is not None:
                self._trouble = Trouble(f"{address} {told}", found is not None and found.final)

    def missing(self, topics: Iterable[str]) -> set[str]:
        cluster = self._consumer._manager.cluster
        known = cluster.topics(exclude_internal_topics=False) | cluster.unauthorized_topics
        return {topic for topic in topics if not cluster.partitions_for_topic(topic)} - set(known)

    def look_for_topics(self) -> None:
        self._consumer._manager.cluster.request_update()

    def close(self, timeout: float) -> None:
        self._consumer.close(autocommit=False, timeout_ms=int(timeout * 1000))

    def _their(self, tp: TopicPartition) -> Any:
        return self._structs.TopicPartition(tp.topic, tp.partition)

    def _theirs(self, tps: Iterable[TopicPartition]) -> list[Any]:
        return [self._their(tp) for tp in tps]


def to_kafka(offsets: Offsets) -> dict[Any, Any]:
    """Offsets in kafka-python's types."""
    structs = green.module("kafka.structs")
    found = {}
    for tp, one in offsets.items():
        found[structs.TopicPartition(tp.topic, tp.partition)] = structs.OffsetAndMetadata(one.offset, one.metadata, one.leader_epoch)
    return found


def _listener(ours: Listener) -> Any:
    """kafka-python's listener for ours; its class comes from the green module, so it cannot stand
    at the top of this file."""
    base = green.module("kafka.consumer.subscription_state").AsyncConsumerRebalanceListener

    class Forwarding(base):  # type: ignore[misc, valid-type]
        async def on_partitions_revoked(self, revoked: Any) -> None:
            await ours.revoked(revoked)

        async def on_partitions_assigned(self, assigned: Any) -> None:
            await ours.assigned(assigned)

        async def on_partitions_lost(self, lost: Any) -> None:
            await ours.lost(lost)

    return Forwarding()
