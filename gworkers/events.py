"""What happens in the pipeline, for whoever wants to hear of it: metrics, tracing, hooks, the
quarantine.

Each event is a Signal. A subscriber is called at once, on the hub's thread, in the order of
subscription; it must not block, and what it raises goes to whoever sent the event. Nothing is sent
for every message: what the hot path counts stands as plain numbers at the parts themselves, and
``Pipeline.snapshot()`` collects them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, ParamSpec

if TYPE_CHECKING:
    from gworkers.handlers.job import Job
    from gworkers.handlers.partition import Partition

P = ParamSpec("P")


class Signal(Generic[P]):
    """One named event. ``send`` calls everybody who has subscribed."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: list[Callable[P, object]] = []

    def subscribe(self, subscriber: Callable[P, object]) -> None:
        self._subscribers.append(subscriber)

    def send(self, *args: P.args, **kwargs: P.kwargs) -> None:
        for subscriber in self._subscribers:
            subscriber(*args, **kwargs)


class Events:
    """The events of one pipeline."""

    def __init__(self) -> None:
        self.started: Signal[[]] = Signal()  # the pipeline takes messages from now on
        self.assigned: Signal[[list[Partition]]] = Signal()  # partitions have come; none of their messages has been read
        self.revoked: Signal[[list[Partition]]] = Signal()  # they are another member's from now on
        self.lost: Signal[[list[Partition]]] = Signal()  # they have been another member's for a while
        self.retried: Signal[[Job, float]] = Signal()  # it runs again in so many seconds, here
        self.retry_sent: Signal[[Job, str]] = Signal()  # it goes to this retry topic
        self.failed: Signal[[Job, BaseException]] = Signal()  # for good; its dead letter is to be sent
        self.dead_lettered: Signal[[Job]] = Signal()  # its dead letter is acknowledged, or committed
        self.passed_over: Signal[[Job]] = Signal()  # finished without being handled: ``when``, ``max_age``
        self.fenced: Signal[[Job]] = Signal()  # what became of it came after its partition was gone
        self.stuck: Signal[[Job]] = Signal()  # its handler did not end at its limit and was given up
        self.committed: Signal[[list[Partition]]] = Signal()  # offsets of these are committed
        self.aborted: Signal[[int]] = Signal()  # a transaction of so many messages


class Counts:
    """How often each of the events that are counted has come."""

    def __init__(self, events: Events) -> None:
        self.retried = 0
        self.dead_lettered = 0
        self.passed_over = 0
        self.fenced = 0
        self.stuck = 0
        self.commits = 0
        self.aborted = 0
        events.retried.subscribe(lambda job, delay: self._of(job, "retried"))
        events.retry_sent.subscribe(lambda job, topic: self._of(job, "retried"))
        events.dead_lettered.subscribe(lambda job: self._of(job, "dead_lettered"))
        events.passed_over.subscribe(lambda job: self._add("passed_over"))
        events.fenced.subscribe(lambda job: self._add("fenced"))
        events.stuck.subscribe(lambda job: self._add("stuck"))
        events.committed.subscribe(lambda partitions: self._add("commits"))
        events.aborted.subscribe(lambda count: self._add("aborted"))

    def _of(self, job: Job, name: str) -> None:
        self._add(name)
        figures = job.partition.route.figures
        setattr(figures, name, getattr(figures, name) + 1)

    def _add(self, name: str) -> None:
        setattr(self, name, getattr(self, name) + 1)
