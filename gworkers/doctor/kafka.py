"""The cluster: topics that are missing, too few partitions, what the retries outlast, what one may not
do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from gworkers.config.load import Loaded
from gworkers.config.units import format_duration
from gworkers.config.yaml import KeyPath, dotted
from gworkers.doctor import brokers
from gworkers.doctor.finding import Finding, Level
from gworkers.handlers.routes import Route
from gworkers.kafka import topics
from gworkers.kafka.clients import Clients
from gworkers.kafka.errors import is_kafkas
from gworkers.server.topics import waits_of


def findings(loaded: Loaded, routes: list[Route], clients: Clients) -> Iterator[Finding]:
    """Blocks; raises UnavailableError when Kafka cannot be reached."""
    config = loaded.config
    found: dict[str, int] = {}
    there: dict[str, int] = {}
    with closing(clients.reader()) as reader:
        for name, route in config.routes.items():
            for key in ("topics", "output", "dead_letter"):
                path: KeyPath = ("routes", name, key)
                where = f"{loaded.document.where(path)}: {dotted(path)}"
                given = getattr(route, key)
                for topic in given if isinstance(given, list) else [given] if given is not None else []:
                    try:
                        count = len(topics.partitions_of(reader, topic))
                    except Exception as error:
                        if not is_kafkas(error):
                            raise
                        rights = clients.rights_of_consumer() if key == "topics" else clients.rights_of_producer()
                        told = rights.missing(error) or f"the topic {topic} cannot be looked at: {error}"
                        yield Finding(Level.ERROR, told, where, "have the right given, or name another topic")
                        continue
                    if not count:
                        todo = f"kafka-topics.sh --create --topic {topic} --partitions 12 --replication-factor 3"
                        yield Finding(Level.ERROR, f"there is no topic {topic}", where, todo)
                        continue
                    there[topic] = count
                    if key == "topics":
                        found[topic] = count
    most = max(found.values(), default=0)
    if most and most < config.processes:
        path = ("processes",)
        what = f"{config.processes} processes, and no topic has more than {most} partitions: {config.processes - most} have nothing to do"
        yield Finding(Level.WARNING, what, f"{loaded.document.where(path)}: processes", "more partitions, or fewer processes")
    yield from _retention(loaded, routes, clients, found)
    yield from brokers.findings(loaded, clients, there)


def _retention(loaded: Loaded, routes: list[Route], clients: Clients, found: dict[str, int]) -> Iterator[Finding]:
    waits = {topic: wait for route in routes for topic, wait in waits_of(route) if topic in found}
    with topics.opened(clients) as opened:
        kept = opened.retention([*waits])
    for topic, wait in waits.items():
        if topic in kept and kept[topic] < wait:
            what = (
                f"a message of {topic} may wait {format_duration(round(wait))} for its last attempt, and the topic keeps it for "
                f"{format_duration(round(kept[topic]))}: after a restart it would be gone"
            )
            todo = f"retention.ms of more than {wait * 1000:.0f}, or fewer attempts"
            yield Finding(Level.WARNING, what, f"the topic {topic}", todo)
