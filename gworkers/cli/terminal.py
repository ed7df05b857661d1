"""What messages contain, as a terminal, a pipe or JSON can show it: whatever Kafka can hold."""

from __future__ import annotations

import datetime
import sys
import unicodedata
from collections.abc import Iterable

import click

from gworkers.expressions import text_of

#: Categories of Unicode that move a cursor, change a direction or end a line: control, format,
#: surrogates, and line and paragraph separators.
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def name_of(header: str) -> str:
    """A header's name, which is carried with surrogates where its bytes are no UTF-8."""
    return header.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def pairs(headers: Iterable[tuple[str, bytes | None]]) -> list[list[str | None]]:
    """Headers for JSON: in their order, and each that there is, because names may repeat."""
    return [[name_of(name), text_of(value)] for name, value in headers]


def safe(text: str) -> str:
    """The text with everything escaped that a terminal would obey and not show."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def _escaped(character: str) -> str:
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    code = ord(character)
    return known.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def moment(milliseconds: int | None, precision: str = "seconds") -> str:
    """A timestamp as local time; the number itself where no calendar has it, - where there is none."""
    if milliseconds is None or milliseconds < 0:
        return "-"
    try:
        return datetime.datetime.fromtimestamp(milliseconds / 1000).isoformat(" ", precision)
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms"


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def echo(text: str, *, raw: bool = False) -> None:
    """Write a line that contains parts of a message. raw: as it is, for a pipe."""
    line = text if raw else safe(text)
    sys.stdout.flush()
    click.echo(line.encode("utf-8", "backslashreplace"))
