"""Which dead letters a command is about: the options that choose them, and the topics they are in."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from gworkers.cli.common import clients_of, configured, kafka_says
from gworkers.cli.tail import moment
from gworkers.errors import NoTopicError, UnavailableError, UsageError
from gworkers.expressions import Expression
from gworkers.handlers.routes import matches
from gworkers.kafka import topics
from gworkers.kafka.errors import is_kafkas
from gworkers.pipeline.dead_letter_store import WHERE_NAMES, DeadLetterStore, Letter
from gworkers.pipeline.dead_letters import OURS, SPRING
from gworkers.text import cut, text_of

Choice = Callable[[Letter], bool]


def filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose letters."""
    for option in (
        click.option("--topic", metavar="TOPIC", help="The dead-letter topic; that of the routes without it."),
        click.option("--route", metavar="NAME", help="Of this route."),
        click.option("--reason", metavar="WORD", help="failed, timed-out, undecodable, rejected, …"),
        click.option("--exception", metavar="PATTERN", help="Of this exception class; * and ? stand for anything."),
        click.option("--key", metavar="KEY", help="With this key."),
        click.option("--id", "ids", multiple=True, metavar="P@OFFSET", help="This letter, as ls names it; may be given several times."),
        click.option("--since", metavar="WHEN", help="Failed after a time (ISO 8601) or so long ago (15m)."),
        click.option("--until", metavar="WHEN", help="Failed before a time, or longer ago."),
        click.option("--where", metavar="EXPRESSION", help='For which this is true, as "value.amount > 100"; value is read as JSON.'),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="No more than so many."),
    ):
        command = option(command)
    return configured(command)


def _chooser(
    route: str | None,
    reason: str | None,
    exception: str | None,
    key: str | None,
    ids: tuple[str, ...],
    since: str | None,
    until: str | None,
    where: str | None,
) -> Choice:
    after = moment(since, "--since") if since is not None else None
    before = moment(until, "--until") if until is not None else None
    try:
        expression = Expression(where, WHERE_NAMES) if where is not None else None
    except ValueError as error:
        raise UsageError(f"--where: {error}") from None

    def chosen(letter: Letter) -> bool:
        return (
            (route is None or letter.route == route)
            and (reason is None or letter.reason == reason)
            and (exception is None or fnmatch.fnmatch(letter.exception, exception) or letter.exception.endswith(f".{exception}"))
            and (key is None or text_of(letter.record.key) == key)
            and (not ids or letter.id in ids)
            and (after is None or letter.failed_at >= after)
            and (before is None or letter.failed_at < before)
            and (expression is None or expression.matches(lambda name: _look(letter, name)))
        )

    return chosen


def _look(letter: Letter, name: str) -> Any:
    if name == "value":
        try:
            return json.loads(letter.record.value or b"null")
        except ValueError:
            return None
    if name == "headers":
        return {header: text_of(value) for header, value in letter.own_headers}
    if name == "key":
        return text_of(letter.record.key)
    if name in ("partition", "offset", "timestamp"):
        return letter.number(f"{SPRING}original-{name}")
    if name == "attempts":
        return letter.number(f"{OURS}attempts")
    return getattr(letter, name)


class Boxes:
    """The letterboxes a command is about, and the letters in them that its options choose."""

    def __init__(self, file: Path, overrides: tuple[str, ...], topic: str | None, limit: int | None, **choice: Any) -> None:
        self._chosen = _chooser(**choice)
        self._limit = limit
        loaded, self._clients = clients_of(file, overrides)
        self._group = loaded.config.kafka.group
        self._config = loaded.config
        routes = loaded.config.routes.values()
        self.topics = [topic] if topic is not None else sorted({route.dead_letter for route in routes if route.dead_letter is not None})
        if not self.topics:
            raise UsageError("no route has a dead_letter topic; name one with --topic")
        self._one = topic is not None
        self.found = 0

    def open(self) -> Iterator[DeadLetterStore]:
        """Each box in turn, closed when the next one is taken, and at the end of the command,
        however it ends."""
        boxes = self._open()
        click.get_current_context().call_on_close(boxes.close)
        return boxes

    def _open(self) -> Generator[DeadLetterStore, None, None]:
        for topic in self.topics:
            try:
                box = DeadLetterStore(self._clients, self._group, topic)
            except NoTopicError:
                if self._one:
                    raise
                continue
            with closing(box):
                yield box

    def look_for(self, targets: Iterable[str]) -> None:
        """Raises UnavailableError, at once, for a topic that letters are to be sent to and that is
        not there, or not to be seen. With the embedded broker topics come into being."""
        if self._clients.embedded:
            return
        with closing(self._clients.reader()) as reader:
            for topic in targets:
                try:
                    found = topics.partitions_of(reader, topic)
                except Exception as error:
                    if not is_kafkas(error):
                        raise
                    raise UnavailableError(kafka_says(error, writing=True)) from error
                if not found:
                    raise NoTopicError(f"there is no topic {topic}; make it, or name another with --to")

    def not_to_be_sent(self, letter: Letter, to: str | None) -> str | None:
        """Why a letter is not sent again, None where it is. Where it came from stands in a header,
        which whoever may write to the dead-letter topic can write: without --to it goes to topics that
        a route consumes, and to no other."""
        if to is not None:
            return None
        if letter.topic is None:
            return "they do not say where they came from; name a topic with --to"
        if not any(matches(route, letter.topic) for route in self._config.routes.values()):
            return f"they name the topic {cut(letter.topic, 249)!r}, which no route consumes; name a topic with --to"
        return None

    def chosen(self, box: DeadLetterStore, *, dealt_with: bool = False) -> Iterator[Letter]:
        for letter in box.letters(dealt_with=dealt_with):
            if self._limit is not None and self.found >= self._limit:
                return
            if self._chosen(letter):
                self.found += 1
                yield letter
