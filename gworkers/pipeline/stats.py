"""What the pipeline counts. Written on the hub only; whoever shows figures reads them there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """Counts since the start of the process."""

    started: float = field(default_factory=time.monotonic)
    polled: int = 0  # messages read from Kafka
    done: int = 0  # settled: acknowledged, dead-lettered, or nothing to send
    sent: int = 0  # results acknowledged, dead letters included
    retried: int = 0  # attempts after the first
    dead_lettered: int = 0
    passed_over: int = 0  # not handled, because of ``when`` or ``max_age``
    fenced: int = 0  # completions that came after their partition was revoked
    skipped: int = 0  # messages read again that a restored map knew to be finished
    stuck: int = 0  # handlers that did not end at their limit, and whose threads were given up
    commits: int = 0
    aborted: int = 0  # transactions whose results had to be sent again
    busy: float = 0.0  # seconds handlers took together
    running: int = 0  # jobs in the hands of an executor


class Buffer:
    """What is in the process, by count and by bytes, against what may be (the configuration's ``buffer``).

    A message holds its room from being read until it is settled or given back; its results are added when they are known.
    """

    __slots__ = ("bytes", "max_bytes", "max_messages", "messages")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.messages = 0
        self.bytes = 0

    @property
    def room(self) -> int:
        """How many more messages may be read; 0 when the bytes are used up."""
        return max(0, self.max_messages - self.messages) if self.bytes < self.max_bytes else 0

    @property
    def low(self) -> bool:
        """True when reading may go on after it was stopped: three quarters of both bounds are enough to keep everybody busy."""
        return self.messages <= 0.75 * self.max_messages and self.bytes <= 0.75 * self.max_bytes
