"""The process's own rounds, once in a while: is Kafka there, are the topics there, is there anything left to do?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import gevent

from gworkers.pipeline.pipeline import Pipeline
from gworkers.pipeline.routes import Route

log = logging.getLogger("gworkers")

#: Seconds between two rounds, and how long no broker may be connected before it is said.
ROUND = 0.5
AWAY = 3.0


class Watch:
    """Says once when Kafka goes away and once when it is back, names topics that are missing, and ends an idle process."""

    def __init__(self, pipeline: Pipeline, consumer: Any, routes: list[Route], until_idle: float | None, stop: Callable[[], None]) -> None:
        self._pipeline = pipeline
        self._consumer = consumer
        self._wanted = {topic for route in routes for topic in route.config.topics}
        self._patterns = [route.config.pattern for route in routes if route.config.pattern]
        self._until_idle = until_idle
        self._stop = stop
        self._away_since: float | None = None
        self._away_said = False
        self._missing: set[str] = set()
        self._idle_since: float | None = None
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _run(self) -> None:
        rounds = 0
        while True:
            gevent.sleep(ROUND)
            rounds += 1
            self._look_for_kafka()
            if rounds % 2 == 0:
                self._look_for_topics()
                self._pipeline.producer.refresh()
            self._look_for_work()

    def _look_for_kafka(self) -> None:
        connections = list(self._consumer._client._manager._conns.values())
        now = time.monotonic()
        if any(connection.connected for connection in connections):
            if self._away_said:
                log.info("Kafka is back after %.0f s", now - (self._away_since or now))
            self._away_since, self._away_said = None, False
        elif self._away_since is None:
            self._away_since = now
        elif not self._away_said and now - self._away_since >= AWAY:
            log.warning("Kafka does not answer; trying on until it does, what is finished meanwhile is kept")
            self._away_said = True

    def _look_for_topics(self) -> None:
        """Input topics that are not there: the metadata requests that look for them also make them where the broker allows it."""
        cluster = self._consumer._manager.cluster
        known = cluster.topics(exclude_internal_topics=False)
        missing = {topic for topic in self._wanted if not cluster.partitions_for_topic(topic)} - set(known)
        for topic in sorted(missing & self._missing):
            log.warning("the topic %s does not exist, and the broker does not make it; waiting until somebody does", topic)
            self._wanted.discard(topic)
            gevent.spawn(self._wait_for, topic)
        self._missing = missing
        if missing:
            cluster.request_update()

    def _wait_for(self, topic: str) -> None:
        cluster = self._consumer._manager.cluster
        while not cluster.partitions_for_topic(topic):
            cluster.request_update()
            gevent.sleep(1.0)
        log.info("the topic %s is there now", topic)

    def _look_for_work(self) -> None:
        if self._until_idle is None:
            return
        now = time.monotonic()
        if not self._pipeline.idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = max(now, self._pipeline.consumer.last_message)
        elif now - self._idle_since >= self._until_idle:
            log.info("nothing left to do for %g s", self._until_idle)
            self._stop()
