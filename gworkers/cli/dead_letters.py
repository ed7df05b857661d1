"""``gworkers dead-letters``: what failed for good, why, and sending it again or leaving it be."""

from __future__ import annotations

import fnmatch
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.common import clients_of, configured, examples, kafka_says
from gworkers.cli.tail import moment
from gworkers.config.units import parse_rate
from gworkers.errors import NoTopicError, UnavailableError, UsageError
from gworkers.expressions import Expression
from gworkers.handlers.routes import matches
from gworkers.kafka import topics
from gworkers.kafka.errors import is_kafkas
from gworkers.pipeline.dead_letter_store import WHERE_NAMES, DeadLetterStore, Letter
from gworkers.pipeline.dead_letters import OURS, SPRING
from gworkers.pipeline.pacing import Bucket
from gworkers.text import cut, text_of

Chosen = Callable[[Letter], bool]


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at dead letters, send them again, or drop them."""


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
) -> Chosen:
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


class _Boxes:
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


@dead_letters.command(
    epilog=examples(
        "gworkers dead-letters ls -c conf/app.yaml",
        "gworkers dead-letters ls -c conf/app.yaml --exception '*Timeout' --since 1h",
        'gworkers dead-letters ls -c conf/app.yaml --where "value.amount > 100" --json',
    )
)
@filtered
@click.option("--all", "dealt_with", is_flag=True, help="Also those that have been replayed or dropped.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def ls(dealt_with: bool, as_json: bool, **options: Any) -> None:
    """List dead letters that have not been dealt with."""
    boxes = _Boxes(**options)
    for box in boxes.open():
        for number, letter in enumerate(boxes.chosen(box, dealt_with=dealt_with)):
            if as_json:
                terminal.echo_json(_as_json(letter))
                continue
            if not number:
                click.echo(f"{box.topic}\n{'ID':<12} {'FAILED AT':<19} {'ROUTE':<14} {'REASON':<12} {'FROM':<28} {'KEY':<16} ERROR")
            key = cut(text_of(letter.record.key) or "-", 16)
            told = f"{letter.exception.rpartition('.')[2]}: {' '.join(letter.error.split())}"
            state = " (dealt with)" if letter.dealt_with else ""
            terminal.echo(
                f"{letter.id:<12} {terminal.moment(letter.failed_at):<19} {letter.route:<14} {letter.reason:<12} "
                f"{letter.origin:<28} {key:<16} {cut(told, 80)}{state}"
            )
    if not boxes.found and not as_json:
        click.echo("no dead letters")


@dead_letters.command(epilog=examples("gworkers dead-letters show 0@15 -c conf/app.yaml"))
@click.argument("letter_id", metavar="ID")
@click.option("--topic", metavar="TOPIC", help="The dead-letter topic; that of the routes without it.")
@click.option("--raw", is_flag=True, help="Show control characters as they are, for a pipe.")
@configured
def show(letter_id: str, topic: str | None, raw: bool, file: Path, overrides: tuple[str, ...]) -> None:
    """Show one dead letter whole: where it came from, its error with the stack trace, its headers,
    its value."""
    nothing = dict.fromkeys(("route", "reason", "exception", "key", "since", "until", "where"))
    boxes = _Boxes(file, overrides, topic, 1, ids=(letter_id,), **nothing)
    for box in boxes.open():
        for letter in boxes.chosen(box, dealt_with=True):
            record = letter.record
            headers = [f"header    {name}: {value}" for name, value in terminal.pairs(letter.own_headers)]
            lines = [
                f"{box.topic} {letter.id}{' (dealt with)' if letter.dealt_with else ''}",
                f"from      {letter.origin}, written {terminal.moment(letter.number(SPRING + 'original-timestamp'))}",
                f"failed    {terminal.moment(letter.failed_at)}, route {letter.route}, reason {letter.reason}, "
                f"attempts {_attempts(letter)}",
                f"key       {text_of(record.key) if record.key is not None else '(none)'}",
                *headers,
                f"error     {letter.exception}: {letter.error}",
                *(letter.text(SPRING + "exception-stacktrace") or "").rstrip().splitlines(),
                "",
                *(text_of(record.value) or "(no value)").splitlines(),
            ]
            for line in lines:
                terminal.echo(line, raw=raw)
            return
    raise UsageError(f"there is no letter {letter_id} in {', '.join(boxes.topics)}; gworkers dead-letters ls lists them")


@dead_letters.command(
    epilog=examples("gworkers dead-letters count -c conf/app.yaml", "gworkers dead-letters count -c conf/app.yaml --json")
)
@filtered
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def count(as_json: bool, **options: Any) -> None:
    """Count dead letters by route, reason and exception."""
    boxes = _Boxes(**options)
    counts: Counter[tuple[str, ...]] = Counter()
    for box in boxes.open():
        counts.update((box.topic, letter.route, letter.reason, letter.exception) for letter in boxes.chosen(box))
    names = ("topic", "route", "reason", "exception")
    if as_json:
        for group, number in counts.most_common():
            terminal.echo_json({**dict(zip(names, group, strict=True)), "count": number})
        return
    if not counts:
        click.echo("no dead letters")
        return
    click.echo(f"{'COUNT':>8}  {'TOPIC':<24} {'ROUTE':<16} {'REASON':<14} EXCEPTION")
    for (topic, route, reason, exception), number in counts.most_common():
        terminal.echo(f"{number:>8,}  {topic:<24} {route:<16} {reason:<14} {exception}")


@dead_letters.command(
    epilog=examples(
        "gworkers dead-letters replay -c conf/app.yaml --dry-run",
        "gworkers dead-letters replay -c conf/app.yaml --exception '*Timeout' --rate 50/s",
        "gworkers dead-letters replay -c conf/app.yaml --id 0@15 --to orders.again",
    )
)
@filtered
@click.option("--to", metavar="TOPIC", help="Send to this topic; to each letter's original one without it.")
@click.option("--rate", metavar="N/s", help="No faster than this, as 50/s.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
def replay(to: str | None, rate: str | None, dry_run: bool, **options: Any) -> None:
    """Send dead letters again, each once, even when this is interrupted and run again."""
    try:
        bucket = Bucket(parse_rate(rate), time.monotonic()) if rate is not None else None
    except ValueError as error:
        raise UsageError(f"--rate {rate}: {error}") from None
    targets: Counter[str] = Counter()
    total = 0
    left_out: Counter[str] = Counter()
    boxes = _Boxes(**options)
    for box in boxes.open():
        for letter in boxes.chosen(box):
            why = boxes.not_to_be_sent(letter, to)
            if why is not None:
                left_out[why] += 1
                continue
            targets[to or letter.topic or ""] += 1
            total += 1
    for why, number in left_out.most_common():
        terminal.echo(f"{number:,} left out: {why}", err=True)
    if dry_run or not total:
        for topic, number in sorted(targets.items()):
            click.echo(f"{number:,} to {topic}")
        click.echo(f"{total:,} dead letters would be sent" if total else "no dead letters")
        return
    boxes = _Boxes(**options)
    boxes.look_for(targets)
    sent = 0
    with click.progressbar(length=total, label="replaying", file=sys.stderr) as bar:
        for box in boxes.open():
            letters = (letter for letter in boxes.chosen(box) if boxes.not_to_be_sent(letter, to) is None)
            sent += box.replay(_paced(letters, bucket), to, bar.update)
    click.echo(f"{sent:,} dead letters sent again to {', '.join(sorted(targets))}")


def _paced(letters: Iterable[Letter], bucket: Bucket | None) -> Iterator[Letter]:
    for letter in letters:
        while bucket is not None and not bucket.allowed(time.monotonic()):
            time.sleep(bucket.wait(1))
        if bucket is not None:
            bucket.take(1)
        yield letter


@dead_letters.command(epilog=examples("gworkers dead-letters drop -c conf/app.yaml --reason undecodable --yes"))
@filtered
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(yes: bool, **options: Any) -> None:
    """Leave dead letters be: they are listed and replayed no more. Kafka keeps them as long as the
    topic's retention says."""
    boxes = _Boxes(**options)
    total = sum(1 for box in boxes.open() for _ in boxes.chosen(box))
    if not total:
        click.echo("no dead letters")
        return
    if not yes:
        click.confirm(f"Drop {total:,} dead letters?", abort=True)
    boxes = _Boxes(**options)
    dropped = sum(box.drop(boxes.chosen(box)) for box in boxes.open())
    click.echo(f"{dropped:,} dead letters dropped")


def _as_json(letter: Letter) -> dict[str, Any]:
    record = letter.record
    return {
        "id": letter.id,
        "topic": letter.in_topic,
        "failed_at": letter.failed_at,
        "route": letter.route,
        "reason": letter.reason,
        "attempts": letter.number(f"{OURS}attempts"),
        "exception": letter.exception,
        "error": letter.error,
        "origin": {name: letter.number(f"{SPRING}original-{name}") for name in ("partition", "offset", "timestamp")}
        | {"topic": letter.topic},
        "key": text_of(record.key),
        "headers": terminal.pairs(letter.own_headers),
        "value": text_of(record.value),
        "dealt_with": letter.dealt_with,
    }


def _attempts(letter: Letter) -> str:
    return letter.text(OURS + "attempts") or "-"
