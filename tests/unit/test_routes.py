"""What becomes of one message between Kafka's bytes and Kafka's bytes."""

from __future__ import annotations

from typing import Any

import pytest

from gworkers import Message, Record
from gworkers.codecs import CODECS
from gworkers.config.route import Route as RouteConfig
from gworkers.errors import DecodeError, EncodeError
from gworkers.handlers import routes
from gworkers.handlers.job import Job
from tests.support.jobs import job_of, partition_of, route_of


def run(handler: Any, value: bytes | None = b"1", *, key: bytes | None = b"k", attempt: int = 1, **config: Any) -> Job:
    partition = partition_of(route_of(handler, **{"output": "out", **config}))
    job = job_of(partition, 7, value, key=key, headers=[("h", b"1")], timestamp=1234, attempt=attempt)
    partition.route.handle(job)
    return job


def test_a_result_takes_key_headers_and_timestamp_from_its_input() -> None:
    job = run(lambda value: {"n": value["n"] + 1}, b'{"n": 1}', decode="json", encode="json")
    assert job.error is None
    assert job.rows == [("out", None, b"k", b'{"n":2}', [("h", b"1")], 1234)]


@pytest.mark.parametrize(
    ("decode", "encode", "value", "seen", "result", "sent"),
    [
        ("bytes", "bytes", b"\xff", b"\xff", b"\x00", b"\x00"),
        ("bytes", "bytes", b"x", b"x", bytearray(b"y"), b"y"),
        ("text", "text", "ü".encode(), "ü", "é", "é".encode()),
        ("json", "json", b"[1, null]", [1, None], "ü", '"ü"'.encode()),
        ("json", "json", b"0", 0, 0, b"0"),
        (
            "msgpack",
            "msgpack",
            b"\x82\xa1n\x01\x02\xc4\x01x",
            {"n": 1, 2: b"x"},
            [None, 2.5, "ü"],
            b"\x93\xc0\xcb@\x04\0\0\0\0\0\0\xa2\xc3\xbc",
        ),
        ("json", "json", b'""', "", "", b'""'),
        ("text", "json", b"", "", False, b"false"),
    ],
)
def test_values_are_decoded_and_encoded(decode: str, encode: str, value: bytes, seen: Any, result: Any, sent: bytes) -> None:
    got: list[Any] = []

    def handler(value: Any) -> Any:
        got.append(value)
        return result

    job = run(handler, value, decode=decode, encode=encode)
    assert got == [seen]
    assert job.rows is not None
    assert job.rows[0][3] == sent


def test_none_sends_nothing() -> None:
    job = run(lambda value: None)
    assert (job.rows, job.error) == (None, None)


def test_a_message_without_a_value_reaches_the_handler_as_none() -> None:
    got: list[Any] = []
    assert run(got.append, None, decode="json").error is None
    assert got == [None]


def test_without_an_output_a_result_is_dropped_and_a_record_is_sent() -> None:
    assert run(lambda value: object(), output=None).rows is None
    assert run(lambda value: Record("x", topic="there"), output=None, encode="text").rows == [
        ("there", None, b"k", b"x", [("h", b"1")], 1234)
    ]
    error = run(lambda value: Record("x"), output=None, encode="text").error
    assert isinstance(error, EncodeError)
    assert "give it a topic" in str(error)


def test_a_message_tells_where_it_came_from() -> None:
    got: list[Message] = []
    run(got.append, b"5", decode="json", attempt=3, pass_="message")
    assert got == [Message("in", 3, 7, b"k", 5, (("h", b"1"),), 1234, 3)]
    assert got[0].header("h") == b"1"
    assert got[0].header("none", b"d") == b"d"


def test_records_name_their_own_topic_key_headers_partition_and_time() -> None:
    job = run(
        lambda value: [Record(b"raw", "a", key="k2", headers=[("x", None)], partition=1, timestamp=9), Record(key=None)], encode="json"
    )
    assert job.rows == [("a", 1, b"k2", b"raw", [("x", None)], 9), ("out", None, None, None, [("h", b"1")], 1234)]


@pytest.mark.parametrize(
    ("handler", "config", "kind", "text"),
    [
        (lambda value: value, {"decode": "json", "value": b"{"}, DecodeError, "the value is not valid json: Expecting property name"),
        (lambda value: value, {"decode": "text", "value": b"\xff"}, DecodeError, "the value is not valid text: 'utf-8' codec can't decode"),
        (lambda value: "x", {}, EncodeError, "the handler returned a str, which cannot be encoded: expected bytes; set encode: text"),
        (lambda value: 1, {"encode": "text"}, EncodeError, "the handler returned an int, which cannot be encoded: expected text"),
        (lambda value: value, {"decode": "msgpack", "value": b"\x93\x01"}, DecodeError, "the value is not valid msgpack: "),
        (lambda value: value, {"decode": "msgpack", "value": b"\x01\x02"}, DecodeError, "the value is not valid msgpack: "),
        (lambda value: {1, 2}, {"encode": "msgpack"}, EncodeError, "returned a set, which cannot be encoded: can not serialize 'set'"),
        (lambda value: 2**64, {"encode": "msgpack"}, EncodeError, "returned an int, which cannot be encoded: msgpack has no such number"),
        (lambda value: {1, 2}, {"encode": "json"}, EncodeError, "returned a set, which cannot be encoded: Object of type set"),
        (lambda value: "x", {"encode": "my:own"}, EncodeError, "the encoder returned a str, expected bytes"),
        (lambda value: [Record(b"x"), 1], {}, EncodeError, "a list of Records with something else among them"),
        (lambda value: [1, Record(b"x")], {"encode": "json"}, EncodeError, "cannot be encoded: Object of type Record"),
        (lambda value: 1 / 0, {}, ZeroDivisionError, "division by zero"),
        (lambda value: exec("raise SystemExit(3)"), {}, SystemExit, "3"),
        (lambda value: exec("raise KeyboardInterrupt"), {}, KeyboardInterrupt, ""),
    ],
)
def test_whatever_goes_wrong_is_an_error_of_the_message(handler: Any, config: dict[str, Any], kind: type[BaseException], text: str) -> None:
    job = run(handler, **config)
    assert job.rows is None
    assert type(job.error) is kind
    assert text in str(job.error)


def test_a_block_grows_with_the_speed_of_its_handler() -> None:
    model = RouteConfig.model_validate({"topics": ["in"], "handler": "a:b"})
    route = routes.compile_route("r", model, lambda value: None, CODECS["bytes"].decode, CODECS["bytes"].encode)
    assert route.block_size == 1
    for _ in range(50):
        route.measured(64e-6, 64)
    assert route.block_size == routes.HOP_MESSAGES
    for _ in range(50):
        route.measured(0.02, 1)
    assert route.block_size == 1


def test_patterns_match_from_the_beginning_as_kafka_does() -> None:
    route = route_of(topics=[], pattern="orders\\..*")
    assert routes.route_of([route], "orders.eu") is route
    assert routes.route_of([route], "old.orders.eu") is None


def test_a_topic_goes_to_the_route_that_names_it_and_patterns_take_up_nothing_that_has_failed() -> None:
    wild = route_of(topics=[], pattern=".*", output="priced", dead_letter="wild.dead")
    named = route_of(topics=["orders"], dead_letter="orders.dead", retry={"topics": ["1m"]})
    all_of_them = [wild, named]
    found = {name: routes.route_of(all_of_them, name) for name in ("orders", "orders.retry.1m", "refunds")}
    assert found == {"orders": named, "orders.retry.1m": named, "refunds": wild}
    assert [routes.route_of(all_of_them, name) for name in ("orders.dead", "wild.dead", "priced")] == [None] * 3


def test_a_generators_body_runs_and_each_that_it_yields_is_a_result() -> None:
    ran = []

    def handle(value: bytes) -> Any:
        for part in value.split():
            ran.append(part)
            yield part
        yield None
        yield Record(b"r", topic="elsewhere")

    job = job_of(partition_of(route := route_of(handle, output="out")), value=b"a b")
    route.handle(job)
    assert job.error is None
    assert ran == [b"a", b"b"]
    assert [(row[0], row[3]) for row in job.rows or ()] == [("out", b"a"), ("out", b"b"), ("elsewhere", b"r")]
    job = job_of(partition_of(route := route_of(handle)), value=b"a b")  # without an output the body runs all the same
    route.handle(job)
    assert ran == [b"a", b"b", b"a", b"b"]

    def fails(value: bytes) -> Any:
        yield value
        raise KeyError("half way")

    job = job_of(partition_of(route := route_of(fails, output="out")), value=b"a")
    route.handle(job)
    assert isinstance(job.error, KeyError)
    assert not job.rows


def test_a_coroutine_that_nobody_awaits_is_told() -> None:
    async def work(value: bytes) -> None:
        raise AssertionError

    job = job_of(partition_of(route := route_of(lambda value: work(value))), value=b"a")
    route.handle(job)
    assert isinstance(job.error, EncodeError)
    assert "which nobody awaits: its body has not run" in str(job.error)
