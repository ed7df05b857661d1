"""What the commands share: where the configuration is, what is laid over it, and where its Kafka
is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gworkers.config.load import Loaded, load
from gworkers.errors import GworkersError, UnavailableError, one_line
from gworkers.handlers.routes import matches
from gworkers.kafka import green, topics
from gworkers.kafka.clients import Clients
from gworkers.kafka.errors import is_kafkas
from gworkers.supervisor import run_file

#: Where a command's clients are kept for whoever tells its errors.
_CLIENTS = "gworkers.clients"


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options -c and --set, for every command; and what Kafka refuses it is a sentence."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if isinstance(error, (GworkersError, click.ClickException)) or not is_kafkas(error):
                raise
            raise UnavailableError(kafka_says(error)) from error

    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="A.B.C=VALUE",
        help="Lay a value over the file; may be given several times.",
    )(command)
    return click.option(
        "-c",
        "--config",
        "file",
        type=click.Path(path_type=Path),
        required=True,
        help="The configuration file (YAML).",
    )(command)


def given_of(file: Path, overrides: tuple[str, ...]) -> list[str]:
    """The options that name this configuration to another command."""
    return ["-c", str(file), *(part for assignment in overrides for part in ("--set", assignment))]


def kafka_says(error: BaseException, *, writing: bool = False) -> str:
    """What an error of kafka-python means to whoever has called a command. writing: whether the
    command was about to write to a topic, and not to read."""
    clients: Clients | None = click.get_current_context().meta.get(_CLIENTS)
    if clients is None:
        return one_line(error)
    rights = clients.rights_of_producer() if writing else clients.rights_of_consumer()
    return rights.missing(error) or f"Kafka at {clients.servers} cannot be asked: {one_line(error)}"


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def clients_of(file: Path, overrides: tuple[str, ...]) -> tuple[Loaded, Clients]:
    """Clients for the Kafka of a configuration; for an embedded broker, that of the server which
    runs this file.

    Raises UnavailableError when no such server runs.
    """
    loaded = load(file, overrides)
    servers = loaded.config.kafka.bootstrap_servers
    if servers == "embedded":
        facts = run_file.read(file)
        if facts is None:
            raise UnavailableError(
                f"{file} uses the embedded broker, which lives in its server, and no server runs it; start one with gworkers -c {file}"
            )
        servers = facts["servers"]
    clients = click.get_current_context().meta[_CLIENTS] = Clients(loaded, servers)
    return loaded, clients


def partitions_of(consumer: Any, loaded: Loaded) -> list[Any]:
    """Those that the routes consume. Blocks; raises UnavailableError when there are none."""
    structs = green.module("kafka.structs")
    routes = loaded.config.routes.values()
    found = {topic: topics.partitions_of(consumer, topic) for route in routes for topic in route.topics}
    if any(route.pattern for route in routes):
        for topic in consumer.topics() - found.keys():
            if any(matches(route, topic) for route in routes):
                found[topic] = consumer.partitions_for_topic(topic)
    tps = [structs.TopicPartition(topic, number) for topic, numbers in sorted(found.items()) for number in sorted(numbers)]
    if not tps:
        raise UnavailableError("none of the routes' topics exists")
    return tps
