"""The page's history: what a point is made of, growing steps, its bound, its file."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from gworkers.admin.page.facts import Facts
from gworkers.admin.page.history import STEPS, File, History, Point


def process(pid: int, polled: int, done: int, failed: int = 0, lag: int | None = 5) -> dict[str, Any]:
    return {
        "version": "1",
        "pid": pid,
        "polled": polled,
        "done": done,
        "routes": [{"failed": {"ValueError": failed}}],
        "lag": lag,
        "running": 2,
        "concurrency": 8,
    }


def facts(at: float, **processes: dict[str, Any]) -> Facts:
    return Facts({name.removeprefix("p"): one for name, one in processes.items()}, at)


def fail(error: BaseException) -> None:
    raise error


def history() -> History:
    return History(lambda: Facts({}, 0.0), None, fail)


def test_a_point_is_what_has_been_done_since_the_last_look() -> None:
    found = history()
    assert found._add(facts(1000.0, p0=process(1, 100, 50))) == []  # nothing to compare with
    ((step, point),) = [one for one in found._add(facts(1010.0, p0=process(1, 300, 150, 4))) if one[0] == 10]
    assert (step, point) == (10, Point(1010, 20.0, 10.0, 5, 2, 8, 24.0))


def test_a_process_that_is_replaced_counts_from_nothing() -> None:
    found = history()
    found._add(facts(1000.0, p0=process(1, 100, 50), p1=process(2, 10, 10)))
    point = found._add(facts(1010.0, p0=process(7, 20, 10), p1=process(2, 20, 20, lag=None)))[0][1]
    assert (point.read, point.done, point.lag, point.concurrency) == (3.0, 2.0, None, 16)


def test_what_does_not_answer_makes_no_point() -> None:
    found = history()
    found._add(facts(1000.0, p0=process(1, 100, 50)))
    assert found._add(facts(1010.0, p0={"ok": False, "why": "it does not answer"})) == []


def test_steps_grow_and_are_bounded() -> None:
    found = history()
    begin = 1_700_000_000 - 1_700_000_000 % 720
    for n in range(1000):
        found._add(facts(begin + 10.0 * n, p0=process(1, 100 * n, 50 * n)))
    assert [len(found._points[step]) for step, _ in STEPS] == [360, 83, 13]
    for step, _ in STEPS:
        points = found._points[step]
        assert {point.done for point in points} == {5.0}
        assert all(later.at - earlier.at == step for earlier, later in zip(points, list(points)[1:], strict=False))


def test_the_file_keeps_them_and_forgets_what_is_too_old(tmp_path: Path) -> None:
    now = int(time.time())
    file = File(tmp_path / "state" / "page.sqlite")
    file.write([(10, Point(now - 10, 1.0, 2.0, None, 3.0, 4.0, 5.0)), (10, Point(now - 4000, 1.0, 2.0, 3.0, 3.0, 4.0, 5.0))])
    file.write([(720, Point(now - 700, 9.0, 2.0, 3.0, 3.0, 4.0, 5.0))])
    file.close()
    again = File(tmp_path / "state" / "page.sqlite")
    found = again.read()
    again.close()
    assert found[10] == [Point(now - 10, 1.0, 2.0, None, 3.0, 4.0, 5.0)]
    assert [point.read for point in found[720]] == [9.0]


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "page.sqlite").write_text("something else, and long enough to be read as a page of a database" * 20)
    with pytest.raises(sqlite3.DatabaseError):
        File(tmp_path / "page.sqlite")
