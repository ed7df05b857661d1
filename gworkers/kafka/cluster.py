"""What the brokers allow and how topics are kept, as an administrator's client is told it. Blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from gworkers.errors import UnavailableError, one_line
from gworkers.kafka import green
from gworkers.kafka.clients import Clients

#: Names of settings, to what they are set to.
Settings = dict[str, str]


class Cluster:
    """Each question raises UnavailableError where it is not answered, with the reason."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin

    @property
    def version(self) -> tuple[int, ...]:
        """Of its brokers, by the requests that they know: of a newer one the newest that the client
        knows."""
        return tuple(self._admin._manager.broker_version or ())

    def of_brokers(self) -> Settings:
        """What one of the brokers is set to."""
        told = self._ask(self._admin.describe_cluster)
        node = str(min(broker["broker_id"] for broker in told["brokers"]))
        return self._settings("broker", [node])[node]

    def of_topics(self, names: Collection[str]) -> dict[str, Settings]:
        """What topics are set to, of their own or by their brokers."""
        return self._settings("topic", names)

    def replicas(self, names: Collection[str]) -> dict[str, int]:
        """How many replicas topics have, the least of their partitions."""
        told = self._ask(lambda: self._admin.describe_topics(list(names)))
        counts = {topic["name"]: [len(partition["replica_nodes"]) for partition in topic["partitions"]] for topic in told}
        return {name: min(each) for name, each in counts.items() if each}

    def newest(self, partitions: Collection[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, float]]:
        """The offset and the time, in seconds since the epoch, of the message with the latest time;
        without partitions that are empty. Apache Kafka 3.0 or later answers it."""
        partition_of, latest = green.module("kafka").TopicPartition, green.module("kafka.admin").OffsetSpec.MAX_TIMESTAMP
        asked = {partition_of(*one): latest for one in partitions}
        told = self._ask(lambda: self._admin.list_partition_offsets(asked))
        return {tuple(one): (found.offset, found.timestamp / 1000) for one, found in told.items() if found.offset >= 0}

    def _settings(self, kind: str, names: Collection[str]) -> dict[str, Settings]:
        resource = green.module("kafka.admin").ConfigResource
        told = self._ask(lambda: self._admin.describe_configs([resource(kind, name) for name in names], config_filter="all"))
        return {
            str(name): {key: str(one["value"]) for key, one in configs.items() if one.get("value") is not None}
            for name, configs in told.get(kind, {}).items()
        }

    @staticmethod
    def _ask(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except green.module("kafka.errors").KafkaError as error:
            raise UnavailableError(one_line(error)) from error


def kept_for(topic: Settings) -> float:
    """For how many seconds a topic that is set to this keeps messages, ``math.inf`` for one that keeps
    all."""
    retention = int(topic.get("retention.ms", -1))
    deletes = "delete" in topic.get("cleanup.policy", "delete")
    return retention / 1000 if deletes and retention >= 0 else math.inf


@contextmanager
def opened(clients: Clients) -> Iterator[Cluster]:
    """Closed at the end. Raises UnavailableError when Kafka cannot be reached."""
    admin = clients.admin()
    try:
        yield Cluster(admin)
    finally:
        admin.close()
