"""Which offsets of one partition are finished: pure bookkeeping, no Kafka, no gevent.

1. ``restore`` takes over what an earlier owner left in the commit's metadata;
2. ``begin`` notes offsets as they are read, in rising order; compaction and transaction markers
   leave holes;
3. ``finish`` notes them finished, in any order;
4. ``position`` is what may be committed: the lowest offset that is not finished; ``metadata`` says
   what is finished beyond it.

Every call but ``metadata`` is O(1), and memory is that of the unfinished offsets alone, however far
the finished ones are ahead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gworkers.offsets import offset_map
from gworkers.offsets.offset_map import OffsetMap


class Offsets:
    """The finished and unfinished offsets of one assignment of one partition.

    next: the offset after the highest one read, None while that is unknown; end: the offset after
    the highest finished one; changes: counts what may have changed position or metadata.
    """

    __slots__ = ("_known", "_known_end", "_unfinished", "changes", "end", "next", "topic_id")

    def __init__(self, start: int | None = None, topic_id: bytes | None = None) -> None:
        self.topic_id = topic_id  # 16 bytes; None where it is not known
        self.next = start
        self.end = start if start is not None else 0
        self.changes = 0
        self._unfinished: OrderedDict[int, None] = OrderedDict()  # its front is found in O(1), a plain dict's is not
        self._known: list[int] = []  # unfinished offsets of a restored map that have not been read again, falling
        self._known_end = 0  # below it everything else is finished already

    def restore(self, found: OffsetMap) -> None:
        """Begin where an earlier owner stopped: below ``found.end`` only ``found.unfinished`` is to
        be run."""
        self._known = list(reversed(found.unfinished))
        self._known_end = self.end = found.end
        for offset in found.unfinished:
            self._unfinished[offset] = None

    def reaches_beyond(self, end: int) -> bool:
        """Whether a restored map says of offsets from ``end``, the end of the log, on that they are
        finished, which nobody can know."""
        return self._known_end > end

    def forget(self) -> None:
        """What was restored is not believed after all: everything that is read from now on is to be
        run."""
        for offset in self._known:
            self._unfinished.pop(offset, None)
        self._known.clear()
        self._known_end = 0
        self.end = self.next if self.next is not None else 0
        self.changes += 1

    @property
    def restoring(self) -> bool:
        """Whether what is read may be finished already: ask ``wanted`` for each offset then."""
        return self._known_end > 0

    def wanted(self, offset: int) -> bool:
        """Whether the message at ``offset``, the next one read, is to be run. Offsets passed over
        are gone from Kafka, so finished."""
        known = self._known
        while known and known[-1] < offset:
            self.finish(known.pop())
        if offset >= self._known_end:
            self._known_end = 0
            return True
        if known and known[-1] == offset:
            known.pop()
            return True
        self.next = offset + 1
        return False

    def begin(self, offset: int) -> None:
        self._unfinished[offset] = None
        self.next = offset + 1

    def skip_to(self, offset: int) -> None:
        """The next message will have this offset or a higher one: between it and the last there is
        nothing to finish."""
        if self.next is None or offset > self.next:
            self.next = offset
            self.changes += 1
            while self._known and self._known[-1] < offset:
                self.finish(self._known.pop())

    def finish(self, offset: int) -> None:
        del self._unfinished[offset]
        if offset >= self.end:
            self.end = offset + 1
        self.changes += 1

    def unfinish(self, offsets: Sequence[int]) -> None:
        """These were noted as finished and are not after all. O(unfinished), so nothing for every
        message."""
        for offset in sorted({*self._unfinished, *offsets}):
            self._unfinished[offset] = None
            self._unfinished.move_to_end(offset)
        self.changes += 1

    @property
    def position(self) -> int | None:
        """The lowest unfinished offset, or the next one to be read when all are finished; None
        while neither is known."""
        for offset in self._unfinished:
            return offset
        return max(self.next, self.end) if self.next is not None else None

    @property
    def ahead(self) -> int:
        """How many offsets from the position on have been read and need not be run."""
        position = self.position
        return max(0, self.next - position - len(self)) if self.next is not None and position is not None else 0

    def metadata(self) -> tuple[str, bool]:
        """What is finished beyond ``position``, for the commit, and whether all of it found room.
        O(unfinished)."""
        position = self.position
        if position is None or position >= self.end:
            return "", True
        unfinished = [offset for offset in self._unfinished if offset < self.end]
        text = offset_map.encode(position, unfinished, self.end, self.topic_id)
        if text is not None:
            return text, True
        return self._as_much_as_fits(position, unfinished), False

    def _as_much_as_fits(self, position: int, unfinished: Sequence[int]) -> str:
        """The map of a shorter span: offsets beyond it would be run again after a restart, and none
        would be lost."""
        low, high, best = 0, len(unfinished), ""
        while low < high:
            middle = (low + high + 1) // 2
            text = offset_map.encode(position, unfinished[:middle], unfinished[middle - 1] + 1, self.topic_id)
            if text is None:
                high = middle - 1
            else:
                low, best = middle, text
        return best

    def crowded(self, more: int) -> bool:
        """Whether with ``more`` further messages the map could become too large for the commit.
        O(1)."""
        position = self.position
        if position is None or self.next is None:
            return False
        return not offset_map.surely_fits(len(self._unfinished) + more, max(self.next, self.end) - position + more)

    def unfinished(self) -> Sequence[int]:
        """The offsets that are to be finished, in rising order: those that have been read, and
        those a restored map names."""
        return list(self._unfinished)

    def __len__(self) -> int:
        """How many are unfinished."""
        return len(self._unfinished)
