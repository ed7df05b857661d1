"""What the producer knows of one output topic."""

from __future__ import annotations

from gworkers.errors import SendError
from gworkers.handlers.job import Job, Row
from gworkers.kafka.protocols import TopicPartition


class Topic:
    """An output topic: its partitions once they are known, and the rows that wait until then."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.partitions: list[TopicPartition] = []  # by number
        self.of_key: dict[bytes, int] = {}
        self.waiting: list[tuple[Row, Job]] | None = []  # None once the partitions are known
        self.next = 0  # for rows without a key: they go round
        self.most = 0  # the most partitions that it ever had
        self.error: SendError | None = None  # why nothing can be sent to it
        self.no_right: str | None = None  # the sentence when it is because this client may not

    def has(self, count: int) -> None:
        """It has so many partitions."""
        self.partitions = [TopicPartition(self.name, number) for number in range(count)]
        self.most = max(self.most, count)
        self.of_key.clear()
