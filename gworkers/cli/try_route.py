"""``gworkers try`` and ``gworkers replay``: handlers on lines and on captured messages, without a
broker (gworkers.testing)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gworkers.cli import terminal
from gworkers.cli.common import configured, examples
from gworkers.cli.send import lines_of
from gworkers.errors import Exit, MessageError, UsageError, one_line, raised_at
from gworkers.text import safe, text_of

if TYPE_CHECKING:
    from gworkers.testing import Application, Came

#: How many lines of a difference are shown.
SHOWN = 40


@click.command(
    "try",
    epilog=examples(
        'echo \'{"order": 1, "customer": "c-7", "product": "apple", "count": 2}\' | gworkers try price -c conf/app.yaml',
        "gworkers try price conf/samples/orders.jsonl -c conf/app.yaml --key customer",
    ),
)
@click.argument("route")
@click.argument("source", type=click.File("rb"), default="-")
@configured
@click.option("--key", "field", metavar="FIELD", help="Take the key from this field of each line's JSON object.")
@click.option("--topic", metavar="TOPIC", help="As if it came from this topic; the route's first without it.")
def try_route(route: str, source: Any, file: Path, overrides: tuple[str, ...], field: str | None, topic: str | None) -> int:
    """Run a route's handler on each line of SOURCE (a file, or standard input), with its retries, and
    print what would be sent, a JSON object a line. Nothing is sent, and no Kafka is needed. Ends with
    65 when a message would have become a dead letter."""
    application = _application(file, overrides)
    found = application.config.routes.get(route)
    if found is None:
        raise UsageError(f"there is no route {route}; there are {', '.join(application.config.routes)}")
    if topic is None and not found.topics:
        raise UsageError(f"the route {route} consumes topics like {found.pattern}; name one with --topic")
    with application:
        for value, key in lines_of(source, field):
            application.send(topic or found.topics[0], value, key=key)
        return _told(application.run())


@click.command(
    epilog=examples(
        "gworkers tail orders -c conf/app.yaml --from beginning -n 100 --json > captured.jsonl",
        "gworkers replay captured.jsonl -c conf/app.yaml --record before.jsonl",
        "gworkers replay captured.jsonl -c conf/app.yaml --against before.jsonl",
    )
)
@click.argument("source", type=click.File("r", encoding="utf-8"))
@configured
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), help="Write what would be sent to this file.")
@click.option("--against", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Compare it with a file that --record wrote.")
def replay(source: Any, file: Path, overrides: tuple[str, ...], record: Path | None, against: Path | None) -> int:
    """Run captured messages (lines of ``gworkers tail --json``) through their routes and print what
    would be sent. Ends with 65 when a message would have become a dead letter, or what would be sent
    is not what was recorded."""
    with _application(file, overrides) as application:
        for number, line in enumerate(source, 1):
            _captured(application, line, f"{source.name}:{number}")
        came = application.run()
    lines = [json.dumps(one, ensure_ascii=False) for one in _sent(came)]
    if record is not None:
        record.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        click.echo(f"{len(lines):,} results of {came.done:,} messages written to {record}", err=True)
    if against is None:
        return _told(came, quiet=record is not None)
    status = _told(came, quiet=True)
    import difflib

    before = against.read_text(encoding="utf-8").splitlines()
    difference = list(difflib.unified_diff(before, lines, str(against), "now", lineterm="", n=0))
    for line in difference[:SHOWN]:
        click.echo(safe(line))
    if len(difference) > SHOWN:
        click.echo(f"and {len(difference) - SHOWN:,} lines more")
    if not difference:
        click.echo(f"{len(lines):,} results of {came.done:,} messages, all as recorded", err=True)
    return int(Exit.BREAKER) if difference else status


def _application(file: Path, overrides: tuple[str, ...]) -> Application:
    """Of the log the application's own lines alone are shown: what we would say is in what is printed.
    Imported here, because no other command needs it."""
    from gworkers.testing import Application

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("gworkers").setLevel(logging.CRITICAL)
    return Application(file, overrides=overrides)


def _captured(application: Application, line: str, where: str) -> None:
    if not line.strip():
        return
    try:
        told = json.loads(line)
        key, value, headers = told["key"], told["value"], [(name, _bytes(content)) for name, content in told.get("headers", ())]
        topic, partition, timestamp = told["topic"], told.get("partition", 0), told.get("timestamp")
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{where}: expected a line of gworkers tail --json, with topic, key and value") from None
    application.send(topic, _bytes(value), key=_bytes(key), headers=headers, timestamp=timestamp, partition=partition)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _sent(came: Came) -> Iterator[dict[str, Any]]:
    for one in came.sent:
        yield {
            "topic": one.topic,
            "key": text_of(one.key),
            "value": text_of(one.value),
            "headers": terminal.pairs(one.headers),
        }


def _told(came: Came, *, quiet: bool = False) -> int:
    for one in _sent(came) if not quiet else ():
        terminal.echo_json(one)
    for letter in came.dead:
        message = letter.message
        where = f"{message.topic} {message.partition}@{message.offset}"
        told = f"{where}: failed for good after {_times(letter.attempts, 'attempt')} ({letter.reason}): {one_line(letter.error)}"
        at = raised_at(letter.error) if not isinstance(letter.error, MessageError) else None
        told += f", at {at}" if at is not None else ""
        terminal.echo(told, err=True)
    if came.retried:
        click.echo(f"{_times(len(came.retried), 'retry', 'retries')}, which would have taken {came.waited:.1f} s", err=True)
    return int(Exit.BREAKER) if came.dead else int(Exit.OK)


def _times(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
