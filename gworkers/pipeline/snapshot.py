"""What a pipeline is doing at one moment: the one answer that health, metrics, the progress line
and the watch read.

Plain frozen data that ``json.dumps(asdict(snapshot))`` takes. Ages and times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from gworkers.figures import Times

#: Why nothing is read of a partition, in one word, and what that means.
PAUSED = {
    "operator": "an operator has paused it",
    "oversized": "a batch of it is larger than buffer.bytes",
    "moving": "an operator has it go on elsewhere, when what runs has finished",
    "leaving": "it is about to go",
    "buffer": "its share of the buffer is full",
}


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """One assigned partition. position: the next offset to be read; finished: below it all are
    finished (what a commit would say); end: the end of the log; lag: messages up to ``end`` that
    are not finished. None where it is not known yet."""

    topic: str
    partition: int
    route: str
    position: int | None
    finished: int | None
    ahead: int  # offsets from ``finished`` on that have been read and are finished, or hold no message
    end: int | None
    lag: int | None
    waiting: int
    in_flight: int
    buffered_bytes: int
    lag_seconds: float | None  # how old the lowest message is that is not finished, to within one poll; 0 without lag
    paused: str | None  # why nothing is read of it for now, one of PAUSED
    held: bool  # nothing more of it can be read


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """One route, see gworkers.figures. rate: messages finished a second, over the last ten; failed:
    attempts that failed, by the name of the exception."""

    name: str
    received: int
    done: int
    rate: float
    retried: int
    dead_lettered: int
    failed: dict[str, int]
    running: int
    handler: Times
    queue: Times
    end_to_end: Times
    held: Times


@dataclass(frozen=True, slots=True)
class LimitSnapshot:
    """A named limit. wanted: some wait for it."""

    name: str
    count: int
    used: int
    wanted: bool


@dataclass(frozen=True, slots=True)
class OldestSnapshot:
    """The message whose handler has run for the longest time. age: seconds since its block began."""

    route: str
    topic: str
    partition: int
    offset: int
    age: float


@dataclass(frozen=True, slots=True)
class SteeringSnapshot:
    """mode: steer, observe, or held (an operator has set a number); settled: the best that is known;
    wanted: what is tried now, or would be; reason: why the settled one is what it is; changes: how
    often another one was settled on; probes: how often one was tried."""

    mode: str
    min: int
    max: int
    settled: int
    wanted: int
    reason: str
    changes: int
    probes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """See the head of this file. Counts are since the start of the process."""

    uptime: float
    concurrency: int  # handlers that may run at once, as it is now
    steering: SteeringSnapshot | None  # how that is found; None when it is fixed
    partitions: tuple[PartitionSnapshot, ...]
    routes: tuple[RouteSnapshot, ...]
    limits: tuple[LimitSnapshot, ...]
    polled: int  # messages read
    skipped: int  # of them, known to be finished already
    done: int  # messages settled
    sent: int  # results acknowledged, dead letters included
    retried: int  # attempts after the first
    dead_lettered: int
    passed_over: int  # not handled, because of ``when`` or ``max_age``
    fenced: int  # completions that came after their partition was revoked
    stuck: int  # handlers that did not end at their limit and were given up
    commits: int
    commit_times: Times  # with exactly-once of transactions, from their beginning
    joins: Times  # how long each rebalance took here
    hub_delay: Times  # by how much the hub's turns came too late, fifty times a second
    cores: float  # how much of a processor's time the process had in the last second
    aborted: int  # transactions
    busy: float  # seconds that handlers took together
    running: int  # handlers at this moment
    waiting: int  # messages read, and neither running nor waiting for another attempt
    retrying: int  # messages waiting for another attempt here
    unsettled: int  # messages begun and not settled
    results_wait: float  # seconds in which results were out and none was acknowledged
    uncommitted: int  # of them, those that wait for the end of a transaction alone
    buffered_messages: int
    buffered_bytes: int
    backlog: int | None  # messages in Kafka that have not been read; None until all ends are known
    lag: int | None  # messages that are not finished, read or not
    last_poll_age: float
    last_message_age: float
    connected: bool
    away: float  # seconds since a broker was connected, 0 while one is
    trouble: str | None  # why none can be connected to, where that is known
    refused: bool  # Kafka is there and does not take us
    joined: bool  # a member of the group, with partitions or standing by
    quiet: bool  # an operator has had it begin nothing new
    paused: tuple[str, ...]  # what an operator has paused, as sentences' parts
    oldest: OldestSnapshot | None  # None while nothing runs

    @property
    def idle(self) -> bool:
        """Nothing is in the process and nothing waits in Kafka."""
        return not self.buffered_messages and not self.unsettled and self.joined and self.backlog == 0
