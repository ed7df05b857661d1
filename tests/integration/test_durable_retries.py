"""Retries through topics: they survive the process, and hold up nothing."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.support.servers import configuration, consume, create_topic, produce, unique, until

APP = """
import time
from gworkers import Reject
def handle(message):
    n = int(message.value)
    if n % 10 == 0 or (n % 10 == 1 and message.attempt < 3) or (n % 10 == 2 and message.attempt < 4):
        raise ValueError(f"attempt {message.attempt}")
    if n % 10 == 3:
        raise Reject("never")
    return {"n": n, "attempt": message.attempt, "at": time.time(), "from": f"{message.topic} {message.partition} {message.offset}",
            "timestamp": message.timestamp, "headers": [name for name, _ in message.headers]}
"""


def config_of(kafka: str, source: str, output: str, dead: str, **more: Any) -> dict[str, Any]:
    retry = {"attempts": 2, "backoff": "20ms", "topics": ["1s", "2s"]}
    return configuration(
        kafka, "app:handle", source, output, decode="text", encode="json", pass_="message", retry=retry, dead_letter=dead, **more
    )


def test_a_failed_message_goes_from_topic_to_topic_and_comes_back_as_it_was(real_kafka: str, source: str, output: str, start: Any) -> None:
    dead = create_topic(real_kafka, unique("dead"))
    produce(real_kafka, source, ((b"k%d" % n, b"%d" % n) for n in range(100)), headers=[("own", b"1")])
    sent = time.time()
    server = start(config_of(real_kafka, source, output, dead), "--until-idle", "1s", app=APP)
    assert server.wait() == 0, server.log
    came = {int(m.value()): m for m in consume(real_kafka, source)}
    found = {f["n"]: (f, m) for m in consume(real_kafka, output) for f in [json.loads(m.value())]}
    assert sorted(found) == [n for n in range(100) if n % 10 not in (0, 3)]
    for n, (result, message) in found.items():
        original = came[n]
        assert result["attempt"] == {1: 3, 2: 4}.get(n % 10, 1)
        assert result["at"] - sent > {3: 0.9, 4: 2.9}.get(result["attempt"], 0)
        assert result["from"] == f"{source} {original.partition()} {original.offset()}"
        assert result["timestamp"] == original.timestamp()[1] == message.timestamp()[1]
        assert result["headers"] == ["own"]
        assert message.key() == original.key()
    letters = {int(m.value()): dict(m.headers()) for m in consume(real_kafka, dead)}
    assert sorted(letters) == [n for n in range(100) if n % 10 in (0, 3)]
    for n, told in letters.items():
        assert told["gworkers-attempts"] == (b"1" if n % 10 == 3 else b"4")
        assert told["kafka_dlt-original-topic"] == source.encode()
        assert int.from_bytes(told["kafka_dlt-original-offset"], "big") == came[n].offset()
        assert not [name for name in told if name.startswith("gworkers-retry-")]
        assert ("gworkers-first-failure" in told) == (n % 10 == 0)


def test_waiting_messages_survive_the_process(real_kafka: str, source: str, output: str, start: Any) -> None:
    dead = create_topic(real_kafka, unique("dead"))
    produce(real_kafka, source, [(None, b"1"), (None, b"2"), (None, b"4")])
    config = config_of(real_kafka, source, output, dead)
    first = start(config, app=APP)
    first.says(rf"attempt 2 failed, the next is from {source}.retry.1s")
    until(lambda: len(consume(real_kafka, f"{source}.retry.1s")) == 2, what="both in the retry topic")
    until(lambda: consume(real_kafka, output), what="the good one")
    first.process.kill()
    first.process.wait()
    second = start(config, "--until-idle", "2s", app=APP)
    assert second.wait() == 0, second.log
    assert {f["n"]: f["attempt"] for m in consume(real_kafka, output) for f in [json.loads(m.value())]} == {1: 3, 2: 4, 4: 1}


def test_groups_that_share_a_retry_topic_take_each_its_own(real_kafka: str, source: str, start: Any) -> None:
    outputs, servers = [], []
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(20)))
    for number in range(2):
        dead, output = create_topic(real_kafka, unique("dead")), create_topic(real_kafka, unique("out"))
        outputs.append(output)
        servers.append(start(config_of(real_kafka, source, output, dead), "--until-idle", "2s", app=APP, name=f"app{number}.yaml"))
    for server in servers:
        assert server.wait() == 0, server.log
    for output in outputs:
        numbers = [json.loads(m.value())["n"] for m in consume(real_kafka, output)]
        assert sorted(numbers) == [n for n in range(20) if n % 10 not in (0, 3)]
