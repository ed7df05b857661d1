"""Topics that are there, how long they keep messages, and making those that are not."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gworkers.errors import UnavailableError, one_line
from gworkers.kafka import green
from gworkers.kafka.clients import Clients

log = logging.getLogger(__name__)


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
                told = f"the topic {name} is needed and cannot be made ({one_line(error)}); make it by\n{commands}"
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
        resource = green.module("kafka.admin").ConfigResource
        found: dict[str, float] = {}
        try:
            told = self._admin.describe_configs([resource("topic", name) for name in names], config_filter="all") if names else {}
        except green.module("kafka.errors").KafkaError as error:
            log.info("how long %s keep messages cannot be read: %s", ", ".join(names), one_line(error))
            return {}
        for name, configs in told.get("topic", {}).items():
            value = configs.get("retention.ms", {}).get("value")
            if "delete" in str(configs.get("cleanup.policy", {}).get("value", "delete")) and value is not None:
                found[name] = int(value) / 1000 if int(value) >= 0 else math.inf
            else:
                found[name] = math.inf
        return found


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


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
