"""How values are shown: numbers, times, and texts that come from messages."""

from __future__ import annotations

import json
import time
from typing import Any

from gworkers.config.units import format_size
from gworkers.handlers.stacks import standing_at
from gworkers.text import cut, safe, safe_lines

#: Characters of a text from a message in a list, and of one that is shown whole.
SHORT = 200
WHOLE = 200_000


def number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def rate(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"


def seconds(value: float | None) -> str:
    """``3.1 ms``, ``12 s``, ``4 min``, ``2.5 h``, ``3 d``."""
    if value is None:
        return "?"
    if value < 1:
        return f"{1000 * value:.{0 if value >= 0.01 else 1}f} ms" if value else "0"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 3600 else f"{value / 3600:.1f} h" if value < 86400 else f"{value / 86400:.1f} d"


def moment(value: float | None) -> str:
    """Seconds since 1970 as local time."""
    if value is None or value < 0:
        return "–"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    except (OverflowError, OSError, ValueError):
        return "–"


def size(value: int | None) -> str:
    return "?" if value is None else f"{value / 2**20:,.1f} MiB" if value >= 2**20 else format_size(value)


def short(value: Any) -> str:
    """A text from a message, or an exception's, in a list."""
    return cut(safe(str(value)), SHORT)


def whole(value: Any) -> str:
    return cut(safe_lines(str(value)).replace("\n  ", "\n"), WHOLE)  # a log's lines after the first are indented


def pretty(value: str | None) -> str:
    """A message's value: as indented JSON where it is JSON, else as it is."""
    if value is None:
        return "(no value)"
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return whole(value)
    return whole(json.dumps(found, indent=2, ensure_ascii=False)) if isinstance(found, (dict, list)) else whole(value)


def hexadecimal(value: str | None) -> str:
    """The bytes of a text as they were before it was decoded for reading."""
    data = (value or "").encode("utf-8", "backslashreplace")[: WHOLE // 4]
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:08x}  {row.hex(' '):<47}  {shown}")
    return "\n".join(lines)


FILTERS = {
    "standing_at": standing_at,
    "number": number,
    "rate": rate,
    "seconds": seconds,
    "moment": moment,
    "size": size,
    "short": short,
    "whole": whole,
    "pretty": pretty,
    "hexadecimal": hexadecimal,
}
