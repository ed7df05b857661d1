"""``gworkers tail``: messages of a topic as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.common import clients_of, configured, examples
from gworkers.cli.places import milliseconds
from gworkers.config.load import Loaded
from gworkers.errors import UnavailableError, UsageError, one_line
from gworkers.handlers import loading
from gworkers.handlers.job import Job
from gworkers.kafka import green, topics
from gworkers.kafka.reading import read_lean
from gworkers.text import cut, text_of

Decode = Callable[[str, Job], str]


@click.command(
    epilog=examples(
        "gworkers tail priced -c conf/app.yaml",
        "gworkers tail orders.dead -c conf/app.yaml --from beginning -n 10 --json",
        "gworkers tail priced -c conf/app.yaml --from 15m          (what came in the last 15 minutes)",
        "gworkers tail priced -c conf/app.yaml --from 2026-11-23T10:00:00",
        "gworkers tail orders -c conf/app.yaml --as price          (values as the route price decodes them)",
        "gworkers tail priced -c conf/app.yaml --from 0:1500       (partition 0 from offset 1500)",
    )
)
@click.argument("topic")
@configured
@click.option(
    "--from",
    "start",
    default="end",
    show_default=True,
    metavar="WHERE",
    help="beginning, end, an offset, partition:offset, a time (ISO 8601), or a duration ago.",
)
@click.option("-n", "count", type=click.IntRange(min=1), help="End after so many messages.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--raw", is_flag=True, help="Show control characters as they are, for a pipe.")
@click.option("--as", "route", metavar="ROUTE", help="Show values as this route decodes them.")
@click.option("--no-follow", is_flag=True, help="End when everything that was there has been shown.")
def tail(
    topic: str,
    file: Path,
    overrides: tuple[str, ...],
    start: str,
    count: int | None,
    as_json: bool,
    raw: bool,
    route: str | None,
    no_follow: bool,
) -> None:
    """Show the messages of TOPIC: partition@offset, time, key, headers, value."""
    loaded, clients = clients_of(file, overrides)
    decode = _decoding(loaded, route) if route is not None else None
    consumer = clients.reader(isolation_level="read_committed") if clients.servers != "embedded" else clients.reader()
    try:
        read_lean(consumer)
        tps = _partitions(consumer, topic, clients.embedded)
        consumer.assign(tps)
        _seek(consumer, tps, start)
        ends = consumer.end_offsets(tps) if no_follow else {}
        shown = 0
        while True:
            if no_follow and all(consumer.position(tp) >= ends[tp] for tp in consumer.assignment()):
                return
            for tp, jobs in consumer.poll(timeout_ms=500).items():
                for job in jobs:
                    if as_json:
                        terminal.echo_json(_facts(tp, job, decode))
                    else:
                        terminal.echo(_text(tp, job, decode), raw=raw)
                    shown += 1
                    if shown == count:
                        return
    except KeyboardInterrupt:
        return
    finally:
        consumer.close(autocommit=False)


def _partitions(consumer: Any, topic: str, embedded: bool) -> list[Any]:
    deadline = time.monotonic() + (10 if embedded else 0)  # there it comes into being when it is first asked for
    numbers = topics.partitions_of(consumer, topic)
    while not numbers and time.monotonic() < deadline:
        numbers = set(consumer.partitions_for_topic(topic) or ()) if topic in consumer.topics() else set()
    if numbers:
        return [green.module("kafka.structs").TopicPartition(topic, number) for number in sorted(numbers)]
    raise UnavailableError(f"there is no topic {topic}; there are {', '.join(sorted(consumer.topics())) or 'none'}")


def _seek(consumer: Any, tps: list[Any], start: str) -> None:
    if start == "beginning":
        consumer.seek_to_beginning(*tps)
    elif start == "end":
        consumer.seek_to_end(*tps)
    elif start.isdigit():
        for tp in tps:
            consumer.seek(tp, int(start))
    elif all(part.isdigit() for part in start.split(":")) and start.count(":") == 1:
        number, offset = map(int, start.split(":"))
        chosen = [tp for tp in tps if tp.partition == number]
        if not chosen:
            raise UsageError(f"--from {start}: there is no partition {number}; there are {len(tps)}")
        consumer.assign(chosen)
        consumer.seek(chosen[0], offset)
    else:
        when = moment(start, "--from")
        consumer.seek_to_end(*tps)
        for tp, found in consumer.offsets_for_times(dict.fromkeys(tps, when)).items():
            if found is not None:
                consumer.seek(tp, found.offset)


def moment(text: str, option: str) -> int:
    """Milliseconds since the epoch of a time, or of a duration before now."""
    try:
        return milliseconds(text)
    except ValueError:
        more = "beginning, end, an offset, partition:offset, " if option == "--from" else ""
        raise UsageError(f"{option} {text}: expected {more}a time or a duration") from None


def _decoding(loaded: Loaded, name: str) -> Decode:
    """From a topic's name and a message of it to the text of what a route's handler would get. Raises
    UsageError."""
    route = loaded.config.routes.get(name)
    if route is None:
        raise UsageError(f"--as {name}: there is no such route; there are {', '.join(loaded.config.routes)}")
    try:
        decoder = loading.decoder_of(loaded, route)
    except loading.ImportProblem as problem:
        raise UsageError(f"--as {name}: {problem}") from None

    def decode(topic: str, job: Job) -> str:
        if job.value is None:
            return "(no value)"
        try:
            value = decoder.of_message(job.value, topic=topic, headers=job.headers)
        except Exception as error:
            return f"(not valid {route.decode}: {one_line(error)})"
        try:
            return json.dumps(value, ensure_ascii=False, default=str)
        except (TypeError, ValueError):
            return repr(value)

    return decode


def _facts(tp: Any, job: Job, decode: Decode | None) -> dict[str, Any]:
    found = {
        "topic": tp.topic,
        "partition": tp.partition,
        "offset": job.offset,
        "timestamp": job.timestamp,
        "key": text_of(job.key),
        "headers": terminal.pairs(job.headers),
        "value": text_of(job.value),
    }
    return found if decode is None else {**found, "decoded": decode(tp.topic, job)}


def _text(tp: Any, job: Job, decode: Decode | None) -> str:
    headers = " ".join(f"{name}={_short(value)}" for name, value in terminal.pairs(job.headers))
    key, value = text_of(job.key), text_of(job.value) if decode is None else decode(tp.topic, job)
    parts = [f"{tp.partition}@{job.offset}", terminal.moment(job.timestamp, "milliseconds"), "-" if key is None else key]
    if headers:
        parts.append(f"{{{headers}}}")
    return " ".join([*parts, "(no value)" if value is None else value])


def _short(text: str | None) -> str:
    return cut("" if text is None else " ".join(text.split()), 60)
