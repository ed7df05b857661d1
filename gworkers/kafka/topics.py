"""Topics that are there, and making those that are not."""

from __future__ import annotations

import logging

from gworkers.errors import UnavailableError, one_line
from gworkers.kafka import green
from gworkers.kafka.clients import Clients

log = logging.getLogger(__name__)


def make(clients: Clients, wanted: dict[str, str]) -> None:
    """Make the topics that are not there, each with as many partitions as the topic it is for.
    Blocks.

    wanted: the topic each one is for, by its name. Raises UnavailableError with the commands to
    make them where this client may not. With the embedded broker they come into being when they are
    asked for.
    """
    if clients.embedded or not wanted:
        return
    errors = green.module("kafka.errors")
    reader = clients.reader()
    try:
        there = {topic: len(reader.partitions_for_topic(topic) or ()) for topic in reader.topics()}
    finally:
        reader.close(autocommit=False)
    missing = {name: there.get(base, -1) for name, base in wanted.items() if name not in there}
    if not missing:
        return
    admin = clients.admin()
    try:
        for name, partitions in missing.items():
            try:
                admin.create_topics({name: {"num_partitions": partitions}})
                log.info("made the topic %s", name)
            except errors.TopicAlreadyExistsError:
                pass
            except errors.KafkaError as error:
                commands = "\n".join(
                    f"  kafka-topics.sh --bootstrap-server {clients.servers} --create --topic {name}"
                    + (f" --partitions {count}" if count > 0 else "")
                    for name, count in missing.items()
                )
                told = f"the topic {name} is needed and cannot be made ({one_line(error)}); make it by\n{commands}"
                raise UnavailableError(told) from error
    finally:
        admin.close()
