"""The cluster: topics that are missing, too few partitions, what one may not do; the rest is in
gworkers.doctor.brokers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from gworkers.config.load import Loaded
from gworkers.doctor import brokers
from gworkers.doctor.finding import Finding, Level, where_of
from gworkers.handlers.routes import Route
from gworkers.kafka import topics
from gworkers.kafka.clients import Clients
from gworkers.kafka.errors import is_kafkas


def findings(loaded: Loaded, routes: list[Route], clients: Clients) -> Iterator[Finding]:
    """Blocks; raises UnavailableError when Kafka cannot be reached."""
    config = loaded.config
    there: dict[str, int] = {}
    with closing(clients.reader()) as reader:
        for name, route in config.routes.items():
            for key in ("topics", "output", "dead_letter"):
                where = where_of(loaded, "routes", name, key)
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
                    if count:
                        there[topic] = count
                    else:
                        todo = f"kafka-topics.sh --create --topic {topic} --partitions 12 --replication-factor 3"
                        yield Finding(Level.ERROR, f"there is no topic {topic}", where, todo)
    read = {topic: count for topic, count in there.items() if any(topic in route.topics for route in config.routes.values())}
    most = max(read.values(), default=0)
    if most and most < config.processes:
        what = f"{config.processes} processes, and no topic has more than {most} partitions: {config.processes - most} have nothing to do"
        yield Finding(Level.WARNING, what, where_of(loaded, "processes"), "more partitions, or fewer processes")
    yield from brokers.findings(loaded, routes, clients, there, read)
