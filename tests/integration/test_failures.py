"""What becomes of messages that fail: another attempt, the dead-letter topic, or the end of the
process."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from tests.support.servers import committed, configuration, consume, create_topic, produce, unique, until

FAILS = """
import collections, json
seen = collections.Counter()
class Busy(Exception): pass
class Hopeless(Exception): pass
def handle(value):
    seen[value] += 1
    kind, _, number = value.partition(" ")
    if kind == "once" and seen[value] == 1:
        raise Busy("not now")
    if kind == "always":
        raise ValueError("never\\nagain")
    if kind == "hopeless":
        raise Hopeless("no")
    return f"{value} {seen[value]}"
"""


def headers_of(message: Any) -> dict[str, str]:
    return {name: value.decode(errors="replace") for name, value in message.headers() or []}


def test_failures_are_tried_again_and_then_dead_lettered(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    words = [f"{kind} {n}" for n in range(30) for kind in ("good", "once", "always", "hopeless")]
    produce(kafka_servers, source, ((b"k", word.encode()) for word in words), headers=[("own", b"1"), ("kafka_dlt-original-topic", b"old")])
    retry = {"attempts": 3, "backoff": "20ms", "never": ["app:Hopeless"]}
    config = configuration(
        kafka_servers, "app:handle", source, output, decode="text", encode="text", retry=retry, dead_letter=dead, executor=executor
    )
    server = start(config, "--until-idle", "300ms", app=FAILS)
    assert server.wait() == 0, server.log
    wanted = [f"good {n} 1" for n in range(30)] + [f"once {n} 2" for n in range(30)]
    assert sorted(m.value().decode() for m in consume(kafka_servers, output)) == sorted(wanted)
    letters = {m.value().decode(): m for m in consume(kafka_servers, dead)}
    assert sorted(letters) == sorted(word for word in words if word.startswith(("always", "hopeless")))
    came = {m.value().decode(): m for m in consume(kafka_servers, source)}
    for word, letter in letters.items():
        told, original = headers_of(letter), came[word]
        assert letter.key() == b"k"
        assert letter.timestamp()[1] >= original.timestamp()[1], "the time of sending"
        assert told["own"] == "1"
        assert [name for name, _ in letter.headers()].count("kafka_dlt-original-topic") == 1
        assert told["kafka_dlt-original-topic"] == source
        binary = dict(letter.headers())
        assert struct.unpack(">i", binary["kafka_dlt-original-partition"]) == (original.partition(),)
        assert struct.unpack(">q", binary["kafka_dlt-original-offset"]) == (original.offset(),)
        assert struct.unpack(">q", binary["kafka_dlt-original-timestamp"]) == (original.timestamp()[1],)
        assert told["kafka_dlt-original-timestamp-type"] == "CreateTime"
        assert told["kafka_dlt-original-consumer-group"] == config["kafka"]["group"]
        assert told["gworkers-route"] == "main"
        assert told["gworkers-reason"] == "failed"
        assert told["gworkers-attempts"] == ("3" if word.startswith("always") else "1")
        assert told["kafka_dlt-exception-fqcn"] == ("builtins.ValueError" if word.startswith("always") else "app.Hopeless")
        assert told["kafka_dlt-exception-message"] == ("never\nagain" if word.startswith("always") else "no")
        assert "Traceback (most recent call last)" in told["kafka_dlt-exception-stacktrace"]
        assert "app.py" in told["kafka_dlt-exception-stacktrace"]
    ends = {m.partition(): m.offset() + 1 for m in came.values()}
    for message in came.values():
        ends[message.partition()] = max(ends[message.partition()], message.offset() + 1)
    found = committed(kafka_servers, config["kafka"]["group"], source)
    assert {number: offset for number, offset in found.items() if number in ends} == ends


def test_without_a_dead_letter_topic_the_process_stops_and_skips_nothing(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(b"the key", b"always 1")], partition=2)
    produce(kafka_servers, source, [(b"k", b"good 1")], partition=2)
    config = configuration(
        kafka_servers, "app:handle", source, output, decode="text", encode="text", retry={"attempts": 2, "backoff": "10ms"}
    )
    server = start(config, app=FAILS)
    assert server.wait() == 70
    wanted = (
        f"the message at {source}, partition 2, offset 0, key 'the key' failed for good: "
        "ValueError: never again, and the route has no dead_letter topic to put it"
    )
    assert wanted in server.log
    assert server.log.count("Traceback") == 1  # of the handler's own code
    assert "gworkers/" not in server.log.partition("Traceback")[2]
    assert committed(kafka_servers, config["kafka"]["group"], source)[2] in (-1001, 0)


def test_a_message_that_waits_for_its_retry_holds_no_worker(kafka_servers: str, source: str, output: str, start: Any) -> None:
    """One worker, one message that always fails and waits a minute: the others go through
    meanwhile."""
    produce(kafka_servers, source, [(None, b"once 0"), *((None, b"good %d" % n) for n in range(50))])
    config = configuration(
        kafka_servers,
        "app:handle",
        source,
        output,
        decode="text",
        encode="text",
        retry={"backoff": "1m", "max_backoff": "1m"},
        concurrency=1,
    )
    server = start(config, app=FAILS)
    until(lambda: len(consume(kafka_servers, output)) == 50, what="the others")
    assert server.stop() == 0, server.log
    assert "not now" in server.log


@pytest.mark.parametrize(
    ("route", "value", "exception", "error", "reason"),
    [
        (
            {"decode": "json"},
            b"{no json",
            "json.decoder.JSONDecodeError",
            "the value is not valid json: Expecting property name",
            "undecodable",
        ),
        ({"encode": "json"}, b"set", "builtins.TypeError", "the handler returned a set, which cannot be encoded", "unencodable"),
        (
            {"encode": "bytes"},
            b"huge",
            "gworkers.errors.RecordTooLargeError",
            "and max_request_size allows 1048576; return less, or raise",
            "too-large",
        ),
        ({"encode": "bytes"}, b"nowhere", "gworkers.errors.SendError", "has 4 partitions, and the handler named 99", "refused"),
        ({"encode": "bytes"}, b"exit", "builtins.SystemExit", "5", "failed"),
        ({"encode": "bytes"}, b"rejected", "gworkers.message.Reject", "not this one", "rejected"),
        ({"encode": "bytes"}, None, "builtins.TypeError", "subscriptable", "no-value"),
    ],
)
def test_what_no_retry_can_help_goes_to_the_dead_letters_at_once(
    kafka_servers: str, source: str, output: str, start: Any, route: dict[str, Any], value: bytes, exception: str, error: str, reason: str
) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    produce(kafka_servers, source, [(None, value)])
    app = """
import sys
from gworkers import Record, Reject
def handle(value):
    value[0]
    if value == b"rejected": raise Reject("not this one")
    if value == b"set": return {1}
    if value == b"huge": return b"x" * 2_000_000
    if value == b"nowhere": return Record(b"x", partition=99)
    if value == b"exit": sys.exit(5)
"""
    config = configuration(kafka_servers, "app:handle", source, output, dead_letter=dead, retry={"attempts": 2, "backoff": "10ms"}, **route)
    server = start(config, "--until-idle", "300ms", app=app)
    assert server.wait() == 0, server.log
    (letter,) = consume(kafka_servers, dead)
    told = headers_of(letter)
    assert (letter.value(), told["kafka_dlt-exception-fqcn"]) == (value, exception)
    assert error in told["kafka_dlt-exception-message"]
    assert told["gworkers-reason"] == reason
    assert told["gworkers-attempts"] == ("2" if value in (b"exit", b"nowhere", None) else "1")
    assert consume(kafka_servers, output) == []


def test_a_result_that_the_broker_refuses_for_good_is_dead_lettered(real_kafka: str, source: str, start: Any) -> None:
    """Small enough for the producer, too large for the topic; its neighbours in the same batch go
    through."""
    output = create_topic(real_kafka, unique("small"), max_message_bytes="10000")
    dead = create_topic(real_kafka, unique("dead"))
    produce(real_kafka, source, [(b"k", b"x" * (100_000 if n == 50 else 10) + b"|%d" % n) for n in range(100)])
    config = configuration(real_kafka, "app:handle", source, output, dead_letter=dead, concurrency=32)
    server = start(config, "--until-idle", "300ms")
    assert server.wait() == 0, server.log
    assert sorted(int(m.value().split(b"|")[1]) for m in consume(real_kafka, output)) == [n for n in range(100) if n != 50]
    (letter,) = consume(real_kafka, dead)
    assert headers_of(letter)["kafka_dlt-exception-message"].startswith("the broker refused the result: MessageSizeTooLargeError: ")


def test_an_output_topic_that_does_not_exist_is_waited_for(strict_kafka: str, start: Any) -> None:
    source, output = create_topic(strict_kafka, unique("in")), unique("missing")
    produce(strict_kafka, source, [(None, b"1")])
    config = configuration(strict_kafka, "app:handle", source, output)
    server = start(config)
    server.says(f"the topic {output} does not exist, and the broker does not make it; results for it wait until somebody does")
    assert max(committed(strict_kafka, config["kafka"]["group"], source).values()) <= 0
    create_topic(strict_kafka, output)
    until(lambda: len(consume(strict_kafka, output)) == 1)
    server.says(f"the topic {output} is there now")
    assert server.stop() == 0
    assert server.log.count("does not exist") == 1


def test_an_input_topic_that_does_not_exist_is_waited_for(strict_kafka: str, start: Any) -> None:
    source, output = unique("missing"), create_topic(strict_kafka, unique("out"))
    server = start(configuration(strict_kafka, "app:handle", source, output))
    server.says(f"the topic {source} does not exist, and the broker does not make it; waiting until somebody does")
    create_topic(strict_kafka, source)
    produce(strict_kafka, source, [(None, b"1")])
    until(lambda: len(consume(strict_kafka, output)) == 1, 60)
    assert server.stop() == 0
    assert server.log.count("does not exist") == 1


def test_retry_and_reject_overrule_the_policy(kafka_servers: str, source: str, output: str, start: Any) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    app = """
from gworkers import Reject, Retry
class Later(Exception):
    retry_after = 0.01
def handle(message):
    if message.value == "reject":
        raise Reject("not ours")
    if message.attempt < 4:
        raise Retry(delay=0.01) if message.value == "retry" else Later()
    return {"value": message.value, "attempt": message.attempt}
"""
    produce(kafka_servers, source, [(None, b'"reject"'), (None, b'"retry"'), (None, b'"later"')])
    config = configuration(
        kafka_servers,
        "app:handle",
        source,
        output,
        decode="json",
        encode="json",
        pass_="message",
        dead_letter=dead,
        retry={"attempts": 4, "backoff": "1m", "max_backoff": "1m"},
    )
    server = start(config, "--until-idle", "300ms", app=app)
    assert server.wait() == 0, server.log
    found = sorted((json.loads(m.value()) for m in consume(kafka_servers, output)), key=lambda v: v["value"])
    assert found == [{"value": "later", "attempt": 4}, {"value": "retry", "attempt": 4}]
    (letter,) = consume(kafka_servers, dead)
    assert headers_of(letter)["kafka_dlt-exception-message"] == "not ours"


def test_too_many_dead_letters_in_a_time_open_the_breaker(kafka_servers: str, source: str, start: Any) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    produce(kafka_servers, source, ((b"%d" % n, b"hopeless %d" % n) for n in range(500)))
    config = configuration(kafka_servers, "app:handle", source, decode="text", dead_letter=dead, retry={"attempts": 1})
    config["dead_letters"] = {"stop_above": "20 in 1m"}
    server = start(config, app=FAILS)
    assert server.wait() == 65, server.log
    assert "more than 20 messages failed for good within 60 s, which dead_letters.stop_above forbids; the last at " in server.log
    assert server.log.count("Traceback") == 1
    letters = [message.value() for message in consume(kafka_servers, dead)]
    assert len(letters) == len(set(letters)) == 20
    config["dead_letters"] = {"stop_above": "1000 in 1m"}
    again = start(config, "--until-idle", "300ms", app=FAILS)
    assert again.wait() == 0, again.log
    assert sorted(m.value() for m in consume(kafka_servers, dead)) == sorted(b"hopeless %d" % n for n in range(500))


def test_a_route_that_has_never_succeeded_ends_the_process(kafka_servers: str, source: str, start: Any, executor: str) -> None:
    """Whatever fails: the handler, the value, what is returned, and with attempts in between."""
    dead = create_topic(kafka_servers, unique("dead"))
    produce(kafka_servers, source, ((b"%d" % n, b"hopeless %d" % n) for n in range(500)))
    options: dict[str, Any] = {"executor": executor, "dead_letter": dead, "when": "key != '7'", "retry": {"attempts": 2, "backoff": "1ms"}}
    server = start(configuration(kafka_servers, "app:handle", source, decode="text", **options), app=FAILS)
    assert server.wait() == 65, server.log
    told = r"the first 100 messages of the route main failed for good, and nothing of it has succeeded .*; the last at .*; look at "
    server.says(told)
    letters = {message.value() for message in consume(kafka_servers, dead)}
    assert len(letters) == 100
    more: dict[str, Any] = {"decode": "json", "dead_letters": {"never_succeeded": 0}}
    again = start(configuration(kafka_servers, "app:handle", source, **{**options, **more}), "--until-idle", "300ms", app=FAILS)
    assert again.wait() == 0, again.log


def test_a_route_that_has_succeeded_once_may_fail_on(kafka_servers: str, source: str, start: Any) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    produce(kafka_servers, source, [(b"k", b"good")])
    produce(kafka_servers, source, ((b"k", b"hopeless %d" % n) for n in range(300)))
    app = "def handle(value):\n    if value != 'good':\n        raise ValueError(value)\n"
    config = configuration(kafka_servers, "app:handle", source, decode="text", order="key", dead_letter=dead, retry={"attempts": 1})
    server = start(config, "--until-idle", "300ms", app=app)
    assert server.wait() == 0, server.log
    assert len(consume(kafka_servers, dead)) == 300


def test_a_failure_for_good_is_logged_with_its_trace_once_and_then_counted(
    kafka_servers: str, source: str, start: Any, executor: str
) -> None:
    app = """
def lookup(value):
    raise KeyError(f"no such product {value}")

def handle(value):
    if value == "x":
        raise ValueError("x")
    return lookup(value)
"""
    dead = create_topic(kafka_servers, unique("dead"))
    more: dict[str, Any] = {"decode": "text", "retry": {"attempts": 1}, "dead_letter": dead, "executor": executor, "order": "partition"}
    produce(kafka_servers, source, ((None, value) for value in (b"a", b"b", b"c", b"x", b"d")), partition=0)
    server = start(configuration(kafka_servers, "app:handle", source, **more), app=app)
    until(lambda: server.log.count("failed for good after 1 attempt and goes to") == 5, what="all of them in the log")
    errors = [line for line in server.log.splitlines() if " ERROR " in line]
    assert [line.rpartition("}: ")[2].rpartition(": ")[2] for line in errors] == ["'no such product a'", "x"], errors
    assert server.log.count("Traceback (most recent call last)") == 2
    assert f'File "{server.folder}/app.py", line 3, in lookup' in server.log
    assert "gworkers/handlers/routes.py" not in server.log
    assert "KeyError: 'no such product d' (4 of this kind)" in server.log
    assert server.stop() == 0
