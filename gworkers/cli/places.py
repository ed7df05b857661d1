"""Where a group is to go on: how that is written on the command line, and the offset that it means."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from typing import Any

import click

from gworkers.cli.common import partitions_of
from gworkers.config.load import Loaded
from gworkers.config.units import parse_duration
from gworkers.errors import UsageError

#: From a consumer and a partition to an offset.
Target = Callable[[Any, Any], int]

place = click.option(
    "--to",
    "where",
    required=True,
    metavar="WHERE",
    help="beginning, end, an offset, a moment (local time unless it says so), or how long ago.",
)


def only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that leave out all but some partitions."""
    function = click.option("--partition", type=click.IntRange(0), help="Only the partitions of this number.")(function)
    return click.option("--topic", help="Only partitions of this topic.")(function)


def target_of(where: str) -> Target:
    """Raises UsageError for what says no place."""
    if where == "beginning":
        return lambda consumer, tp: int(consumer.beginning_offsets([tp])[tp])
    if where == "end":
        return lambda consumer, tp: int(consumer.end_offsets([tp])[tp])
    if re.fullmatch(r"\d{1,19}", where):
        return _offset(int(where))
    try:
        return _moment(milliseconds(where))
    except ValueError:
        raise UsageError(
            f"--to {where!r} is no place; write beginning, end, an offset, a moment as 2026-11-26T03:00, or how long ago as 2h"
        ) from None


def milliseconds(text: str) -> int:
    """Since 1970, of a moment (ISO 8601, local time unless it says so) or of how long ago. Raises
    ValueError."""
    try:
        since = time.time() - parse_duration(text)
    except ValueError:
        try:
            since = datetime.datetime.fromisoformat(text).timestamp()
        except OverflowError:
            raise ValueError(text) from None
    return int(since * 1000)


def chosen(consumer: Any, loaded: Loaded, topic: str | None, partition: int | None) -> list[Any]:
    """The partitions that ``only`` leaves of those that the routes consume. Blocks; raises UsageError
    when there are none."""
    tps = [tp for tp in partitions_of(consumer, loaded) if topic in (None, tp.topic) and partition in (None, tp.partition)]
    if not tps:
        raise UsageError("no route consumes such a partition; gworkers lag shows those there are")
    return tps


def _offset(wanted: int) -> Target:
    def target(consumer: Any, tp: Any) -> int:
        begin, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        if not begin <= wanted <= end:
            raise UsageError(f"{tp.topic}[{tp.partition}] has the offsets {begin} to {end}, and not {wanted}")
        return wanted

    return target


def _moment(since: int) -> Target:
    """The first message of that time or later; the end, where there is none."""

    def target(consumer: Any, tp: Any) -> int:
        found = consumer.offsets_for_times({tp: max(0, since)})[tp]
        return int(found.offset if found is not None else consumer.end_offsets([tp])[tp])

    return target
