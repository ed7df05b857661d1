"""Rates, limits, delays, ages and filters of routes."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.support.servers import configuration, consume, create_topic, produce, unique, until

CLOCK = """
import threading, time
running, most, lock = 0, 0, threading.Lock()
def handle(value):
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    time.sleep(0.02)
    with lock:
        running -= 1
    return f"{value} {time.time()} {most}"
"""


def outcome(kafka: str, output: str) -> list[tuple[str, float, int]]:
    parts = [message.value().decode().split() for message in consume(kafka, output)]
    return sorted((((name, float(at), int(most))) for name, at, most in parts), key=lambda found: found[1])


def two_routes(kafka: str, source: str, output: str, **more: Any) -> tuple[dict[str, Any], str, str]:
    """The route of a test, and a second one, ``free``, which nothing of it may hold up."""
    free_in, free_out = create_topic(kafka, unique("free")), create_topic(kafka, unique("freed"))
    config = configuration(kafka, "app:handle", source, output, decode="text", encode="text", **more)
    free = {"topics": [free_in], "handler": "free:handle", "output": free_out, "decode": "text", "encode": "text"}
    config["routes"]["free"] = free
    return config, free_in, free_out


def test_a_rate_is_kept_and_holds_up_no_other_route(kafka_servers: str, source: str, output: str, start: Any, tmp_path: Any) -> None:
    (tmp_path / "free.py").write_text(CLOCK)
    config, free_in, free_out = two_routes(kafka_servers, source, output, rate="50/s burst 5", concurrency=4)
    produce(kafka_servers, source, ((None, b"m%d" % n) for n in range(100)))
    produce(kafka_servers, free_in, ((None, b"f%d" % n) for n in range(100)))
    server = start(config, "--until-idle", "500ms", app=CLOCK)
    assert server.wait() == 0, server.log
    times = [at for _, at, _ in outcome(kafka_servers, output)]
    free = [at for _, at, _ in outcome(kafka_servers, free_out)]
    assert len(times) == len(free) == 100
    for begin in range(100):
        within = sum(times[begin] <= at < times[begin] + 1 for at in times)
        assert within <= 50 + 5 + 4, f"{within} in one second"
    assert times[-1] - times[0] > 95 / 50 - 0.1
    assert free[-1] < times[-1], "the free route waited for the other one's rate"


def test_a_named_limit_is_shared_by_its_routes(kafka_servers: str, source: str, output: str, start: Any) -> None:
    config = configuration(kafka_servers, "app:handle", source, output, decode="text", encode="text", uses=["database"], concurrency=16)
    second = create_topic(kafka_servers, unique("second"))
    config["routes"]["second"] = {**config["routes"]["main"], "topics": [second]}
    config["limits"] = {"database": 3}
    for topic in (source, second):
        produce(kafka_servers, topic, ((None, b"m%d" % n) for n in range(60)))
    server = start(config, "--until-idle", "500ms", app=CLOCK)
    assert server.wait() == 0, server.log
    found = outcome(kafka_servers, output)
    assert len(found) == 120
    assert max(most for _, _, most in found) == 3


def test_a_delayed_message_waits_without_a_worker(kafka_servers: str, source: str, output: str, start: Any, tmp_path: Any) -> None:
    (tmp_path / "free.py").write_text(CLOCK)
    config, free_in, free_out = two_routes(kafka_servers, source, output, delay="3s", concurrency=1)
    server = start(config, app=CLOCK)
    server.says("assigned: ")
    sent = time.time()
    produce(kafka_servers, source, ((None, b"m%d" % n) for n in range(20)))
    produce(kafka_servers, free_in, ((None, b"f%d" % n) for n in range(20)))
    until(lambda: len(outcome(kafka_servers, output)) == 20, what="the delayed ones")
    times = [at for _, at, _ in outcome(kafka_servers, output)]
    assert server.stop() == 0, server.log
    assert min(times) >= sent + 3
    assert max(at for _, at, _ in outcome(kafka_servers, free_out)) < min(times)


def test_old_messages_are_dropped_dead_lettered_or_handled(kafka_servers: str, start: Any) -> None:
    now = int(time.time() * 1000)
    routes: dict[str, dict[str, Any]] = {}
    outputs = {}
    dead = create_topic(kafka_servers, unique("dead"))
    for then in ("drop", "dead-letter", "handle"):
        source, output = create_topic(kafka_servers, unique("in")), create_topic(kafka_servers, unique("out"))
        produce(kafka_servers, source, [(None, b"old")], timestamp=now - 7_200_000)
        produce(kafka_servers, source, [(None, b"new")], timestamp=now)
        routes[then] = {"topics": [source], "handler": "app:handle", "output": output, "dead_letter": dead}
        routes[then]["max_age"] = {"after": "1h", "then": then}
        outputs[then] = output
    config = configuration(kafka_servers, "app:handle", "unused")
    config["routes"] = routes
    server = start(config, "--until-idle", "500ms")
    assert server.wait() == 0, server.log
    found = {then: sorted(m.value() for m in consume(kafka_servers, output)) for then, output in outputs.items()}
    assert found == {"drop": [b"new"], "dead-letter": [b"new"], "handle": [b"new", b"old"]}
    (letter,) = consume(kafka_servers, dead)
    assert dict(letter.headers())["gworkers-reason"] == b"expired"
    assert letter.value() == b"old"


def test_a_filter_on_headers_is_checked_before_decoding(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, ((None, b"no json %d" % n) for n in range(20)), headers=[("kind", b"noise")])
    produce(kafka_servers, source, ((b"k", json.dumps({"n": n}).encode()) for n in range(20)), headers=[("kind", b"order")])
    config = configuration(kafka_servers, "app:handle", source, output, decode="json", encode="json", when="headers.kind == 'order'")
    server = start(config, "--until-idle", "500ms")
    assert server.wait() == 0, server.log
    assert [json.loads(m.value())["n"] for m in consume(kafka_servers, output)] == list(range(20))


def test_a_filter_on_a_field_of_the_value(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, ((b"k", json.dumps({"n": n}).encode()) for n in range(20)))
    config = configuration(kafka_servers, "app:handle", source, output, decode="json", encode="json", when="value.n >= 15")
    server = start(config, "--until-idle", "500ms")
    assert server.wait() == 0, server.log
    assert [json.loads(m.value())["n"] for m in consume(kafka_servers, output)] == list(range(15, 20))
