"""What a running server says of itself, of all its processes together, as rows that are shown: one
look after the other, with what the ones before said of rates."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gworkers.cli.asking import Running, partitions_told, processes_of
from gworkers.config.units import format_duration
from gworkers.errors import UnavailableError
from gworkers.handlers.stacks import standing_at
from gworkers.pipeline.snapshot import PAUSED
from gworkers.text import safe

#: What there is to look at.
TABLES = ("routes", "partitions", "running", "failures")
#: How many looks a sparkline has.
HISTORY = 20
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Row:
    """cells: what is shown; keys: what each of them is sorted by; selection: what ``pause`` and
    ``resume`` take of it."""

    cells: Sequence[str]
    keys: Sequence[Any]
    selection: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """columns: their headings, those of numbers with ``>`` before."""

    columns: tuple[str, ...]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Look:
    """One look. head: lines of text; name: of the table."""

    head: tuple[str, ...]
    name: str
    table: Table


class Looking:
    """Asks a server again and again. find: finds it, again after it has not answered, because one that
    was started anew has another address. Blocks while it does."""

    def __init__(self, find: Callable[[], Running]) -> None:
        self._find = find
        self._server = find()
        self._rates: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=HISTORY))

    def look(self, name: str) -> Look:
        """name: of one of TABLES; the server is asked for what this one needs: where 64 handlers stand
        takes it 4 ms on its hub. Raises UnavailableError."""
        try:
            told = self._server.get("/status")
        except UnavailableError:
            self._server = self._find()
            told = self._server.get("/status")
        processes = {number: one for number, one in processes_of(told).items() if "holds_back" in one}
        several = len(processes) > 1
        routes = self._routes(processes.values())  # each time, because it keeps the rates
        if name == "partitions":
            table = _partitions(processes, several=several)
        elif name == "running":
            table = _running(self._listed("/stacks", "running"), several=several)
        elif name == "failures":
            table = _failures(self._listed("/failures", "recent"), several=several)
        else:
            table = routes
        return Look(tuple(_head(processes)), name, table)

    def pause(self, selection: dict[str, Any], *, on: bool) -> str:
        """Pause or resume what a row stands for; a sentence about it."""
        told = self._server.post("/pause" if on else "/resume", **selection)
        return f"{'paused' if on else 'going on'}: {partitions_told(told)}"

    def _listed(self, path: str, name: str) -> list[dict[str, Any]]:
        found = processes_of(self._server.get(path)).items()
        return [{**each, "process": number} for number, one in found for each in one.get(name, ())]

    def _routes(self, processes: Iterable[dict[str, Any]]) -> Table:
        together: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for one in processes:
            for route in one["routes"]:
                together[route["name"]].append(route)
        rows = []
        for name, found in together.items():
            rate, running, retried, dead = (sum(route[part] for route in found) for part in ("rate", "running", "retried", "dead_lettered"))
            failed = sum(sum(route["failed"].values()) for route in found)
            p50, p99 = (max((route["handler"][part] or 0.0 for route in found), default=0.0) for part in ("p50", "p99"))
            self._rates[name].append(rate)
            counts = (running, failed, retried, dead)
            told = (f"{rate:,.0f}", sparkline(self._rates[name]), time_of(p50), time_of(p99), *(f"{count:,}" for count in counts))
            rows.append(Row((safe(name), *told), (name, rate, rate, p50, p99, *counts), {"route": name}))
        columns = ("route", ">a second", "lately", ">p50", ">p99", ">running", ">failed", ">retried", ">dead")
        return Table(columns, rows)


def _head(processes: dict[str, dict[str, Any]]) -> Iterator[str]:
    if not processes:
        yield "none of its processes answers yet"
        return
    first = next(iter(processes.values()))
    for number, one in processes.items():
        name = f"[{number}] " if len(processes) > 1 else ""
        yield f"{name}{'well' if one['ok'] else 'NOT WELL'}: {safe(one['why'])}"
    total = {
        name: sum(one[name] for one in processes.values()) for name in ("done", "running", "concurrency", "waiting", "retrying", "memory")
    }
    lags = [one["lag"] for one in processes.values()]
    lag = "?" if None in lags else f"{sum(lags):,}"
    up = format_duration(round(max(one["uptime"] for one in processes.values())))
    yield (
        f"done {total['done']:,} · running {total['running']} of {total['concurrency']} · waiting {total['waiting']:,} · "
        f"retrying {total['retrying']:,} · lag {lag} · {total['memory'] / 2**20:,.0f} MiB · up {up} · {safe(first['group'])}"
    )


def _partitions(processes: dict[str, dict[str, Any]], *, several: bool) -> Table:
    rows = []
    for number, one in processes.items():
        for partition in one["partitions"]:
            lag, age = partition["lag"], partition["lag_seconds"] or 0.0
            why = PAUSED.get(partition["paused"], "") if partition["paused"] else ""
            shown = ("?" if lag is None else f"{lag:,}", time_of(age) if age >= 1 else "", _number(partition["finished"]))
            counts = (partition["ahead"], partition["waiting"], partition["in_flight"])
            cells = (_partition(partition), *shown, *(f"{count:,}" for count in counts), why)
            keys = ((partition["topic"], partition["partition"]), lag or 0, age, partition["finished"] or 0, *counts, why)
            rows.append(_row(partition, number, cells, keys, several=several))
    return _table((">lag", ">age", ">finished to", ">ahead", ">waiting", ">running", "paused"), rows, several=several, first="partition")


def _running(found: list[dict[str, Any]], *, several: bool) -> Table:
    rows = []
    for one in sorted(found, key=lambda one: -one["age"]):
        line = standing_at(one["stack"])
        cells = (time_of(one["age"]), _message(one), safe(one["route"]), str(one["attempt"]), line)
        keys = (one["age"], _place(one), one["route"], one["attempt"], line)
        rows.append(_row(one, one["process"], cells, keys, several=several))
    return _table(("message", "route", ">attempt", "at"), rows, several=several, first=">age")


def _failures(found: list[dict[str, Any]], *, several: bool) -> Table:
    rows = []
    for one in sorted(found, key=lambda one: -one["at"]):
        at = time.strftime("%H:%M:%S", time.localtime(one["at"]))
        cells = (at, one["outcome"], _message(one), str(one["attempt"]), safe(one["text"] or one["error"]))
        keys = (one["at"], one["outcome"], _place(one), one["attempt"], one["text"])
        rows.append(_row(one, one["process"], cells, keys, several=several))
    return _table(("outcome", "message", ">attempt", "why"), rows, several=several, first="when")


def _table(columns: tuple[str, ...], rows: list[Row], *, several: bool, first: str) -> Table:
    """With a column for the process, where there are several."""
    return Table((first, *columns, *(["process"] if several else [])), rows)


def _row(of: dict[str, Any], number: str, cells: tuple[str, ...], keys: tuple[Any, ...], *, several: bool) -> Row:
    """One of a partition's."""
    selection = {"topic": of["topic"], "partition": of["partition"]}
    return Row((*cells, number), (*keys, number), selection) if several else Row(cells, keys, selection)


def _partition(one: dict[str, Any]) -> str:
    return f"{safe(one['topic'])}[{one['partition']}]"


def _message(one: dict[str, Any]) -> str:
    return f"{_partition(one)}@{one['offset']}"


def _place(one: dict[str, Any]) -> tuple[str, int, int]:
    return one["topic"], one["partition"], one["offset"]


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def time_of(seconds: float) -> str:
    """``3.1 ms``, ``12 s``, ``2 h``; nothing for no time."""
    if not seconds:
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} m" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def sparkline(values: Iterable[float]) -> str:
    """One bar a value, of the highest of them."""
    found = list(values)
    most = max(found, default=0.0)
    return "".join(_BARS[round((len(_BARS) - 1) * value / most)] if most else _BARS[0] for value in found)
