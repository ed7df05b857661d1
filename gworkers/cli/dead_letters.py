"""``gworkers dead-letters``: what failed for good, why, and sending it again or leaving it be."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.common import configured, examples
from gworkers.cli.letter_choice import Boxes, filtered
from gworkers.config.units import parse_rate
from gworkers.errors import UsageError
from gworkers.pipeline.dead_letter_store import Letter
from gworkers.pipeline.dead_letters import OURS, SPRING
from gworkers.pipeline.pacing import Bucket
from gworkers.text import cut, text_of


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at dead letters, send them again, or drop them."""


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
    boxes = Boxes(**options)
    for box in boxes.open():
        letters = boxes.chosen(box, dealt_with=dealt_with)
        if as_json:
            for letter in letters:
                terminal.echo_json(_as_json(letter))
        else:
            terminal.table(_LISTED, (terminal.Line(_listed(letter)) for letter in letters), title=box.topic)
    if not boxes.found and not as_json:
        click.echo("no dead letters")


_LISTED = (
    terminal.Column("ID", 12),
    terminal.Column("FAILED AT", 19),
    terminal.Column("ROUTE", 14),
    terminal.Column("REASON", 12),
    terminal.Column("FROM", 28),
    terminal.Column("KEY", 16),
    terminal.Column("ERROR", 0),
)


def _listed(letter: Letter) -> tuple[str, ...]:
    told = f"{letter.exception.rpartition('.')[2]}: {' '.join(letter.error.split())}"
    error = cut(told, 80) + (" (dealt with)" if letter.dealt_with else "")
    key = cut(text_of(letter.record.key) or "-", 16)
    return letter.id, terminal.moment(letter.failed_at), letter.route, letter.reason, letter.origin, key, error


@dead_letters.command(epilog=examples("gworkers dead-letters show 0@15 -c conf/app.yaml"))
@click.argument("letter_id", metavar="ID")
@click.option("--topic", metavar="TOPIC", help="The dead-letter topic; that of the routes without it.")
@click.option("--raw", is_flag=True, help="Show control characters as they are, for a pipe.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@configured
def show(letter_id: str, topic: str | None, raw: bool, as_json: bool, file: Path, overrides: tuple[str, ...]) -> None:
    """Show one dead letter whole: where it came from, its error with the stack trace, its headers,
    its value."""
    nothing = dict.fromkeys(("route", "reason", "exception", "key", "since", "until", "where"))
    boxes = Boxes(file, overrides, topic, 1, ids=(letter_id,), **nothing)
    for box in boxes.open():
        for letter in boxes.chosen(box, dealt_with=True):
            if as_json:
                terminal.echo_json({**_as_json(letter), "trace": letter.text(SPRING + "exception-stacktrace")})
                return
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


_COUNTED = (
    terminal.Column("COUNT", 8, number=True),
    terminal.Column("TOPIC", 24),
    terminal.Column("ROUTE", 16),
    terminal.Column("REASON", 14),
    terminal.Column("EXCEPTION", 0),
)


@dead_letters.command(
    epilog=examples("gworkers dead-letters count -c conf/app.yaml", "gworkers dead-letters count -c conf/app.yaml --json")
)
@filtered
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def count(as_json: bool, **options: Any) -> None:
    """Count dead letters by route, reason and exception."""
    boxes = Boxes(**options)
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
    terminal.table(_COUNTED, (terminal.Line((f"{number:,}", *group)) for group, number in counts.most_common()))


@dead_letters.command(
    epilog=examples(
        "gworkers dead-letters replay -c conf/app.yaml --dry-run",
        "gworkers dead-letters replay -c conf/app.yaml --exception '*Timeout' --rate 50/s",
        "gworkers dead-letters replay -c conf/app.yaml --id 0@15 --to orders.again",
        "gworkers dead-letters replay -c conf/app.yaml --id 0@15 --topic orders.dead --value mended.json",
    )
)
@filtered
@click.option("--to", metavar="TOPIC", help="Send to this topic; to each letter's original one without it.")
@click.option("--rate", metavar="N/s", help="No faster than this, as 50/s.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@click.option(
    "--value",
    "value_file",
    type=click.File("rb"),
    metavar="FILE",
    help="Send this value in place of the letter's, of one letter (--id); - is standard input. A header, gworkers-edited, says so.",
)
def replay(to: str | None, rate: str | None, dry_run: bool, value_file: Any, **options: Any) -> None:
    """Send dead letters again, each once, even when this is interrupted and run again."""
    try:
        bucket = Bucket(parse_rate(rate), time.monotonic()) if rate is not None else None
    except ValueError as error:
        raise UsageError(f"--rate {rate}: {error}") from None
    if value_file is not None and len(options["ids"]) != 1:
        raise UsageError("--value is for one letter; name it with --id, as ls does")
    value = value_file.read() if value_file is not None else None
    targets: Counter[str] = Counter()
    total = 0
    left_out: Counter[str] = Counter()
    boxes = Boxes(**options)
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
    if value is not None and total > 1:
        raise UsageError(f"{total} letters have this id, in several topics; name one with --topic")
    if dry_run or not total:
        for topic, number in sorted(targets.items()):
            click.echo(f"{number:,} to {topic}")
        click.echo(f"{total:,} dead letters would be sent" if total else "no dead letters")
        return
    boxes = Boxes(**options)
    boxes.look_for(targets)
    sent = 0
    with terminal.progress("replaying", total) as advance:
        for box in boxes.open():
            found = (letter for letter in boxes.chosen(box) if boxes.not_to_be_sent(letter, to) is None)
            letters = found if value is None else (letter.with_value(value) for letter in found)
            sent += box.replay(_paced(letters, bucket), to, advance)
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
    boxes = Boxes(**options)
    total = sum(1 for box in boxes.open() for _ in boxes.chosen(box))
    if not total:
        click.echo("no dead letters")
        return
    if not yes:
        click.confirm(f"Drop {total:,} dead letters?", abort=True)
    boxes = Boxes(**options)
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
