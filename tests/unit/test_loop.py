"""A loop's death is the process's."""

from __future__ import annotations

import logging

import gevent
import pytest

from gworkers.errors import FatalError, UnavailableError
from gworkers.loop import Loop, after


def test_what_is_not_expected_ends_the_process_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        _ = 1 / 0

    loop = Loop("clock", run, errors.append).start()
    loop.greenlet.join(5)
    (error,) = errors
    assert isinstance(error, FatalError)
    assert str(error) == "the loop 'clock' failed: ZeroDivisionError: division by zero; the trace is above, please report it"
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)


def test_an_error_with_a_sentence_of_its_own_keeps_it(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        raise UnavailableError("Kafka has gone")

    Loop("clock", run, errors.append).start().greenlet.join(5)
    assert [str(error) for error in errors] == ["Kafka has gone"]
    assert not caplog.records


def test_one_that_comes_back_is_an_error_unless_it_has_an_end() -> None:
    errors: list[BaseException] = []
    Loop("clock", lambda: None, errors.append).start().greenlet.join(5)
    assert "the loop 'clock' has ended, and it never should" in str(errors.pop())
    after(0.0, "once", errors.append, lambda: None).greenlet.join(5)
    assert not errors


def test_stopping_is_no_error_before_during_and_after() -> None:
    errors: list[BaseException] = []
    waiting, early = (Loop("clock", lambda: gevent.sleep(60), errors.append) for _ in range(2))
    early.stop()
    early.start()
    waiting.start()
    gevent.sleep(0)
    assert not waiting.dead
    waiting.stop()
    waiting.greenlet.join(5)
    early.greenlet.join(5)
    waiting.stop()
    assert waiting.dead
    assert early.dead
    assert not errors
