"""What the page's charts show: figures of the last 72 hours at growing steps, bounded, in a file where
there is a state directory."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent

from gworkers import native
from gworkers.admin.page.facts import Facts
from gworkers.loop import Fatal, Loop

log = logging.getLogger(__name__)

#: Seconds of a step, and how many of them are kept: an hour, twelve hours, three days.
STEPS = ((10, 360), (120, 360), (720, 360))
NAMES = ("read", "done", "lag", "running", "concurrency", "failed")


@dataclass(frozen=True, slots=True)
class Point:
    """At a moment, seconds since 1970: messages read and done a second, those not finished, handlers
    that ran, those that might, attempts that failed a minute. None where it is not known."""

    at: int
    read: float | None
    done: float | None
    lag: float | None
    running: float | None
    concurrency: float | None
    failed: float | None

    @property
    def values(self) -> tuple[float | None, ...]:
        return (self.read, self.done, self.lag, self.running, self.concurrency, self.failed)


class File:
    """The points in SQLite. Called on a native thread, where it may block; raises sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(path, check_same_thread=False, timeout=1.0, isolation_level=None)
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = NORMAL")
        columns = ", ".join(f"{name} REAL" for name in NAMES)
        self._base.execute(f"CREATE TABLE IF NOT EXISTS points (step INTEGER, at INTEGER, {columns}, PRIMARY KEY (step, at)) WITHOUT ROWID")

    def read(self) -> dict[int, list[Point]]:
        found: dict[int, list[Point]] = {}
        for step, most in STEPS:
            rows = self._base.execute("SELECT * FROM points WHERE step = ? ORDER BY at DESC LIMIT ?", (step, most)).fetchall()
            found[step] = [Point(*row[1:]) for row in reversed(rows)]
        return found

    def write(self, points: list[tuple[int, Point]]) -> None:
        """Each with its step; what is too old goes."""
        self._base.execute("BEGIN")
        try:
            for step, point in points:
                marks = ", ".join("?" * (2 + len(NAMES)))
                self._base.execute(f"INSERT OR REPLACE INTO points VALUES ({marks})", (step, point.at, *point.values))
            for step, most in STEPS:
                self._base.execute("DELETE FROM points WHERE step = ? AND at < ?", (step, int(time.time()) - step * most))
        finally:
            self._base.execute("COMMIT")

    def close(self) -> None:
        self._base.close()


class History:
    """look: what ``/status`` says of all processes. path: of the file, None to keep it in memory
    alone."""

    def __init__(self, look: Callable[[], Facts], path: Path | None, fatal: Fatal) -> None:
        self._look = look
        self._path = path
        self._file: File | None = None
        self._points: dict[int, deque[Point]] = {step: deque(maxlen=most) for step, most in STEPS}
        self._counts: dict[str, tuple[float, float, float]] = {}  # of each process, as they were
        self._looked: float | None = None
        self._loop = Loop("history", self._run, fatal)

    @property
    def kept(self) -> bool:
        """Whether it outlives this process."""
        return self._file is not None

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()
        if self._file is not None:
            self._file.close()
            self._file = None

    def points(self, hours: float) -> list[Point]:
        """Of the last hours, in the finest step that reaches so far back."""
        step = next((step for step, most in STEPS if step * most >= 3600 * hours), STEPS[-1][0])
        since = time.time() - 3600 * hours
        return [point for point in self._points[step] if point.at >= since]

    def _run(self) -> None:
        self._open()
        while True:
            gevent.sleep(STEPS[0][0] - time.time() % STEPS[0][0])
            self._write(self._add(self._look()))

    def _open(self) -> None:
        if self._path is None:
            return
        try:
            self._file = self._native(File, self._path)
            for step, points in self._native(self._file.read).items():
                self._points[step].extend(points)
        except (sqlite3.Error, OSError) as error:
            log.warning("the page's history is kept in memory alone, because %s cannot be used: %s", self._path, error)
            self._file = None

    def _write(self, points: list[tuple[int, Point]]) -> None:
        if self._file is None or not points:
            return
        try:
            self._native(self._file.write, points)
        except sqlite3.Error as error:
            log.warning("the page's history is kept in memory alone from now on, because %s cannot be written: %s", self._path, error)
            self._file = None

    @staticmethod
    def _native(function: Callable[..., Any], *arguments: Any) -> Any:
        return native.call(gevent.get_hub().threadpool, function, *arguments)

    def _add(self, facts: Facts) -> list[tuple[int, Point]]:
        """The points that are new, each with its step."""
        found = facts.answering
        point = self._point(facts.asked, found)
        if point is None:
            return []
        new = []
        for step, _ in STEPS:
            last = self._points[step][-1].at if self._points[step] else 0
            begin = point.at - point.at % step
            if step == STEPS[0][0]:
                self._points[step].append(point)
                new.append((step, point))
            elif begin > last and (parts := [one for one in self._points[STEPS[0][0]] if begin - step <= one.at < begin]):
                new.append((step, _mean(begin, parts)))
                self._points[step].append(new[-1][1])
        return new

    def _point(self, now: float, found: dict[str, dict[str, Any]]) -> Point | None:
        counts = {
            f"{number} {one['pid']}": (
                float(one["polled"]),
                float(one["done"]),
                float(sum(sum(route["failed"].values()) for route in one["routes"])),
            )
            for number, one in found.items()
        }
        before, self._counts = self._counts, counts
        looked, self._looked = self._looked, now
        if looked is None or now <= looked or not found:
            return None
        grown = [sum(each[index] - before.get(name, (0, 0, 0))[index] for name, each in counts.items()) for index in range(3)]
        lags = [one["lag"] for one in found.values()]
        seconds = now - looked
        return Point(
            at=int(now),
            read=grown[0] / seconds,
            done=grown[1] / seconds,
            lag=None if None in lags else sum(lags),
            running=sum(one["running"] for one in found.values()),
            concurrency=sum(one["concurrency"] for one in found.values()),
            failed=60 * grown[2] / seconds,
        )


def _mean(at: int, parts: list[Point]) -> Point:
    columns = zip(*(part.values for part in parts), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return Point(at, *(sum(column) / len(column) if column else None for column in known))
