"""Messages that this group will never see, said in the log: what retention has deleted before it was
handled, and what ``auto_offset_reset: latest`` passes over.

What compaction and the markers of transactions leave out needs no word.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from gworkers.errors import one_line
from gworkers.handlers.partition import Partition
from gworkers.kafka.protocols import Group, TopicPartition
from gworkers.loop import Fatal, Loop

log = logging.getLogger(__name__)

#: A hole between offsets that is looked into: compaction and transactions make smaller ones all the
#: time.
LARGE_HOLE = 10_000
#: The same where messages wait in their topic, for a delay or another attempt, and may be deleted
#: meanwhile: a marker of a transaction is a hole of one.
SMALL_HOLE = 2
#: Seconds between two looks for where a partition goes on, and how often it is looked.
LOOK_INTERVAL = 0.1
LOOKS = 300


class Gaps:
    """Looks where a partition begins, on a greenlet of its own, and tells what is missing. Nothing
    here blocks."""

    def __init__(self, group: Group, fatal: Fatal) -> None:
        self._group = group
        self._fatal = fatal

    def seen(self, tp: TopicPartition, partition: Partition, expected: int, offset: int) -> None:
        """Offsets from ``expected`` to before ``offset`` did not come."""
        known = partition.started
        partition.started = True
        if not known or offset - expected >= (SMALL_HOLE if partition.delay else LARGE_HOLE):
            self._look(tp, lambda: self._deleted(tp, expected, offset))

    def look_for_resets(self) -> None:
        """After each poll: where an offset was out of range, tell what is passed over."""
        for tp, offset in self._group.out_of_range():

            def look(tp: TopicPartition = tp, offset: int = offset) -> None:
                self._passed_over(tp, offset)

            self._look(tp, look)

    def _look(self, tp: TopicPartition, look: Callable[[], None]) -> None:
        def run() -> None:
            try:
                look()
            except Exception as error:  # kafka-python's own, or the client is being closed: nothing hangs on it
                log.debug("where %s[%d] begins cannot be told: %s", tp.topic, tp.partition, one_line(error))

        Loop(f"look at the beginning of {tp.topic}[{tp.partition}]", run, self._fatal, ends=True).start()

    def _deleted(self, tp: TopicPartition, expected: int, offset: int) -> None:
        begins = self._group.beginning(tp)
        if begins > expected:
            log.warning(
                "%s[%d]: retention has deleted the offsets from %d to %d before their messages were handled; it goes on at %d",
                tp.topic,
                tp.partition,
                expected,
                begins - 1,
                offset,
            )

    def _passed_over(self, tp: TopicPartition, offset: int) -> None:
        position = None
        for _ in range(LOOKS):
            gevent.sleep(LOOK_INTERVAL)
            position = dict(self._group.positions()).get(tp)
            if position is not None and position != offset:
                break
        begins = self._group.beginning(tp)
        if position is not None and position > begins:
            log.warning(
                "%s[%d]: the group's offset %d was out of range, and kafka.consumer.auto_offset_reset is latest: the %d messages "
                "from %d to %d are not handled; kafka-consumer-groups.sh --reset-offsets --to-earliest has them handled",
                tp.topic,
                tp.partition,
                offset,
                position - begins,
                begins,
                position - 1,
            )
