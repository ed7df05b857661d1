"""A message on its way through the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gworkers.message import Headers

if TYPE_CHECKING:
    from gworkers.handlers.partition import Partition

#: One message to send: topic, partition (None: by key), key, value, headers, timestamp in ms (None:
#: now).
Row = tuple[str, "int | None", "bytes | None", "bytes | None", Headers, "int | None"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message of a retry topic came from. timestamp, sent (to the retry topic),
    first_failure: milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    sent: int
    first_failure: int


class Job:
    """One consumed message and what became of it. One object a message, made by the reader, kept
    until it is settled.

    A plain class with slots: a frozen dataclass costs 2.5 times as much to make, and this is made
    tens of thousands of times a second.
    """

    __slots__ = (
        "attempt",
        "dead",
        "error",
        "followers",
        "freed",
        "headers",
        "key",
        "lane",
        "offset",
        "origin",
        "partition",
        "read_at",
        "rows",
        "size",
        "timestamp",
        "unacknowledged",
        "value",
    )

    timestamp_type = "CreateTime"

    partition: Partition  # the assignment it belongs to; set when it enters the pipeline
    read_at: float  # time.perf_counter() when it was read; set when it enters the pipeline
    lane: Any  # what it keeps in order with; None: nothing

    def __init__(
        self,
        offset: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        size: int,
    ) -> None:
        self.offset = offset
        self.timestamp = timestamp
        self.key = key
        self.value = value
        self.headers = headers
        self.size = size  # bytes it is accounted with
        self.attempt = 1
        self.lane = None
        self.rows: list[Row] | None = None  # what its handler returned, encoded
        self.error: BaseException | None = None  # how its last attempt failed
        self.unacknowledged = 0  # rows handed to the producer and not yet acknowledged
        self.origin: Origin | None = None  # where it came from, when it was read from a retry topic
        self.dead = 0  # its rows are its dead letter, made smaller one time less than this
        self.freed = False  # its lane and its count in the ledger are free, its bytes and its offset wait for a commit
        self.followers: Sequence[Job] = ()  # jobs of its batch whose result is in its rows: they are done when it is

    @property
    def source(self) -> tuple[str, int, int]:
        """Topic, partition and offset at which the message first was read: its origin's, if it came
        from a retry topic."""
        origin = self.origin
        if origin is not None:
            return origin.topic, origin.partition, origin.offset
        return self.partition.topic, self.partition.number, self.offset

    def again(self) -> Job:
        """This message anew, for when somebody who does not come back still holds this object."""
        job = type(self)(self.offset, self.timestamp, self.key, self.value, self.headers, self.size)
        job.partition, job.lane, job.attempt, job.origin = self.partition, self.lane, self.attempt, self.origin
        job.read_at = self.read_at
        return job

    def __repr__(self) -> str:
        return f"<Job {self.partition.topic}[{self.partition.number}]@{self.offset} attempt {self.attempt}>"


class AppendTimeJob(Job):
    """A job whose timestamp is the broker's. A class rather than an attribute: the others pay
    nothing for it."""

    __slots__ = ()

    timestamp_type = "LogAppendTime"
