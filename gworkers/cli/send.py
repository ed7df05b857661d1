"""``gworkers send``: messages into a topic, from a file or standard input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gworkers.cli.common import clients_of, configured, examples, kafka_says
from gworkers.errors import UnavailableError, UsageError
from gworkers.kafka.errors import is_kafkas


@click.command(
    epilog=examples(
        'echo \'{"order": 1, "customer": "c-7"}\' | gworkers send orders -c conf/app.yaml --key customer',
        "gworkers send orders conf/samples/orders.jsonl -c conf/app.yaml --key customer",
    )
)
@click.argument("topic")
@click.argument("source", type=click.File("rb"), default="-")
@configured
@click.option("--key", "field", metavar="FIELD", help="Take the key from this field of each line's JSON object.")
def send(topic: str, source: Any, file: Path, overrides: tuple[str, ...], field: str | None) -> None:
    """Send each line of SOURCE (a file, or standard input) to TOPIC as a message. Empty lines are
    left out."""
    _, clients = clients_of(file, overrides)
    producer = clients.producer(max_block_ms=30_000)
    failed: list[BaseException] = []
    count = 0
    try:
        for value, key in lines_of(source, field):
            producer.send(topic, value, key).add_errback(failed.append)
            count += 1
            if failed:
                break
        producer.flush(60)
    except UsageError as error:
        producer.flush(60)
        raise UsageError(f"{error}; lines before it have been sent") from None
    except Exception as error:
        raise UnavailableError(kafka_says(error, writing=True) if is_kafkas(error) else f"sending to {topic} failed: {error}") from error
    finally:
        producer.close(timeout=10)
    if failed:
        raise UnavailableError(kafka_says(failed[0], writing=True))
    click.echo(f"{count:,} message{'s' if count != 1 else ''} sent to {topic}", err=True)


def lines_of(source: Any, field: str | None) -> Iterator[tuple[bytes, bytes | None]]:
    """The value and the key of each line of a file that is not empty. field: what of the JSON object
    in it is its key; None for no keys. Raises UsageError for a line that has none."""
    for number, line in enumerate(source, 1):
        value = line.rstrip(b"\r\n")
        if value:
            yield value, _key(value, field, getattr(source, "name", "-"), number) if field is not None else None


def _key(value: bytes, field: str, name: str, number: int) -> bytes:
    try:
        found = json.loads(value)[field]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{name}:{number}: no JSON object with a field {field}") from None
    return found.encode() if isinstance(found, str) else json.dumps(found).encode()
