"""When a failed message is tried again."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import pytest

from gworkers import Reject, Retry
from gworkers.errors import DecodeError, EncodeError, RecordTooLargeError, SendError
from gworkers.handlers.job import Job
from gworkers.pipeline.retries import delay_of, seconds_of
from tests.support.jobs import job_of, partition_of, route_of


def failed(error: BaseException, attempt: int = 1, only: tuple[Any, ...] = (), never: tuple[Any, ...] = (), **retry: Any) -> Job:
    route = route_of(only=only, never=never, retry={"backoff": "1s", "jitter": 0, **retry})
    return job_of(partition_of(route), attempt=attempt, error=error)


def test_the_wait_doubles_up_to_its_limit_until_the_attempts_are_used_up() -> None:
    waits = [delay_of(failed(ValueError(), attempt, attempts=7, max_backoff="5s")) for attempt in range(1, 8)]
    assert waits == [1, 2, 4, 5, 5, 5, None]


def test_jitter_takes_a_part_of_the_wait_away() -> None:
    job = failed(ValueError(), jitter=0.5)
    assert [delay_of(job, iter([x]).__next__) for x in (0.0, 0.5, 1.0)] == [1, 0.75, 0.5]


def test_a_thousandth_attempt_overflows_nothing() -> None:
    assert delay_of(failed(ValueError(), 5000, attempts=10_000)) == 30


@pytest.mark.parametrize("error", [Reject("no"), DecodeError("x"), EncodeError("x"), RecordTooLargeError("x")])
def test_what_no_attempt_can_help_gets_none(error: BaseException) -> None:
    assert delay_of(failed(error)) is None


def test_a_refused_send_is_tried_again() -> None:
    assert delay_of(failed(SendError("not enough replicas"))) == 1


def test_only_and_never_choose_by_class() -> None:
    assert delay_of(failed(KeyError(), never=(LookupError,))) is None
    assert delay_of(failed(ValueError(), never=(LookupError,))) == 1
    assert delay_of(failed(KeyError(), only=(LookupError,))) == 1
    assert delay_of(failed(ValueError(), only=(LookupError,))) is None


def test_the_handler_may_name_the_delay() -> None:
    class Busy(Exception):
        retry_after = 7

    assert delay_of(failed(Retry(delay=3.5))) == 3.5
    assert delay_of(failed(Busy())) == 7
    assert delay_of(failed(Retry())) == 1
    assert delay_of(failed(Retry(delay=3), never=(Exception,))) == 3
    assert delay_of(failed(Retry(delay=3), attempt=5)) is None


@pytest.mark.parametrize("asked", [-1, "soon", True, float("nan"), float("inf")])
def test_a_delay_that_is_none_leaves_the_backoff_to_decide(asked: Any) -> None:
    class Odd(Exception):
        retry_after = asked

    assert delay_of(failed(Odd())) == 1


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (2, 2.0),
        (0.25, 0.25),
        (-1, None),
        ("2", 2.0),
        (" 2.5 ", 2.5),
        ("250ms", 0.25),
        ("1m", 60.0),
        (datetime.timedelta(minutes=2), 120.0),
        (datetime.datetime.fromtimestamp(1_000_010, datetime.UTC), 10.0),
        ("Mon, 12 Jan 1970 13:46:50 GMT", 10.0),
        (decimal.Decimal("1.5"), 1.5),
        (math.inf, None),
        (math.nan, None),
        (True, None),
        ("soon", None),
        ("9" * 400 + "h", None),
        ([2], None),
        (10**400, None),
    ],
)
def test_how_long_an_application_asks_to_wait(asked: object, seconds: float | None) -> None:
    assert seconds_of(asked, lambda: 1_000_000) == seconds


def test_a_wait_that_is_none_is_told_and_the_backoff_decides(caplog: pytest.LogCaptureFixture) -> None:
    class Busy(Exception):
        retry_after = "soon"

    partition = partition_of(retry={"attempts": 3, "backoff": "1s", "jitter": 0})
    assert delay_of(job_of(partition, error=Busy())) == 1.0
    assert "Busy.retry_after is 'soon', which is no time to wait; the route's backoff decides" in caplog.text
    assert delay_of(job_of(partition, error=Retry(delay="2"))) == 2.0
