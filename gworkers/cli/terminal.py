"""What messages contain, as a terminal, a pipe or JSON can show it: whatever Kafka can hold. Tables
and progress bars are drawn by rich where that is installed and somebody looks (the extra ``top``)."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import click

from gworkers.text import safe, safe_json, text_of


def name_of(header: str) -> str:
    """A header's name, which is carried with surrogates where its bytes are no UTF-8."""
    return header.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def pairs(headers: Iterable[tuple[str, bytes | None]]) -> list[list[str | None]]:
    """Headers for JSON: in their order, and each that there is, because names may repeat."""
    return [[name_of(name), text_of(value)] for name, value in headers]


def moment(milliseconds: int | None, precision: str = "seconds") -> str:
    """A timestamp as local time; the number itself where no calendar has it, - where there is none."""
    if milliseconds is None or milliseconds < 0:
        return "-"
    try:
        return datetime.datetime.fromtimestamp(milliseconds / 1000).isoformat(" ", precision)
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms"


def echo_json(facts: object) -> None:
    """Write a line of JSON, in which whatever a terminal would obey is escaped in JSON's own way."""
    click.echo(safe_json(json.dumps(facts, ensure_ascii=False)))


def echo(text: str, *, raw: bool = False, err: bool = False) -> None:
    """Write a line that contains parts of a message. raw: as it is, for a pipe."""
    line = text if raw else safe(text)
    sys.stdout.flush()
    click.echo(line.encode("utf-8", "backslashreplace"), err=err)


@dataclass(frozen=True, slots=True)
class Column:
    """width: of its cells in a plain table, which longer ones break out of; 0 for the last."""

    name: str
    width: int
    number: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One row, and what is said below it."""

    cells: Sequence[str]
    below: Sequence[str] = ()


def table(columns: Sequence[Column], lines: Iterable[Line], title: str | None = None) -> None:
    """Write a table; nothing where there are no lines. What cells contain is escaped. For a pipe it is
    written as the lines come."""
    if _looked_at(sys.stdout):
        with contextlib.suppress(ModuleNotFoundError):
            return _drawn(columns, list(lines), title)
    for number, line in enumerate(lines):
        if not number:
            for heading in ([title] if title is not None else []) + [_plain(columns, [column.name for column in columns])]:
                click.echo(heading)
        for text in (_plain(columns, line.cells), *line.below):
            echo(text)
    return None


def _plain(columns: Sequence[Column], cells: Sequence[str]) -> str:
    shown = (cell.rjust(column.width) if column.number else cell.ljust(column.width) for column, cell in zip(columns, cells, strict=True))
    return " ".join(shown).rstrip()


def _drawn(columns: Sequence[Column], lines: list[Line], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not lines:
        return
    drawn = Table(box=box.SIMPLE_HEAD, title=Text(safe(title)) if title is not None else None, title_justify="left", pad_edge=False)
    for column in columns:
        drawn.add_column(column.name, justify="right" if column.number else "left", overflow="fold")
    for line in lines:
        drawn.add_row(*(Text(safe(cell)) for cell in line.cells))
    Console().print(drawn)
    for line in lines:
        for text in line.below:
            echo(text)


@contextlib.contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error for as long as this is open; to be told how many more are done."""
    if _looked_at(sys.stderr):
        with contextlib.suppress(ModuleNotFoundError):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=Console(stderr=True)) as bar:
                task = bar.add_task(label, total=total)
                yield lambda done: bar.update(task, advance=done)
            return
    with click.progressbar(length=total, label=label, file=sys.stderr) as plain:
        yield plain.update


def _looked_at(stream: object) -> bool:
    return bool(getattr(stream, "isatty", bool)())
