"""Durations and sizes as people write them: ``250ms``, ``30s``, ``5m``; ``512KiB``, ``64MiB``, ``1GB``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_duration(value: Any) -> float:
    """Seconds from ``250ms``, ``30s``, ``5m``, ``2h``, ``1d``, or ``0``. Raises ValueError with a sentence."""
    if isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        number, unit = match.groups()
        if unit in _SECONDS:
            return float(number) * _SECONDS[unit]
        if not unit and float(number) == 0:
            return 0.0
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0:
        return 0.0
    raise ValueError("a duration with its unit is wanted, such as 250ms, 30s, 5m, 2h or 1d")


def parse_size(value: Any) -> int:
    """Bytes from ``512KiB``, ``64MiB``, ``1GB``, or a plain whole number. Raises ValueError with a sentence."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        number, unit = match.groups()
        if not unit and "." not in number:
            return int(number)
        if unit.upper() in _BYTES:
            return int(float(number) * _BYTES[unit.upper()])
    raise ValueError("a size is wanted, such as 512KiB, 64MiB or 1GB, or a number of bytes")


def format_duration(seconds: float) -> str:
    """The shortest spelling that parse_duration reads back: 0.25 → ``250ms``, 90 → ``90s``, 300 → ``5m``."""
    if seconds == 0:
        return "0s"
    for unit in ("d", "h", "m", "s"):
        number = seconds / _SECONDS[unit]
        if number >= 1 and number == int(number):
            return f"{int(number)}{unit}"
    return f"{seconds / 0.001:.12g}ms"


def format_size(size: int) -> str:
    """The shortest spelling that parse_size reads back: 67108864 → ``64MiB``."""
    for unit, name in (("GIB", "GiB"), ("MIB", "MiB"), ("KIB", "KiB")):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{name}"
    return str(size)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    Field(json_schema_extra={"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$|^0$", "x-kind": "duration"}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    Field(json_schema_extra={"type": ["string", "integer"], "x-kind": "size"}),
]
