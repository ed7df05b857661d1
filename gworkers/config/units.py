"""Quantities as people write them: ``250ms``, ``30s``, ``5m``; ``512KiB``, ``64MiB``, ``1GB``;
``100/s``; ``100 in 1m``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

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
#: A number of at most 18 digits: what is longer is no quantity that anybody means.
_NUMBER = r"(\d{1,18}(?:\.\d{1,18})?)"
_NUMBER_AND_UNIT = re.compile(rf"\s*{_NUMBER}\s*([A-Za-z]*)\s*", re.ASCII)


def parse_duration(value: Any) -> float:
    """Seconds from ``250ms``, ``30s``, ``5m``, ``2h``, ``1d``, or ``0``. Raises ValueError with a
    sentence."""
    if isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        number, unit = match.groups()
        if unit in _SECONDS:
            return float(number) * _SECONDS[unit]
        if not unit and float(number) == 0:
            return 0.0
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0:
        return 0.0
    raise ValueError("expected a duration with its unit, such as 250ms, 30s, 5m, 2h or 1d")


def parse_size(value: Any) -> int:
    """Bytes from ``512KiB``, ``64MiB``, ``1GB``, or a plain whole number. Raises ValueError with a
    sentence."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        number, unit = match.groups()
        if not unit and "." not in number:
            return int(number)
        if unit.upper() in _BYTES:
            return int(float(number) * _BYTES[unit.upper()])
    raise ValueError("expected a size, such as 512KiB, 64MiB or 1GB, or a number of bytes")


@dataclass(frozen=True, slots=True)
class TypeName:
    """Stands in the annotation of a type of the schema: its name in the reference, and what is
    expected in an error."""

    name: str
    expected: str = ""


def type_name(annotation: Any, metadata: Iterable[Any] = ()) -> TypeName | None:
    """The TypeName of a field's annotation, also inside ``X | None`` and ``list[X]``; None for a
    plain type."""
    for item in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(item, TypeName):
            return item
    for argument in getattr(annotation, "__args__", ()):
        if (found := type_name(argument)) is not None:
            return found
    return None


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second, and how many may come at once after a quiet time."""

    per_second: float
    burst: int
    text: str


@dataclass(frozen=True, slots=True)
class Amount:
    """So many within so many seconds."""

    count: int
    seconds: float


_RATE = re.compile(rf"\s*{_NUMBER}\s*/\s*(s|m|h|d)(?:\s+burst\s+(\d{{1,15}}))?\s*", re.ASCII)
_AMOUNT = re.compile(r"\s*(\d{1,15})\s+in\s+(\S+)\s*", re.ASCII)


def parse_rate(value: Any) -> Rate:
    """A Rate from ``100/s``, ``30/m`` or ``100/s burst 20``; without a burst it is what one second
    allows, 1 at least."""
    if isinstance(value, Rate):
        return value
    if isinstance(value, str) and (match := _RATE.fullmatch(value)) and float(match[1]) > 0:
        per_second = float(match[1]) / _SECONDS[match[2]]
        burst = int(match[3]) if match[3] is not None else max(1, int(per_second))
        if burst > 0:
            return Rate(per_second, burst, " ".join(value.split()))
    raise ValueError("expected a rate, such as 100/s, 30/m or 100/s burst 20")


def parse_amount(value: Any) -> Amount:
    """An Amount from ``100 in 1m``."""
    if isinstance(value, Amount):
        return value
    if isinstance(value, str) and (match := _AMOUNT.fullmatch(value)):
        seconds = parse_duration(match[2])
        if seconds > 0:
            return Amount(int(match[1]), seconds)
    raise ValueError("expected a number in a time, such as 100 in 1m")


def format_amount(amount: Amount) -> str:
    return f"{amount.count} in {format_duration(amount.seconds)}"


def format_duration(seconds: float) -> str:
    """The shortest spelling that parse_duration reads back: 0.25 → ``250ms``, 90 → ``90s``, 300 →
    ``5m``."""
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
    TypeName("duration"),
    Field(json_schema_extra={"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$|^0$", "x-kind": "duration"}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    TypeName("size, bytes"),
    Field(json_schema_extra={"type": ["string", "integer"], "x-kind": "size"}),
]
RateText = Annotated[
    Rate,
    BeforeValidator(parse_rate),
    PlainSerializer(lambda rate: rate.text, return_type=str),
    TypeName("rate, count/unit"),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?/(s|m|h|d)( burst \d+)?$", "x-kind": "rate"}),
]
AmountText = Annotated[
    Amount,
    BeforeValidator(parse_amount),
    PlainSerializer(format_amount, return_type=str),
    TypeName("amount, count in duration"),
    WithJsonSchema({"type": "string", "pattern": r"^\d+ in \d+(\.\d+)?(ms|s|m|h|d)$", "x-kind": "amount"}),
]


def cores() -> int:
    """How many processor cores this process may use, by its affinity and its control group's quota (of
    either version); 1 at least."""
    count = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                quota, period = Path("/sys/fs/cgroup", path.lstrip("/"), "cpu.max").read_text("ascii").split()
            elif "cpu" in controllers.split(","):
                folder = Path("/sys/fs/cgroup/cpu", path.lstrip("/"))
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text("ascii").strip() for name in ("quota", "period"))
            else:
                continue
            if quota not in ("max", "-1"):
                count = min(count, -(-int(quota) // int(period)))
    return max(1, count)
