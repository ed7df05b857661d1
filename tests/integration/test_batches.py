"""Handlers that get lists."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.support.servers import configuration, consume, create_topic, produce, unique

APP = """
import ctypes, random, threading, time
from collections import Counter
from gworkers import BatchError
running, lock, seen = set(), threading.Lock(), Counter()

def echo(messages):
    return [f"{m.value} {len(messages)}" for m in messages]

def keyed(messages):
    keys = {m.key for m in messages}
    with lock:
        clash = bool(keys & running)
        running.update(keys)
        seen.update(m.value for m in messages)
    time.sleep(random.random() * 0.01)
    with lock:
        running.difference_update(keys)
    errors = {i: ValueError("no") for i, m in enumerate(messages) if m.value % 17 == 0 and (seen[m.value] < 3 or m.value % 34 == 0)}
    results = [{"n": m.value, "clash": clash, "keys": len(keys), "seen": seen[m.value]} for m in messages]
    if errors:
        raise BatchError(errors, results)
    return results

def total(values):
    return {"sum": sum(values), "count": len(values)}

def one_is_bad(values):
    if any(value % 100 == 7 for value in values):
        raise ValueError("one of them is bad")
    return [str(value) for value in values]

def stuck(values):
    while 13 in values:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            pass
    return [str(value) for value in values]

def kills(values):
    if 1700 in values:
        ctypes.string_at(0)
    return [str(value) for value in values]

def short(values):
    return ["x"]
"""


def batch_configuration(kafka: str, handler: str, source: str, output: str, batch: dict[str, Any], **more: Any) -> dict[str, Any]:
    return configuration(kafka, f"app:{handler}", source, output, decode="json", encode=more.pop("encode", "json"), batch=batch, **more)


def numbers(kafka: str, source: str, count: int, keys: int = 20) -> None:
    produce(kafka, source, ((b"k%d" % (n % keys), b"%d" % n) for n in range(count)))


def run(start: Any, config: dict[str, Any], status: int = 0) -> Any:
    server = start(config, "--until-idle", "1s", app=APP)
    assert server.wait(120) == status, server.log
    return server


def test_batches_fill_and_what_is_left_goes_after_a_while(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    numbers(kafka_servers, source, 1003)
    batch = {"max_messages": 50, "max_wait": "300ms"}
    run(start, batch_configuration(kafka_servers, "echo", source, output, batch, executor=executor, encode="text", **{"pass": "message"}))
    found = [message.value().decode().split() for message in consume(kafka_servers, output)]
    assert sorted(int(value) for value, _ in found) == list(range(1003))
    sizes = Counter(int(size) for _, size in found)
    assert max(sizes) == 50
    assert sizes[50] >= 600, sizes


def check_keyed(kafka: str, output: str, dead: str, keys: int) -> list[dict[str, Any]]:
    order: dict[bytes, list[int]] = defaultdict(list)
    found = []
    for message in consume(kafka, output):
        result = json.loads(message.value())
        found.append(result)
        order[message.key()].append(result["n"])
    letters = sorted(int(letter.value()) for letter in consume(kafka, dead))
    assert letters == [n for n in range(2000) if n % 34 == 0]
    assert sorted(result["n"] for result in found) == [n for n in range(2000) if n % 34]
    assert not any(result["clash"] for result in found), "a key was twice in flight"
    assert len(order) == keys
    for key, seen in order.items():
        assert seen == sorted(seen), f"{key!r} is out of order"
    return found


def test_batches_of_a_key_keep_its_order(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    numbers(kafka_servers, source, 2000)
    batch = {"max_messages": 10, "max_wait": "50ms", "by": "key"}
    more = {"order": "key", "dead_letter": dead, "retry": {"attempts": 3, "backoff": "10ms"}, "pass": "message", "executor": executor}
    run(start, batch_configuration(kafka_servers, "keyed", source, output, batch, **more))
    found = check_keyed(kafka_servers, output, dead, 20)
    assert {result["keys"] for result in found} == {1}
    assert {result["seen"] for result in found if result["n"] % 17} == {1}, "what had not failed was handled again"


def test_batches_of_a_partition_have_no_key_twice(kafka_servers: str, source: str, output: str, start: Any) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    numbers(kafka_servers, source, 2000, 100)
    more = {"order": "key", "dead_letter": dead, "retry": {"attempts": 3, "backoff": "10ms"}, "pass": "message"}
    run(start, batch_configuration(kafka_servers, "keyed", source, output, {"max_messages": 10, "max_wait": "20ms"}, **more))
    assert max(result["keys"] for result in check_keyed(kafka_servers, output, dead, 100)) > 5


def test_batches_in_the_order_of_the_partition(kafka_servers: str, source: str, output: str, start: Any) -> None:
    numbers(kafka_servers, source, 1000)
    batch = {"max_messages": 20, "max_wait": "50ms"}
    more = {"order": "partition", "encode": "text", "pass": "message"}
    run(start, batch_configuration(kafka_servers, "echo", source, output, batch, **more))
    order: dict[bytes, list[int]] = defaultdict(list)
    for message in consume(kafka_servers, output):
        order[message.key()].append(int(message.value().split()[0]))
    assert sum(map(len, order.values())) == 1000
    assert all(seen == sorted(seen) for seen in order.values())


def test_results_without_a_key_stay_in_the_order_that_is_asked_for(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(None, b"%d" % number) for number in range(300)], partition=1)
    produce(kafka_servers, source, [(None, b"%d" % number) for number in range(300)], partition=2)
    batch = {"max_messages": 20, "max_wait": "50ms"}
    options = {"decode": "json", "encode": "text", "pass_": "message", "order": "partition", "batch": batch}
    start(configuration(kafka_servers, "app:echo", source, output, **options), app=APP)
    found: dict[int, list[int]] = defaultdict(list)
    for message in consume(kafka_servers, output, 600):
        found[message.partition()].append(int(message.value().split()[0]))
    assert found == {1: list(range(300)), 2: list(range(300))}


def test_one_result_for_all(kafka_servers: str, source: str, output: str, start: Any) -> None:
    numbers(kafka_servers, source, 1000)
    run(start, batch_configuration(kafka_servers, "total", source, output, {"max_messages": 100, "max_wait": "100ms"}))
    results = [json.loads(message.value()) for message in consume(kafka_servers, output)]
    assert sum(result["sum"] for result in results) == sum(range(1000))
    assert sum(result["count"] for result in results) == 1000
    assert len(results) < 100


def test_a_batch_that_fails_costs_only_the_guilty(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    for by, order, retry in (("partition", "none", {}), ("key", "key", {}), ("partition", "none", {"never": ["builtins:ValueError"]})):
        source, output = create_topic(kafka_servers, unique("in")), create_topic(kafka_servers, unique("out"))
        dead = create_topic(kafka_servers, unique("dead"))
        numbers(kafka_servers, source, 500)
        batch = {"max_messages": 20, "max_wait": "50ms", "by": by}
        more = {"order": order, "dead_letter": dead, "retry": {"attempts": 2, "backoff": "10ms", **retry}, "encode": "text"}
        run(start, batch_configuration(kafka_servers, "one_is_bad", source, output, batch, executor=executor, **more))
        assert sorted(int(letter.value()) for letter in consume(kafka_servers, dead)) == [7, 107, 207, 307, 407]
        assert sorted(int(message.value()) for message in consume(kafka_servers, output)) == [n for n in range(500) if n % 100 != 7]


def test_a_list_of_the_wrong_length_is_told(kafka_servers: str, source: str, output: str, start: Any) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    numbers(kafka_servers, source, 40)
    run(start, batch_configuration(kafka_servers, "short", source, output, {"max_messages": 10, "max_wait": "500ms"}, dead_letter=dead))
    letters = consume(kafka_servers, dead)
    told = dict(letters[0].headers() or [])
    assert told["gworkers-reason"] == b"unencodable"
    assert b"returned a list of 1 for a batch of" in told["kafka_dlt-exception-message"]
    assert len(letters) + len(consume(kafka_servers, output)) == 40


def test_a_stuck_batch_costs_only_the_guilty(kafka_servers: str, source: str, output: str, start: Any) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    numbers(kafka_servers, source, 60)
    batch = {"max_messages": 10, "max_wait": "50ms"}
    more = {"dead_letter": dead, "timeout": "300ms", "retry": {"attempts": 2, "backoff": "10ms"}, "encode": "text"}
    began = time.time()
    server = start(batch_configuration(kafka_servers, "stuck", source, output, batch, **more), "--until-idle", "1s", app=APP)
    server.wait(60)
    assert "everything settled" in server.log, server.log
    assert time.time() - began < 40
    assert [int(letter.value()) for letter in consume(kafka_servers, dead)] == [13]
    assert sorted(int(message.value()) for message in consume(kafka_servers, output)) == [n for n in range(60) if n != 13]


def test_a_batch_that_kills_the_process_costs_only_the_guilty(
    kafka_servers: str, source: str, output: str, start: Any, tmp_path: Path
) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    numbers(kafka_servers, source, 3000)
    more = {"dead_letter": dead, "state_dir": str(tmp_path / "state"), "order": "key", "encode": "text"}
    config = batch_configuration(kafka_servers, "kills", source, output, {"max_messages": 20, "max_wait": "20ms", "by": "key"}, **more)
    config["kafka"]["consumer"] = {"session_timeout_ms": 6000}
    died = 0
    while True:
        server = start(config, "--until-idle", "1s", app=APP)
        server.wait(90)
        if "everything settled" in server.log:
            break
        died += 1
        assert died <= 4, server.log
    assert died == 3
    assert [int(letter.value()) for letter in consume(kafka_servers, dead)] == [1700]
    assert {int(message.value()) for message in consume(kafka_servers, output)} == {n for n in range(3000) if n != 1700}
