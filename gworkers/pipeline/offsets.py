"""Which offsets of one partition are finished: pure bookkeeping, no Kafka, no gevent.

1. ``begin`` notes offsets as they are read, in rising order; compaction and transaction markers leave holes.
2. ``finish`` notes them finished, in any order.
3. ``position`` is what may be committed: the lowest offset that is not finished.

Every call is O(1) amortised: an offset enters the queue once and leaves it once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Offsets:
    """The finished and unfinished offsets of one assignment of one partition."""

    __slots__ = ("_finished", "_unfinished", "next")

    def __init__(self, start: int | None = None) -> None:
        self.next = start  # the offset after the highest one read; None before the first when nothing is committed
        self._unfinished: deque[int] = deque()
        self._finished: set[int] = set()

    def begin(self, offset: int) -> None:
        self._unfinished.append(offset)
        self.next = offset + 1

    def skip_to(self, offset: int) -> None:
        """The next message will have this offset or a higher one: between it and the last there is nothing to finish."""
        if self.next is None or offset > self.next:
            self.next = offset

    def finish(self, offset: int) -> None:
        unfinished = self._unfinished
        if unfinished and unfinished[0] == offset:
            unfinished.popleft()
            finished = self._finished
            while unfinished and unfinished[0] in finished:
                finished.remove(unfinished.popleft())
        else:
            self._finished.add(offset)

    @property
    def position(self) -> int | None:
        """The lowest unfinished offset, or the next one to be read when all are finished; None while neither is known."""
        return self._unfinished[0] if self._unfinished else self.next

    def unfinished(self) -> Iterable[int]:
        """The offsets that are read and not finished, in rising order: O(span), for reports and for the offset map."""
        finished = self._finished
        return (offset for offset in self._unfinished if offset not in finished)

    def __len__(self) -> int:
        """How many are unfinished."""
        return len(self._unfinished) - len(self._finished)

    @property
    def ahead(self) -> int:
        """How many finished offsets lie beyond ``position``."""
        return len(self._finished)
