"""``gworkers reset``: where the group goes on, set anew while none of its members runs."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.common import clients_of, configured, examples, partitions_of
from gworkers.config.load import Loaded
from gworkers.config.units import parse_duration
from gworkers.errors import UnavailableError, UsageError
from gworkers.kafka import green
from gworkers.kafka.clients import Clients
from gworkers.kafka.errors import Kind, classify
from gworkers.kafka.group import KafkaGroup
from gworkers.offsets import finished
from gworkers.server import members

#: How long removing members that died may take, in seconds.
REMOVE_TIMEOUT = 5.0
#: From a consumer and a partition to an offset.
Target = Callable[[Any, Any], int]


@click.command(
    epilog=examples(
        "gworkers reset -c conf/app.yaml --to beginning --dry-run",
        "gworkers reset -c conf/app.yaml --to 2026-11-26T03:00 --topic orders",
        "gworkers reset -c conf/app.yaml --to 2h --yes                      as it was two hours ago",
        "gworkers reset -c conf/app.yaml --to 4711 --topic orders --partition 3",
    )
)
@configured
@click.option(
    "--to",
    "where",
    required=True,
    metavar="WHERE",
    help="beginning, end, an offset, a moment (local time unless it says so), or how long ago.",
)
@click.option("--topic", help="Only partitions of this topic.")
@click.option("--partition", type=click.IntRange(0), help="Only the partitions of this number.")
@click.option("--dry-run", is_flag=True, help="Only say what would be set.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(file: Path, overrides: tuple[str, ...], where: str, topic: str | None, partition: int | None, dry_run: bool, yes: bool) -> None:
    """Have the group go on elsewhere: at the beginning, the end, an offset, a moment. What was
    finished beyond is forgotten with it. Kafka refuses it while a member of the group is active."""
    target = _target(where)
    loaded, clients = clients_of(file, overrides)
    consumer = clients.consumer()
    structs = green.module("kafka.structs")
    try:
        tps = [tp for tp in partitions_of(consumer, loaded) if topic in (None, tp.topic) and partition in (None, tp.partition)]
        if not tps:
            raise UsageError("no route consumes such a partition; gworkers lag shows those there are")
        offsets = {tp: target(consumer, tp) for tp in tps}
        for tp, offset in offsets.items():
            committed = consumer.committed(tp)
            before = "nothing committed" if committed is None else str(committed)
            moved = "" if committed is None else f" ({offset - committed:+,})"
            terminal.echo(f"{tp.topic}[{tp.partition}]: {before} -> {offset}{moved}")
        if dry_run:
            return
        if not yes:
            click.confirm(f"Set these for the group {loaded.config.kafka.group}?", abort=True)
        folder = _let_go_of_the_dead(loaded, clients, consumer)
        consumer.commit({tp: structs.OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()})
    except Exception as error:
        if classify(error) in (Kind.GENERATION_OVER, Kind.NO_MEMBER):
            raise UnavailableError(
                f"a member of the group {loaded.config.kafka.group} is active, and would go on where it is; stop all of them first"
            ) from None
        raise
    finally:
        consumer.close(autocommit=False)
    if folder is not None:
        finished.forget(folder, loaded.config.kafka.group)  # notes that were made beyond such a commit are not for this one
    click.echo(f"the group {loaded.config.kafka.group} goes on there")


def _let_go_of_the_dead(loaded: Loaded, clients: Clients, consumer: Any) -> Path | None:
    """Members that died on this machine are no reason to refuse it. Returns where such things are
    kept; None where that cannot be had."""
    kafka, folder = loaded.config.kafka, members.place(loaded)
    if folder is not None and kafka.group_instance_id is None:
        dead = members.Members(folder, clients.servers, kafka.group).left_behind()
        if dead:
            KafkaGroup(consumer, clients.rights_of_consumer()).remove(dead, REMOVE_TIMEOUT)
    return folder


def _target(where: str) -> Target:
    """Raises UsageError for what says no place."""
    if where == "beginning":
        return lambda consumer, tp: int(consumer.beginning_offsets([tp])[tp])
    if where == "end":
        return lambda consumer, tp: int(consumer.end_offsets([tp])[tp])
    if re.fullmatch(r"\d{1,19}", where):
        return _offset(int(where))
    try:
        since = time.time() - parse_duration(where)
    except ValueError:
        try:
            since = datetime.datetime.fromisoformat(where).timestamp()
        except (ValueError, OverflowError):
            raise UsageError(
                f"--to {where!r} is no place; write beginning, end, an offset, a moment as 2026-11-26T03:00, or how long ago as 2h"
            ) from None
    return _moment(int(since * 1000))


def _offset(wanted: int) -> Target:
    def target(consumer: Any, tp: Any) -> int:
        begin, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        if not begin <= wanted <= end:
            raise UsageError(f"{tp.topic}[{tp.partition}] has the offsets {begin} to {end}, and not {wanted}")
        return wanted

    return target


def _moment(milliseconds: int) -> Target:
    """The first message of that time or later; the end, where there is none."""

    def target(consumer: Any, tp: Any) -> int:
        found = consumer.offsets_for_times({tp: max(0, milliseconds)})[tp]
        return int(found.offset if found is not None else consumer.end_offsets([tp])[tp])

    return target
