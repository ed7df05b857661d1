"""Topics that are there, how long they keep messages, and making those that are not."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gworkers.errors import UnavailableError, one_line
from gworkers.kafka import green
from gworkers.kafka.clients import Clients
from gworkers.kafka.cluster import Cluster, kept_for
from gworkers.kafka.errors import Kind, classify

log = logging.getLogger(__name__)


#: How long an answer about topics may take, in milliseconds.
METADATA_TIMEOUT = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic to be made. like: the topic that it has as many partitions as; retention: for how many
    seconds it keeps messages."""

    like: str
    retention: float


class Topics:
    """Asks and tells the brokers about topics, over one connection. Blocks. With the embedded broker
    topics come into being when they are asked for, and nothing is known of them."""

    def __init__(self, clients: Clients, admin: Any, there: Mapping[str, int]) -> None:
        self._clients = clients
        self._admin = admin
        self.there = there  # partitions of the topics that exist

    def make(self, wanted: Mapping[str, Wanted]) -> None:
        """Make the topics that are not there. Raises UnavailableError with the commands to make them
        where this client may not."""
        errors = green.module("kafka.errors")
        missing = {name: one for name, one in wanted.items() if name not in self.there}
        for name, one in missing.items():
            options = {"num_partitions": self.there.get(one.like, -1), "configs": {"retention.ms": str(_ms(one.retention))}}
            try:
                self._admin.create_topics({name: options})
                log.info("made the topic %s", name)
            except errors.TopicAlreadyExistsError:
                pass
            except errors.KafkaError as error:
                commands = "\n".join(self._command(name, one) for name, one in missing.items())
                told = f"the topic {name} is needed and cannot be made: {_why(error)}; make it by\n{commands}"
                raise UnavailableError(told) from error

    def _command(self, name: str, wanted: Wanted) -> str:
        count = self.there.get(wanted.like, -1)
        partitions = f" --partitions {count}" if count > 0 else ""
        return (
            f"  kafka-topics.sh --bootstrap-server {self._clients.servers} --create --topic {name}{partitions} "
            f"--config retention.ms={_ms(wanted.retention)}"
        )

    def retention(self, names: Collection[str]) -> dict[str, float]:
        """For how many seconds topics keep messages, ``math.inf`` for those that keep all; without
        those that are not there. What cannot be read is told in the log, and left out."""
        names = [name for name in names if name in self.there]
        try:
            told = Cluster(self._admin).of_topics(names) if names else {}
        except UnavailableError as error:
            log.info("how long %s keep messages cannot be read: %s", ", ".join(names), error)
            return {}
        return {name: kept_for(settings) for name, settings in told.items()}


def partitions_of(consumer: Any, topic: str) -> set[int]:
    """The partitions of a topic as a KafkaConsumer sees them, none where it does not exist; it is not
    made. Blocks. Raises TopicAuthorizationFailedError where the consumer may not see it."""
    manager = consumer._manager
    cluster = manager.cluster
    cluster.config["allow_auto_create_topics"] = False
    try:
        future = cluster.set_topics([topic])
    except ValueError:  # no topic can have this name
        return set()
    with contextlib.suppress(green.module("kafka.errors").UnknownTopicOrPartitionError):
        manager.run(manager.wait_for, future, METADATA_TIMEOUT)
        if cluster.partitions_for_topic(topic) is None:  # it was the answer to a request under way, for other topics
            manager.run(manager.wait_for, cluster.request_update(), METADATA_TIMEOUT)
    if topic in cluster.unauthorized_topics:
        raise green.module("kafka.errors").TopicAuthorizationFailedError({topic})
    return set(cluster.partitions_for_topic(topic) or ())


@contextmanager
def opened(clients: Clients) -> Iterator[Topics]:
    """Topics, closed at the end."""
    reader = clients.reader()
    try:
        there = {topic: len(reader.partitions_for_topic(topic) or ()) for topic in reader.topics()}
    finally:
        reader.close(autocommit=False)
    admin = clients.admin()
    try:
        yield Topics(clients, admin, there)
    finally:
        admin.close()


def _why(error: Exception) -> str:
    """kafka-python tells the whole request and the whole answer."""
    if classify(error) in (Kind.TOPIC_NOT_ALLOWED, Kind.CLUSTER_NOT_ALLOWED):
        return "this client has no right to"
    found = re.search(r"error_message='([^']+)'", str(error))
    return found[1] if found is not None else one_line(error)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
