"""What the application has put around its handlers, and handlers that say what they take."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, Required, TypedDict

import pytest
from pydantic import BaseModel

from gworkers import BatchError, Message, Record, Retry
from gworkers.errors import DecodeError
from gworkers.handlers.around import Surrounding, hook_of, middleware_of
from gworkers.handlers.hints import fit_of
from gworkers.handlers.job import Job
from tests.support.jobs import job_of, partition_of, route_of
from tests.unit.test_loading import problems

name: ContextVar[str] = ContextVar("name", default="")


def run(
    handler: Any, *middleware: Any, value: bytes = b"1", before: Any = None, after: Any = None, on_failure: Any = None, **config: Any
) -> Job:
    around = Surrounding(
        tuple(middleware_of(one) for one in middleware),
        hook_of(before, ("message",)) if before is not None else None,
        hook_of(after, ("message", "result")) if after is not None else None,
        hook_of(on_failure, ("message", "exception")) if on_failure is not None else None,
    )
    route = route_of(handler, surrounding=around, **{"output": "out", "decode": "json", "encode": "json", **config})
    job = job_of(partition_of(route), 7, value, key=b"k")
    route.handle(job)
    return job


def values(job: Job) -> list[Any]:
    assert job.error is None, job.error
    return [json.loads(row[3] or b"") for row in job.rows or ()]


def test_the_first_middleware_is_outside_and_each_may_change_the_value_and_the_result() -> None:
    told = []

    def outer(message: Message, proceed: Any) -> Any:
        told.append(f"outer {message.offset} {message.value}")
        return proceed(message.value + 10) * 2

    def inner(message: Message, proceed: Any) -> Any:
        told.append(f"inner {message.value}")
        return proceed() + 1

    job = run(lambda value: told.append(f"handler {value}") or value, outer, inner)  # type: ignore[func-returns-value]
    assert values(job) == [24]
    assert told == ["outer 7 1", "inner 1", "handler 11"]


@pytest.mark.parametrize("count", [0, 1])
def test_what_makes_a_context_manager_is_one(count: int) -> None:
    told = []

    @contextlib.contextmanager
    def of_none() -> Iterator[None]:
        told.append("in")
        try:
            yield
        except ValueError:
            told.append("failed")
            raise
        finally:
            told.append("out")

    def of_one(message: Message) -> Any:
        told.append(message.topic)
        return of_none()

    def handle(value: int) -> int:
        told.append("handler")
        if value == 2:
            raise ValueError
        return value

    assert values(run(handle, (of_none, of_one)[count])) == [1]
    assert told == ["in"] * count + ["in", "handler", "out"] if count == 0 else ["in", "in", "handler", "out"]
    told.clear()
    assert isinstance(run(handle, of_none, value=b"2").error, ValueError)
    assert told == ["in", "handler", "failed", "out"]


def test_a_generators_body_runs_inside() -> None:
    told = []

    @contextlib.contextmanager
    def session() -> Iterator[None]:
        told.append("open")
        yield
        told.append("closed")

    def handle(value: int) -> Iterator[Any]:
        told.append("body")
        yield value
        yield [1, 2]
        yield None
        yield Record(value=3, topic="other")

    assert values(run(handle, session)) == [1, [1, 2], 3]
    assert told == ["open", "body", "closed"]


def test_hooks_are_called_around_a_message_with_what_they_take() -> None:
    told: list[Any] = []
    job = run(
        lambda value: value + 1,
        before=lambda: told.append("before"),
        after=lambda message, result: told.append((message.value, result)),
        on_failure=lambda *of: told.append("failed"),
    )
    assert values(job) == [2]
    assert told == ["before", (1, 2)]


@pytest.mark.parametrize("which", ["before", "after", "middleware", "handler", "decode", "encode", "check"])
def test_whoever_raises_fails_the_attempt_and_the_hook_hears_of_it(which: str) -> None:
    told: list[Any] = []

    def fails(*of: Any) -> Any:
        raise Retry("later")

    job = run(
        fails if which == "handler" else (lambda value: object()) if which == "encode" else (lambda value: value),
        *([lambda message, proceed: fails()] if which == "middleware" else []),
        value=b"{" if which == "decode" else b"1",
        before=fails if which == "before" else None,
        after=fails if which == "after" else None,
        on_failure=lambda message, error: told.append((message.value, error)),
        **({"when": "value.a == 1"} if which == "check" else {}),
    )
    assert job.error is not None
    if which == "check":
        assert told == []  # it was passed over, which is no failure
        return
    assert told == [(b"{" if which == "decode" else 1, job.error)]


def test_a_hook_that_fails_when_it_hears_of_a_failure_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fails(message: Message, error: BaseException) -> None:
        raise OSError("no alerts today")

    job = run(lambda value: 1 / 0, on_failure=fails)
    assert isinstance(job.error, ZeroDivisionError)
    assert "hooks.on_failure failed" in caplog.text
    assert "no alerts today" in caplog.text


def test_context_variables_of_a_middleware_reach_the_handler_and_not_the_next_message() -> None:
    seen = []

    def named(message: Message, proceed: Any) -> Any:
        seen.append(name.get())
        name.set(f"{message.offset}")
        return proceed()

    for _ in range(2):
        run(lambda value: seen.append(name.get()), named)
    assert seen == ["", "7", "", "7"]


def test_around_a_batch_there_are_its_messages() -> None:
    told: list[Any] = []

    def handle(orders: list[int]) -> list[int]:
        if 3 in orders:
            raise BatchError({orders.index(3): ValueError("three")}, list(orders))
        return [n * 2 for n in orders]

    def seen(messages: list[Message], proceed: Any) -> Any:
        told.append([message.value for message in messages])
        return proceed()

    around = Surrounding(
        (middleware_of(seen),),
        after=lambda messages, result: told.append(result),
        on_failure=lambda message, error: told.append((message.offset, str(error))),
    )
    route = route_of(handle, surrounding=around, output="out", decode="json", encode="json", batch={"max_messages": 3, "max_wait": "1s"})
    assert route.handle_batch is not None
    partition = partition_of(route)
    jobs = [job_of(partition, offset, b"%d" % offset) for offset in (1, 2)]
    assert route.handle_batch(jobs) == []
    assert [values(job) for job in jobs] == [[2], [4]]
    assert told == [[1, 2], [2, 4]]
    told.clear()
    jobs = [job_of(partition, offset, b"%d" % offset if offset != 4 else b"{") for offset in (2, 3, 4)]
    route.handle_batch(jobs)
    assert [type(job.error) for job in jobs] == [type(None), ValueError, DecodeError]
    assert told[0] == [2, 3]
    assert [one[0] for one in told[1:]] == [3, 4]


@pytest.mark.usefixtures("modules_as_before")
def test_what_fits_nowhere_is_a_sentence(tmp_path: Path) -> None:
    source = "def handle(v): ...\ndef three(a, b, c): ...\nx = 1\n"
    assert problems(
        tmp_path, source, more="middleware: [app:three, app:x, app:nothing]\nhooks: {before: app:three, on_failure: app:three}\n"
    ) == [
        "app.yaml:6: middleware[0]: app:three takes neither a message and what goes on (message, proceed), nor makes a context manager "
        "of a message or of nothing",
        "app.yaml:6: middleware[1]: app:x is int, which cannot be called",
        "app.yaml:6: middleware[2]: app has no nothing; it has handle, three",
        "app.yaml:7: hooks.before: app:three cannot be called with the message",
        "app.yaml:7: hooks.on_failure: app:three cannot be called with the message and the exception",
    ]


# -- a handler that says what it takes


class Line(BaseModel):
    product: str
    count: int


class Order(BaseModel):
    customer: str
    lines: list[Line] = []


@dataclasses.dataclass
class Plain:
    customer: str
    total: float = 0.0


class Product(TypedDict):
    name: str


class Typed(TypedDict, total=False):
    customer: Required[str]
    products: list[Product] | None


class Named(NamedTuple):
    customer: str


class Shop:
    def price(self, order: Order) -> Any:
        return order

    def __call__(self, order: Plain) -> Any:
        return order


def by_keyword(order: Order, *, currency: str) -> Any:
    return order


@pytest.mark.parametrize(
    ("handler", "wanted"),
    [
        (Shop().price, Order),
        (Shop(), Plain),
        (functools.partial(by_keyword, currency="EUR"), Order),
        (lambda order: order, None),
    ],
)
def test_a_handler_gets_what_it_says_that_it_takes(handler: Any, wanted: Any) -> None:
    fit = fit_of(handler, batch=False)
    assert (fit is None) == (wanted is None)
    if fit is not None:
        assert isinstance(fit({"customer": "c-7"}), wanted)


def _takes(hint: Any) -> Any:
    def handle(value: Any) -> Any:
        return value

    handle.__annotations__["value"] = hint
    return handle


@pytest.mark.parametrize(
    ("hint", "value", "wanted"),
    [
        (Order, {"customer": "c"}, Order(customer="c")),
        (Plain, {"customer": "c", "total": 2}, Plain("c", 2.0)),
        (Typed, {"customer": "c"}, {"customer": "c"}),
        (Named, ["c"], Named("c")),
        (Order, {"customer": 1}, "it is no Order: customer: Input should be a valid string, got 1"),
        (Order, {"lines": [{"count": "many"}]}, "it is no Order: customer: Field required; lines.0.product: Field required; "
         "lines.0.count: Input should be a valid integer, unable to parse string as an integer, got 'many'"),
        (Plain, [1], "it is no Plain: the value: Input should be a dictionary or an instance of Plain, got [1]"),
        (Typed, {}, "it is no Typed: customer: Field required"),
        (Typed, {"customer": "c", "products": [{}]}, "it is no Typed: products.0.name: Field required"),
    ],
)  # fmt: skip
def test_values_are_checked_and_wrong_fields_named(hint: Any, value: Any, wanted: Any) -> None:
    fit = fit_of(_takes(hint), batch=False)
    assert fit is not None
    if not isinstance(wanted, str):
        assert fit(value) == wanted
        return
    with pytest.raises(ValueError, match=r"^it is no ") as caught:
        fit(value)
    assert str(caught.value) == wanted


@pytest.mark.parametrize("hint", [dict, str, int, Any, None, Message, "nothing that is there", list[Order]])
def test_other_annotations_are_for_the_reader(hint: Any) -> None:
    assert hint is Message or fit_of(_takes(hint), batch=False) is None


def test_of_a_batch_each_message_is_checked() -> None:
    fit = fit_of(_takes(list[Order]), batch=True)
    assert fit is not None
    assert fit({"customer": "c"}) == Order(customer="c")
    assert fit_of(_takes(Order), batch=True) is None


def test_a_value_that_does_not_fit_is_undecodable(tmp_path: Path) -> None:
    route = route_of(_takes(Order), fit=fit_of(_takes(Order), batch=False), decode="json")
    job = job_of(partition_of(route), 7, b'{"customer": 1}')
    route.handle(job)
    assert isinstance(job.error, DecodeError)
    assert "customer: Input should be a valid string, got 1" in str(job.error)
