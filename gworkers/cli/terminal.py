"""What messages contain, as a terminal, a pipe or JSON can show it: whatever Kafka can hold."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable

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
