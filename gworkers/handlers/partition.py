"""A partition while it is assigned to this process: one object an assignment, never used again
after revocation."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from gworkers.handlers.job import Job
from gworkers.offsets.offsets import Offsets
from gworkers.offsets.suspects import Suspect

if TYPE_CHECKING:
    from gworkers.handlers.routes import Route


class Forming:
    """The beginning of a batch of one lane: its first job, which waits for more."""

    __slots__ = ("bytes", "head", "since")

    def __init__(self, head: Job, since: float, size: int) -> None:
        self.head = head
        self.since = since  # time.monotonic()
        self.bytes = size  # of the head and of those behind it


class Partition:
    """One assignment of one topic partition. A Job points to it; when ``active`` is False what
    becomes of the Job counts no more.

    ``ready``, ``aside``, ``lanes``, ``forming`` and ``extra`` belong to the scheduler, ``buffered``
    to the ledger, ``in_flight`` to both, ``offsets`` to the delivery, ``committed`` to the
    committer, ``paused`` to the shares, ``held`` to the consumer.
    """

    __slots__ = (
        "__weakref__",
        "active",
        "aside",
        "buffered",
        "closing",
        "committed",
        "delay",
        "extra",
        "forming",
        "held",
        "in_flight",
        "label",
        "lanes",
        "mark",
        "number",
        "offsets",
        "paused",
        "read",
        "ready",
        "route",
        "since",
        "started",
        "suspects",
        "topic",
        "waiting",
    )

    def __init__(
        self,
        topic: str,
        number: int,
        route: Route,
        start: int | None = None,
        delay: float = 0.0,
        topic_id: bytes | None = None,
    ) -> None:
        self.topic = topic
        self.number = number
        self.route = route
        self.active = True
        self.closing = False  # about to be revoked: what runs may finish, nothing else begins
        self.offsets = Offsets(start, topic_id)
        self.committed: int | None = None  # offsets.changes when it was last committed
        self.buffered = 0  # bytes of its messages and results in the process
        self.started = False  # a first look at where it begins has been taken
        self.held = False  # nothing more of it can be read
        self.paused = False  # nothing more is read of it for now
        self.in_flight = 0  # jobs taken by a worker or waiting for an acknowledgement or a retry
        self.ready: deque[Job] = deque()  # jobs that may run now
        self.lanes: dict[Any, deque[Job] | None] = {}  # busy lane → the jobs behind it, None while there are none
        self.aside = False  # for now nothing of it may be taken
        self.since: float | None = None  # time.monotonic() when its next batch began to fill
        self.forming: dict[Any, Forming] = {}  # lane → the batch that fills, the longest waiting first
        self.extra: dict[Any, int] = {}  # lane → how many of a batch are out beside the one that holds the lane
        self.delay = delay  # seconds after its timestamp before a message may run
        self.waiting = 0  # jobs in ready and in lanes
        self.label = f"{topic}/{number}".encode()  # its name as the journal writes it
        self.read: deque[tuple[int, int]] = deque()  # of each poll the first message's offset and timestamp, see ``age``
        self.mark = 0  # of this assignment in the notes of what has finished; 0: nothing is noted
        self.suspects: dict[int, Suspect] | None = None  # by offset: what ran when processes died

    @property
    def name(self) -> str:
        return f"{self.topic}[{self.number}]"

    def reading(self, first: Job) -> None:
        """Messages have been read, of which this is the first."""
        position = self.offsets.position
        while len(self.read) > 1 and position is not None and self.read[1][0] <= position:
            self.read.popleft()
        self.read.append((first.offset, first.timestamp))

    def age(self, now: float) -> float | None:
        """For how many seconds the lowest message that is not finished has been in Kafka, to within
        what one poll brings; one that has not been read, as long as what was read last. None when
        nothing has been read."""
        position, found = self.offsets.position, None
        for offset, timestamp in self.read:
            if found is None or (position is not None and offset <= position):
                found = timestamp
        return max(0.0, now - found / 1000) if found is not None and found >= 0 else None

    def __repr__(self) -> str:
        return f"<Partition {self.name}{'' if self.active else ' revoked'}>"
