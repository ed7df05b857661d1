"""Whether this process may still believe that its partitions are its own.

A process that was stopped for longer than the session time-out (SIGSTOP, a laptop's lid, a machine
that was moved) wakes up and finds results ready to be sent for partitions that somebody else has
had for a while. The broker refuses its commits; nobody refuses its results. So before results leave
the process, the last sign of life that the group's coordinator has acknowledged must be younger
than the session time-out; otherwise they wait until it is confirmed or the partitions are known to
be lost.

This file knows the inside of kafka-python; gworkers/kafka/versions.py says of which versions.
"""

from __future__ import annotations

import time
from typing import Any

from gworkers.figures import Histogram, Times
from gworkers.kafka import green

#: Seconds between two looks while results wait for the membership to be confirmed.
ASK_AGAIN = 0.05

#: The longest that one attempt to join the group may take, in milliseconds: others may take their
#: time to let go of partitions.
JOIN_MS = 30_000


class KafkaMembership:
    """Asked by whoever sends. All on the hub's thread. session: how long the group waits for a sign
    of life, in seconds."""

    def __init__(self, consumer: Any) -> None:
        self._coordinator = consumer._coordinator
        self.session = self._coordinator.config["session_timeout_ms"] / 1000
        self._stable = green.module("kafka.structs").MemberState.STABLE
        self._sure = True
        self._joins = Histogram()

    def sure(self) -> bool:
        """Whether results may be sent. While the group is being joined anew it is what it was
        before, until the membership is known."""
        coordinator = self._coordinator
        if coordinator.state == self._stable:
            beat = coordinator.heartbeat
            # From when the last acknowledged heartbeat was sent: its answer may have lain in the
            # socket while this process was stopped.
            acknowledged = max(min(beat.last_send, beat.last_receive), beat.last_reset)
            self._sure = time.monotonic() - acknowledged < self.session
        elif coordinator._generation.is_lost():
            self._sure = False
        return self._sure

    def joined(self) -> bool:
        """Whether this process is a member of the group, with partitions or without."""
        return bool(self._coordinator.state == self._stable)

    @property
    def member_id(self) -> str:
        """Who this process is to its group; empty while it is nobody."""
        return str(self._coordinator._generation.member_id or "")

    def join(self) -> None:
        """Join the group anew, if that is needed. Blocks, for JOIN_MS at the most: a ``poll()``
        gives up a join sooner, and one that is done when nobody waits for it is begun again, which
        makes the whole group rebalance once more."""
        coordinator = self._coordinator
        if coordinator.rejoining or coordinator.need_rejoin():
            begun = time.monotonic()
            coordinator.poll(timeout_ms=JOIN_MS)
            if self.joined():
                self._joins.add(time.monotonic() - begun)

    @property
    def joins(self) -> Times:
        return self._joins.times

    def fenced(self) -> bool:
        """Whether another process has joined under this one's group_instance_id. kafka-python stops
        its heartbeats then, without a word."""
        return self._coordinator.state == self._stable and not self._coordinator._heartbeat_enabled
