"""Which leader wrote what was read (KIP-320): a commit says so, and whoever goes on from it notices
when the partition has lost its end since (an unclean leader election) and offsets were given again."""

from __future__ import annotations

from gworkers.kafka.protocols import TopicPartition


class LeaderEpochs:
    """By partition, from which offset on which epoch holds. An epoch changes with the leader, so these
    lists are short. On the hub's thread."""

    def __init__(self) -> None:
        self._spans: dict[TopicPartition, list[tuple[int, int]]] = {}

    def begin(self, tp: TopicPartition, offset: int, epoch: int) -> None:
        """A partition has come, and is read from ``offset`` on; ``epoch`` is of the record before, -1
        when that is not known."""
        self._spans[tp] = [(offset - 1, epoch)]

    def read(self, tp: TopicPartition, offset: int, epoch: int) -> None:
        """A batch that begins at ``offset`` was read."""
        spans = self._spans.setdefault(tp, [])
        if spans and spans[-1][1] == epoch and spans[-1][0] < offset:
            return
        while spans and spans[-1][0] >= offset:  # it is read again
            spans.pop()
        if not spans or spans[-1][1] != epoch:
            spans.append((offset, epoch))

    def before(self, tp: TopicPartition, offset: int) -> int:
        """The epoch of the record before ``offset``, -1 when it is not known. What is older is
        forgotten: commits go forward."""
        spans = self._spans.get(tp, [])
        while len(spans) > 1 and spans[1][0] < offset:
            del spans[0]
        return spans[0][1] if spans and spans[0][0] < offset else -1
