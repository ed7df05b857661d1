"""The surface of this room: what the pipeline uses of Kafka, in types of our own.

``Group``, ``ProducerClient`` and ``TransactionalClient`` are implemented on kafka-python in
group.py, producing.py and transactional.py; a simulated Kafka implements the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from gworkers.figures import Times
from gworkers.handlers.job import Job, Row


class TopicPartition(NamedTuple):
    """A partition of a topic. Equal to kafka-python's own, which is a tuple too."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What a group has committed for a partition, or is to commit: the next offset to be read, a text
    with it, and which leader wrote the record before it, -1 when that is not known."""

    offset: int
    metadata: str
    leader_epoch: int = -1


Offsets = Mapping[TopicPartition, Committed]

#: Called once for the rows of a batch, or for one row of a batch that had to be split: the job of
#: each row, the rows, and None or a function from the index of a row to its error. It must not block.
Acknowledged = Callable[[Sequence[Job], Sequence[Row], "Callable[[int], BaseException] | None"], None]


class Listener(Protocol):
    """Hears of partitions that come and go; awaited on kafka-python's I/O loop while ``poll`` is
    blocked."""

    async def revoked(self, tps: Iterable[TopicPartition]) -> None: ...

    async def lost(self, tps: Iterable[TopicPartition]) -> None: ...

    async def assigned(self, tps: Iterable[TopicPartition]) -> None: ...


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why Kafka cannot be used. refused: Kafka is there and does not take us, and waiting does not
    help."""

    text: str
    refused: bool


class Membership(Protocol):
    """Whether this process may still believe that its partitions are its own. session: how long the
    group waits for a sign of life, in seconds."""

    session: float

    def sure(self) -> bool:
        """Whether results may be sent."""

    def joined(self) -> bool:
        """Whether this process is a member of the group, with partitions or without."""

    @property
    def joins(self) -> Times:
        """How long this process took to join the group, each time that it did: its rebalances."""

    @property
    def member_id(self) -> str:
        """Who this process is to its group; empty while it is nobody."""

    def fenced(self) -> bool:
        """Whether another process has joined under this one's group_instance_id."""


class Group(Protocol):
    """The consumer: one member of a group. All methods but the async ones are for greenlets; errors
    are kafka-python's."""

    @property
    def membership(self) -> Membership: ...

    @property
    def assignors(self) -> list[str]:
        """How this member can share out partitions, by Kafka's names."""

    def no_right(self, error: Exception) -> str | None:
        """A sentence and a command for an error that means a right which Kafka does not give this
        client; None for any other."""

    def no_right_to_read(self, topics: Collection[str]) -> str | None:
        """The same for topics that may not even be seen, as the last metadata told it. Never waits."""

    def subscribe(self, topics: Sequence[str], patterns: Mapping[str, Collection[str]], listener: Listener) -> None:
        """To topics by name, and to those that match a pattern, without those that stand behind it."""

    def poll(self, wait_ms: int, most: int) -> dict[TopicPartition, list[Job]]:
        """Join the group if need be, and up to ``most`` messages as Jobs without a partition; with 0
        none, whatever is assigned meanwhile. Blocks."""

    def pause_only(self, tps: Collection[TopicPartition]) -> None:
        """From now on ``poll`` brings nothing of these, and again of all others that are assigned."""

    def positions(self) -> Iterator[tuple[TopicPartition, int]]:
        """The offset that ``poll`` will return next, of each partition where it is known. Never
        waits."""

    def leader_epoch(self, tp: TopicPartition, offset: int) -> int:
        """Which leader wrote the record before ``offset``, -1 when that is not known."""

    def commit(self, offsets: Offsets, timeout: float) -> None:
        """Blocks up to ``timeout`` seconds."""

    async def commit_in_rebalance(self, offsets: Offsets, timeout: float) -> None:
        """From inside a Listener, where ``commit`` would block."""

    async def committed(self, tps: Collection[TopicPartition], timeout: float) -> Offsets:
        """What the group has committed, without the partitions of which it has nothing."""

    async def sleep(self, seconds: float) -> None: ...

    def out_of_range(self) -> list[tuple[TopicPartition, int]]:
        """With auto_offset_reset latest: offsets at which a partition was to be read on and could not
        be, since the last call. It goes on at the end."""

    def end(self, tp: TopicPartition) -> int | None:
        """The offset after the last message, as the last fetch or ``look_for_ends`` told it; None
        while it is not known. Never waits."""

    def look_for_ends(self) -> None:
        """Ask where the partitions end of which no fetch tells it: they are paused, or came back while
        the broker believed that they had never gone (KIP-227). Blocks, up to some seconds."""

    def topic_id(self, topic: str) -> bytes | None:
        """The 16 bytes that tell this topic from others of its name; None while they are not known.
        Never waits."""

    def reset(self, tp: TopicPartition) -> None:
        """Read a partition on from where ``auto_offset_reset`` says, whatever the group has committed.
        Never waits."""

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Read a partition on from there, whatever the group has committed. Between two polls; never
        waits."""

    def beginning(self, tp: TopicPartition) -> int:
        """The offset of the first message that is there. Blocks."""

    def remove(self, member_ids: Iterable[str], timeout: float) -> None:
        """Have the coordinator remove members that have died. Blocks, up to about ``timeout`` seconds;
        raises kafka-python's errors."""

    def generation(self) -> Any:
        """Who this member is to the group now, for the offsets of a transaction. Equal while
        nothing has changed."""

    @property
    def connected(self) -> bool:
        """Whether any broker is connected."""

    @property
    def trouble(self) -> Trouble | None:
        """Why no broker can be connected to, as ``look_for_trouble`` found it last; None when it has
        found nothing, or one is connected."""

    def look_for_trouble(self) -> None:
        """Find out why no broker can be connected to. Blocks, up to some seconds."""

    def missing(self, topics: Iterable[str]) -> set[str]:
        """Which of these topics are not there, as the last metadata told it. Never waits."""

    def look_for_topics(self) -> None:
        """Have the metadata asked for anew; where the broker allows it, that makes topics. Never
        waits."""

    def close(self, timeout: float) -> None:
        """Leave the group and close the connections. Blocks."""


class ProducerClient(Protocol):
    """A producer that takes blocks of rows; see gworkers.kafka.producing.KafkaProducerClient, whose
    docstrings hold here."""

    max_request_size: int

    def no_right(self, error: BaseException) -> str | None: ...

    def partition_of(self, key: bytes, partitions: int) -> int: ...

    def partitions_for(self, topic: str) -> int: ...

    def known_partitions(self, topic: str) -> int: ...

    def watch(self, topic: str) -> None: ...

    def append(self, tp: TopicPartition, rows: Sequence[Row], jobs: Sequence[Job], acknowledged: Acknowledged) -> None: ...

    def discard_unsent(self, error: BaseException) -> None: ...

    def discard_partitions(self, topic: str, start: int, error: BaseException) -> None: ...

    def look_again(self) -> None:
        """While no broker can be connected to: ask the bootstrap servers where they are. Does not
        wait."""

    def hold_back(self, may_send: Callable[[], bool], look_again: float) -> None: ...

    def close(self, timeout: float) -> None: ...


class TransactionalClient(Protocol):
    """One transactional producer at a time; see gworkers.kafka.transactional, whose docstrings hold
    here."""

    @property
    def producer(self) -> ProducerClient: ...

    @property
    def timeout(self) -> float:
        """Seconds after which Kafka gives up an open transaction."""

    def begin(self) -> None: ...

    def send_offsets(self, offsets: Offsets, generation: Any) -> None: ...

    def commit(self) -> None: ...

    def renew(self, age: float) -> ProducerClient: ...

    def no_right(self, error: BaseException) -> str | None: ...

    def fenced(self) -> BaseException: ...
