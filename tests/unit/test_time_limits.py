"""An interrupt hits the handler that is late, and no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gworkers.handlers.time_limits import TimeLimit
from gworkers.message import HandlerTimeout


class Runner:
    """A thread that runs functions under a Limit, as the executor does."""

    def __init__(self) -> None:
        self.limit: TimeLimit | None = None
        self.hit = self.stray = self.ended = self.lost = 0
        self.going = True
        self.failed: BaseException | None = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        while self.limit is None:
            time.sleep(0)

    def run(self) -> None:
        try:
            limit = self.limit = TimeLimit()
            while self.going:
                hit = False
                try:
                    limit.begin()
                    try:
                        sum(range(200))
                    except HandlerTimeout:
                        hit = True
                    ours = limit.end()
                except HandlerTimeout:
                    hit = True
                    ours = limit.end()
                self.hit += hit
                self.ended += 1
                self.lost += not ours
        except BaseException as error:
            self.failed = error


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.going = False
    runner.thread.join(10)
    assert not runner.thread.is_alive()
    assert runner.failed is None, repr(runner.failed)


def test_interrupts_sent_at_any_moment_are_raised_inside_the_handler_or_not_at_all(runner: Runner) -> None:
    """Handlers of a few microseconds, interrupted as fast as can be: none of the exceptions gets
    out of begin … end."""
    limit = runner.limit
    assert limit is not None
    sent = 0
    begun = time.monotonic()
    while runner.failed is None and time.monotonic() - begun < (3 if sent > 100 else 30):
        if limit.late(-1.0, time.monotonic()):
            limit.interrupt()
            sent += 1
    assert runner.failed is None
    assert sent > 100
    assert 0 < runner.hit <= sent


def test_a_handler_that_is_given_up_does_not_speak_for_itself_and_the_next_one_does(runner: Runner) -> None:
    limit = runner.limit
    assert limit is not None
    given_up = 0
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and runner.failed is None:
        if limit.late(-1.0, time.monotonic()):
            limit.interrupt()
            given_up += limit.give_up()
    runner.going = False
    runner.thread.join(10)
    assert given_up == runner.lost > 0


def test_one_that_is_in_time_is_let_go(runner: Runner) -> None:
    limit: Any = runner.limit
    assert not any(limit.late(10.0, time.monotonic()) for _ in range(10_000))
