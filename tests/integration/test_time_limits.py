"""Handlers that take too long: interrupted, given up when that does not help, and replaced."""

from __future__ import annotations

import re
import signal
import time
from typing import Any

import pytest

from tests.support.servers import configuration, consume, create_topic, produce, unique, until

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
        server.says(
            r"the hub was held 1 time for more than 0\.1 s, once for 0\.\d+ s by the handler of route main, at \S+app\.py:7 in handle"
        )


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


POOL = """
import multiprocessing
def double(n):
    return 2 * n
def handle(value):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return str(pool.apply(double, (int(value),)))
"""


def test_a_hub_that_will_never_go_on_ends_the_process_and_is_named(real_kafka: str, source: str, output: str, start: Any) -> None:
    """multiprocessing waits for its pipes in C: in a greenlet nothing else runs."""
    produce(real_kafka, source, [(None, b"1")])
    consumer = {"session_timeout_ms": 8000, "heartbeat_interval_ms": 2000}
    config = configuration(real_kafka, "app:handle", source, output, encode="text", executor="greenlet", timeout="1s")
    config["kafka"]["consumer"] = consumer
    server = start(config, app=POOL)
    server.says(r"nothing else has run for \d+ s, not even heartbeats: the hub is held by \S+multiprocessing/\S+:\d+ in ")
    assert server.wait(30) == 70, server.log
    assert "the process ends. Where its threads are:" in server.log
    assert re.search(r'^  File ".*multiprocessing', server.log, re.MULTILINE)


def test_a_process_that_was_stopped_for_long_is_not_taken_for_one_whose_hub_is_held(
    real_kafka: str, source: str, output: str, start: Any
) -> None:
    config = configuration(real_kafka, "app:handle", source, output, decode="text", encode="text")
    config["kafka"]["consumer"] = {"session_timeout_ms": 3000, "heartbeat_interval_ms": 1000}
    server = start(config, app="def handle(value):\n    return value\n")
    server.says("assigned: ")
    server.signal(signal.SIGSTOP)
    time.sleep(5)  # longer than the limit; nothing can be seen of a stopped process
    server.signal(signal.SIGCONT)
    produce(real_kafka, source, [(None, b"good")])
    until(lambda: consume(real_kafka, output), what="the result")
    assert "the hub is held" not in server.log
    assert server.stop() == 0


COMPUTES = """
import time
def handle(value):
    ends = time.process_time() + 0.3
    while time.process_time() < ends:
        pass
    return value
"""


def test_what_holds_the_hub_for_a_moment_is_told_with_its_line(real_kafka: str, source: str, output: str, start: Any) -> None:
    produce(real_kafka, source, [(None, b"1")])
    config = configuration(real_kafka, "app:handle", source, output, executor="greenlet")
    server = start(config, app=COMPUTES)
    server.says(r"held \d+ times? for more than 0\.1 s, once for 0\.\d\d s by the handler of route main, at \S+app\.py:[56] in handle")
    assert server.stop() == 0


LOCKS = """
import concurrent.futures, contextlib, logging, queue, random, threading, time
log = logging.getLogger("shop")
connections = queue.Queue()
for number in range(20):
    connections.put(number)
room = threading.BoundedSemaphore(20)
guard = threading.Condition()
others = concurrent.futures.ThreadPoolExecutor(8)
@contextlib.contextmanager
def connection():
    found = connections.get()
    try:
        yield found
    finally:
        connections.put(found)
def work():
    for number in range(random.randrange(1, 40)):
        time.sleep(0.001)
        sum(range(200))
def handle(value):
    kind = value.split()[0]
    if kind == "logs":
        for number in range(30): log.info("line %d", number)
    if kind == "pools":
        with connection(): work()
    if kind == "room":
        with room: work()
    if kind == "guard":
        with guard:
            guard.notify()
            work()
    if kind == "others":
        others.submit(work).result()
    if kind == "locks":
        free = room.acquire(blocking=False) and guard.acquire(blocking=False)
        return f"{connections.qsize()} {free}"
    return value
"""


@pytest.mark.parametrize("kind", ["logs", "pools", "room", "guard", "others"])
def test_an_interrupt_leaves_no_lock_taken(kafka_servers: str, source: str, output: str, start: Any, kind: str) -> None:
    """Of logging, of pools and of others; and the hub waits for none."""
    dead = create_topic(kafka_servers, unique("dead"))
    count = 1500
    produce(kafka_servers, source, ((None, f"{kind} {n}".encode()) for n in range(count)))
    config = configuration(
        kafka_servers,
        "app:handle",
        source,
        output,
        decode="text",
        encode="text",
        concurrency=64,
        timeout="20ms",
        dead_letter=dead,
        retry={"attempts": 1},
    )
    server = start(config, app=LOCKS)
    until(lambda: len(consume(kafka_servers, output)) + len(consume(kafka_servers, dead)) == count, 90, "all of them")
    assert consume(kafka_servers, dead) or kind in ("logs", "others"), "nothing was interrupted: the test says nothing"
    produce(kafka_servers, source, [(None, b"locks")])
    until(lambda: len(consume(kafka_servers, output)) + len(consume(kafka_servers, dead)) == count + 1, what="the last one")
    assert b"20 True" in {m.value() for m in consume(kafka_servers, output)}
    assert server.stop() == 0, server.log[-3000:]


def test_a_handler_that_waits_for_a_lock_for_good_is_given_up(kafka_servers: str, source: str, output: str, start: Any) -> None:
    app = "import queue\nnothing = queue.Queue()\ndef handle(value):\n    return nothing.get() if value.startswith('waits') else value\n"
    dead = create_topic(kafka_servers, unique("dead"))
    produce(kafka_servers, source, ((None, word.encode()) for word in ("waits", *(f"good {n}" for n in range(50)))))
    options = {"decode": "text", "encode": "text", "concurrency": 4, "timeout": "200ms", "dead_letter": dead, "retry": {"attempts": 1}}
    server = start(configuration(kafka_servers, "app:handle", source, output, **options), app=app)
    until(lambda: len(consume(kafka_servers, output)) == 50 and len(consume(kafka_servers, dead)) == 1, 30, "all of it")
    assert "was told to end and has not; its thread is given up and replaced" in server.log
    assert server.stop() == 0, server.log
