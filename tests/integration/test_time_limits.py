"""Handlers that take too long: interrupted, given up when that does not help, and replaced."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.servers import configuration, consume, create_topic, produce, unique

APP = """
import time, gevent, gworkers
cleaned = []
def handle(value):
    kind = value.split()[0]
    if kind == "spins":
        while True: pass
    if kind == "waits":
        while True: time.sleep(0.01)
    if kind == "cleans":
        try:
            while True: time.sleep(0.01)
        except gworkers.HandlerTimeout:
            return f"{value} cleaned up"
    if kind == "swallows":
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                pass
    if kind == "stuck":
        time.sleep(STUCK)
        return "a late result"
    if kind == "left":
        return f"{value} {0 < gworkers.time_left() <= 0.5}"
    return value
"""


def run(kafka: str, source: str, output: str, start: Any, executor: str, words: list[str], stuck: float = 8, **more: Any) -> Any:
    dead = create_topic(kafka, unique("dead"))
    produce(kafka, source, ((None, word.encode()) for word in words))
    options: dict[str, Any] = {"timeout": "500ms", "dead_letter": dead, "retry": {"attempts": 1}, "concurrency": 4, "executor": executor}
    config = configuration(kafka, "app:handle", source, output, decode="text", encode="text", **{**options, **more})
    server = start(config, "--until-idle", "1s", app=APP.replace("STUCK", str(stuck)))
    return server, lambda: consume(kafka, output), lambda: consume(kafka, dead)


def test_a_handler_over_its_limit_is_interrupted_and_its_message_fails_alone(
    kafka_servers: str, source: str, output: str, start: Any, executor: str
) -> None:
    words = [f"{kind} {n}" for n in range(10) for kind in ("good", "waits", "cleans", "left")] + ["spins 0"]
    server, results, letters = run(kafka_servers, source, output, start, executor, words)
    assert server.wait() == 0, server.log
    wanted = {w if w.startswith("good") else f"{w} True" if w.startswith("left") else f"{w} cleaned up" for w in words}
    assert {m.value().decode() for m in results()} == {w for w in wanted if not w.startswith(("waits", "spins"))}
    dead = letters()
    assert {m.value().decode() for m in dead} == {w for w in words if w.startswith(("waits", "spins"))}
    assert {dict(m.headers())["gworkers-reason"] for m in dead} == {b"timed-out"}
    assert {dict(m.headers())["kafka_dlt-exception-message"] for m in dead} == {b"the handler took longer than its timeout of 500ms"}
    assert server.log.count("and is interrupted") <= 21
    if executor == "greenlet":
        server.says(r"nothing else ran for [\d.]+ s, not even heartbeats; the hub was held by the handler of route main, at")


@pytest.mark.parametrize("kind", ["stuck", "swallows"])
def test_a_handler_that_does_not_end_is_given_up_and_replaced_and_its_late_result_changes_nothing(
    kafka_servers: str, source: str, output: str, start: Any, executor: str, kind: str
) -> None:
    """As many stuck handlers as there may be at once; the others go through all the same, in their
    places."""
    if executor == "greenlet" and kind == "stuck":
        pytest.skip("a waiting greenlet can always be interrupted")
    words = [f"{kind} {n}" for n in range(4)] + [f"good {n}" for n in range(200)]
    server, results, letters = run(kafka_servers, source, output, start, executor, words)
    assert server.wait() == 0, server.log
    assert {m.value().decode() for m in results()} == {f"good {n}" for n in range(200)}
    dead = letters()
    assert sorted(m.value().decode() for m in dead) == [f"{kind} {n}" for n in range(4)]
    assert all(b"and did not end when it was told to" in dict(m.headers())["kafka_dlt-exception-message"] for m in dead)
    assert server.log.count("was told to end and has not; its thread is given up and replaced. It is at") == 4
    assert "app.py" in server.log


def test_too_many_stuck_handlers_have_the_process_replaced(kafka_servers: str, source: str, output: str, start: Any) -> None:
    words = [f"stuck {n}" for n in range(3)] + [f"good {n}" for n in range(20)]
    server, results, letters = run(kafka_servers, source, output, start, "thread", words, stuck=60, max_stuck_handlers=2)
    assert server.wait() == 75, server.log
    assert "3 handlers are stuck, more than max_stuck_handlers (2) allows" in server.log
    assert {m.value().decode() for m in results()} == {f"good {n}" for n in range(20)}
    assert {m.value().decode() for m in letters()} == {f"stuck {n}" for n in range(3)}


def test_the_next_messages_of_a_key_wait_for_one_that_is_given_up(kafka_servers: str, source: str, output: str, start: Any) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    produce(kafka_servers, source, [(b"k", b"stuck 0"), *((b"k", b"good %d" % n) for n in range(20))])
    config = configuration(
        kafka_servers,
        "app:handle",
        source,
        output,
        decode="text",
        encode="text",
        order="key",
        timeout="300ms",
        dead_letter=dead,
        retry={"attempts": 2, "backoff": "10ms"},
    )
    server = start(config, "--until-idle", "1s", app=APP.replace("STUCK", "7"))
    assert server.wait() == 0, server.log
    assert [m.value() for m in consume(kafka_servers, output)] == [b"good %d" % n for n in range(20)]
    assert [m.value() for m in consume(kafka_servers, dead)] == [b"stuck 0"]
