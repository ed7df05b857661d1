"""The process's own rounds, once in a while: is Kafka there, are the topics there, is there
anything left to do?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import gevent

from gworkers.errors import UnavailableError
from gworkers.handlers.routes import Route
from gworkers.kafka.protocols import Group
from gworkers.loop import Fatal, Loop, after
from gworkers.pipeline.snapshot import Snapshot

log = logging.getLogger("gworkers")

#: Seconds between two rounds, between two looks for a topic, and how long no broker may be
#: connected before it is said.
ROUND_INTERVAL = 0.5
TOPIC_INTERVAL = 1.0
SAY_AWAY_AFTER = 3.0
#: Seconds between two looks where partitions end of which nothing is read.
ENDS_INTERVAL = 1.0
#: How long the group may take to let this process in before it is said, in seconds.
SAY_GROUP_AFTER = 5.0
#: Seconds between two looks for why Kafka cannot be used.
LOOK_INTERVAL = 5.0


class Watch:
    """Says once when Kafka goes away and once when it is back, names topics that are missing, and
    ends an idle process."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        group: Group,
        routes: list[Route],
        until_idle: float | None,
        stop: Callable[[], None],
        fatal: Fatal,
    ) -> None:
        self._snapshot = snapshot
        self._group = group
        self._wanted = {topic for route in routes for topic in route.config.topics}
        self._until_idle = until_idle
        self._stop = stop
        self._fatal = fatal
        self._away_since: float | None = None
        self._begun = time.monotonic()
        self._group_said = False
        self._away_said = False
        self._why = ""
        self._looked = 0.0
        self._missing: set[str] = set()
        self._idle_since: float | None = None
        self._loop = Loop("watch", self._run, fatal)
        self._ends = Loop("ends", self._look_for_ends, fatal)
        self._look_ups: list[Loop] = []

    def start(self) -> None:
        self._loop.start()
        self._ends.start()

    def stop(self) -> None:
        for loop in (self._loop, self._ends, *self._look_ups):
            loop.stop()

    def _run(self) -> None:
        rounds = 0
        while True:
            gevent.sleep(ROUND_INTERVAL)
            rounds += 1
            snapshot = self._snapshot()
            self._look_for_kafka(snapshot)
            self._look_for_the_group(snapshot)
            if rounds % 2 == 0:
                self._look_for_topics()
            self._look_for_work(snapshot)

    def _look_for_kafka(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if snapshot.connected:
            if self._away_said:
                log.info("Kafka is back after %.0f s", now - (self._away_since or now))
            self._away_since, self._away_said = None, False
        elif self._away_since is None:
            self._away_since = now
        elif not self._away_said and now - self._away_since >= SAY_AWAY_AFTER:
            self._group.look_for_trouble()
            trouble = self._group.trouble
            why = f": {trouble.text}" if trouble is not None else ""
            log.warning("Kafka does not answer; gworkers keeps trying, and keeps the results that are finished until then%s", why)
            self._away_said, self._why = True, why
        elif now - self._looked > LOOK_INTERVAL:
            self._looked = now
            self._group.look_for_trouble()
            trouble = self._group.trouble
            if trouble is not None and trouble.refused and f": {trouble.text}" != self._why:
                self._why = f": {trouble.text}"
                log.warning("Kafka is there again and cannot be used%s", self._why)

    def _look_for_the_group(self, snapshot: Snapshot) -> None:
        """Say once that the group is waited for when it has not let this process in for a while."""
        if snapshot.joined or self._group_said:
            self._group_said = True
        elif snapshot.connected and time.monotonic() - self._begun > SAY_GROUP_AFTER:
            self._group_said = True
            log.info(
                "waiting for the group: one of its members does not answer, perhaps because it died on another machine; its session ends "
                "within %.0f s (kafka.consumer.session_timeout_ms), and kafka.group_instance_id avoids this",
                self._group.membership.session,
            )

    def _look_for_topics(self) -> None:
        """Input topics that are not there: the metadata requests that look for them also make them
        where the broker allows it."""
        no_right = self._group.no_right_to_read(self._wanted)
        if no_right is not None:
            raise UnavailableError(no_right)
        missing = self._group.missing(self._wanted)
        for topic in sorted(missing & self._missing):
            log.warning("the topic %s does not exist, and the broker does not make it; waiting until somebody does", topic)
            self._wanted.discard(topic)
            self._look_ups.append(after(0.0, f"wait for {topic}", self._fatal, self._wait_for, topic))
        self._missing = missing
        if missing:
            self._group.look_for_topics()

    def _look_for_ends(self) -> None:
        """While a partition is paused, no fetch tells how much comes after what was read of it."""
        while True:
            gevent.sleep(ENDS_INTERVAL)
            self._group.look_for_ends()

    def _wait_for(self, topic: str) -> None:
        while self._group.missing([topic]):
            self._group.look_for_topics()
            gevent.sleep(TOPIC_INTERVAL)
        log.info("the topic %s is there now", topic)

    def _look_for_work(self, snapshot: Snapshot) -> None:
        if self._until_idle is None:
            return
        now = time.monotonic()
        if not snapshot.idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = max(now, now - snapshot.last_message_age)
        elif now - self._idle_since >= self._until_idle:
            log.info("nothing left to do for %g s", self._until_idle)
            self._stop()
