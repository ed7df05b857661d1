"""Exactly-once: what a reader of committed messages sees."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from confluent_kafka import admin

from tests.support import broker
from tests.support.servers import EMBEDDED, committed, configuration, consume, create_topic, more_than, produce, unique, until

pytestmark = pytest.mark.skipif(EMBEDDED, reason="the embedded broker knows no transactions")


def exactly_once(kafka: str, source: str, output: str | None, **more: Any) -> dict[str, Any]:
    return configuration(kafka, more.pop("handler", "app:handle"), source, output, delivery="exactly-once", instance=unique("one"), **more)


def fill(kafka: str, topic: str, count: int, keys: int = 50) -> list[bytes]:
    made = [b"%d" % n for n in range(count)]
    produce(kafka, topic, ((b"k%d" % (n % keys), value) for n, value in enumerate(made)))
    return made


def assert_once_and_in_order(kafka: str, output: str, wanted: list[bytes]) -> None:
    order: dict[bytes, list[int]] = defaultdict(list)
    found = consume(kafka, output)
    for message in found:
        order[message.key()].append(int(message.value()))
    assert Counter(message.value() for message in found) == Counter(wanted)
    for key, seen in order.items():
        assert seen == sorted(seen), f"{key!r} is out of order"


def test_results_and_offsets_are_committed_together(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    made = fill(kafka_servers, source, 5000)
    config = exactly_once(kafka_servers, source, output, executor=executor, order="key")
    server = start(config, "--until-idle", "500ms")
    assert server.wait() == 0, server.log
    assert_once_and_in_order(kafka_servers, output, made)
    assert sum(committed(kafka_servers, config["kafka"]["group"], source).values()) == 5000
    assert len(consume(kafka_servers, output, isolation="read_uncommitted")) == 5000, "something was aborted"


SEEN = """
import collections
seen = collections.Counter()
def handle(value):
    seen[value] += 1
    if value == b"1234":
        return b"x" * 50_000
    if value == b"1235":
        raise ValueError("no")
    return value if seen[value] == 1 else b"again " + value
"""


def test_a_result_that_the_broker_refuses_takes_no_other_with_it(kafka_servers: str, source: str, start: Any, executor: str) -> None:
    output = create_topic(kafka_servers, unique("small"), max_message_bytes="20000")
    dead = create_topic(kafka_servers, unique("dead"))
    made = fill(kafka_servers, source, 3000)
    config = exactly_once(kafka_servers, source, output, executor=executor, order="key", dead_letter=dead, retry={"attempts": 1})
    server = start(config, "--until-idle", "500ms", app=SEEN)
    assert server.wait() == 0, server.log
    letters = consume(kafka_servers, dead)
    assert sorted(letter.value() for letter in letters) == [b"1234", b"1235"]
    assert dict(letters[0].headers() or [])["gworkers-reason"] in (b"refused", b"failed")
    assert_once_and_in_order(kafka_servers, output, [value for value in made if value not in (b"1234", b"1235")])
    assert "are sent again" in server.log


def test_failures_and_their_ways_are_in_the_transaction(kafka_servers: str, source: str, output: str, start: Any) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    made = fill(kafka_servers, source, 1000)
    app = """
from gworkers import Retry
def handle(message):
    number = int(message.value)
    if number % 50 == 0 or (number % 20 == 1 and message.attempt < 3):
        raise Retry("later", delay=0.01)
    return message.value
"""
    more = {"dead_letter": dead, "retry": {"attempts": 2, "topics": ["1s"]}, "pass": "message"}
    server = start(exactly_once(kafka_servers, source, output, **more), "--until-idle", "2s", app=app)
    assert server.wait() == 0, server.log
    failed = {b"%d" % n for n in range(0, 1000, 50)}
    assert Counter(letter.value() for letter in consume(kafka_servers, dead)) == Counter(failed)
    results = Counter(message.value() for message in consume(kafka_servers, output))
    assert results == Counter(value for value in made if value not in failed)


def test_one_result_of_a_batch_is_there_once(kafka_servers: str, source: str, output: str, start: Any) -> None:
    fill(kafka_servers, source, 2000)
    config = exactly_once(
        kafka_servers, source, output, decode="json", encode="json", batch={"max_messages": 10, "max_wait": "20ms"}, retry={"attempts": 1}
    )
    app = "import time\ndef handle(values):\n    time.sleep(0.01)\n    return {'all': values}\n"
    found: Counter[int] = Counter()
    for _ in range(3):
        server = start(config, app=app)
        until(lambda: consume(kafka_servers, output, timeout=1), what="a result")
        server.signal(signal.SIGKILL)
        server.wait()
    server = start(config, "--until-idle", "1s", app=app)
    assert server.wait() == 0, server.log
    for message in consume(kafka_servers, output):
        found.update(json.loads(message.value())["all"])
    assert found == Counter(range(2000))


def test_one_after_the_other(kafka_servers: str, source: str, output: str, start: Any, tmp_path: Any) -> None:
    between = create_topic(kafka_servers, unique("between"))
    made = fill(kafka_servers, source, 5000)
    first = start(exactly_once(kafka_servers, source, between, order="key"), "--until-idle", "2s", name="first.yaml")
    second = start(exactly_once(kafka_servers, between, output, order="key"), "--until-idle", "5s", name="second.yaml")
    assert first.wait() == 0, first.log
    assert second.wait() == 0, second.log
    assert_once_and_in_order(kafka_servers, output, made)


def test_a_killed_process_leaves_nothing_behind(kafka_servers: str, source: str, output: str, start: Any) -> None:
    made = fill(kafka_servers, source, 20_000)
    config = exactly_once(kafka_servers, source, output, order="key", transaction={"interval": "50ms"})
    config["kafka"]["consumer"] = {"session_timeout_ms": 6000}
    app = "import time\ndef handle(value):\n    time.sleep(0.005)\n    return value\n"
    for _ in range(3):
        before = len(consume(kafka_servers, output, timeout=1))
        server = start(config, app=app)
        more_than(kafka_servers, output, before)
        server.signal(signal.SIGKILL)
        server.wait()
    server = start(config, "--until-idle", "1s", app=app)
    assert server.wait(120) == 0, server.log
    assert_once_and_in_order(kafka_servers, output, made)


def test_an_instance_that_two_processes_share_is_told(kafka_servers: str, source: str, output: str, start: Any) -> None:
    made = fill(kafka_servers, source, 4000)
    config = exactly_once(kafka_servers, source, output, order="key")
    app = "import time\ndef handle(value):\n    time.sleep(0.05)\n    return value\n"
    first = start(config, app=app, name="first.yaml")
    first.says("assigned")
    until(lambda: consume(kafka_servers, output, timeout=1), what="a result")
    second = start(config, "--until-idle", "2s", app=app, name="second.yaml")
    assert first.wait(20) == 69, first.log
    assert "has taken over the transactions of this one" in first.log
    assert "give each process an instance of its own" in first.log
    assert "Traceback" not in first.log
    assert second.wait(120) == 0, second.log
    assert_once_and_in_order(kafka_servers, output, made)


def test_a_timeout_that_the_broker_does_not_allow_is_told(kafka_servers: str, source: str, output: str, start: Any) -> None:
    config = exactly_once(kafka_servers, source, output)
    config["kafka"]["producer"] = {"transaction_timeout_ms": 3_600_000}
    server = start(config)
    assert server.wait() == 69
    assert "kafka.producer.transaction_timeout_ms is 3600000, and the broker allows less" in server.log
    assert "Traceback" not in server.log


def test_what_is_done_outside_of_kafka_has_a_key(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    fill(kafka_servers, source, 100)
    app = """
import gworkers
tries = set()
def handle(message):
    if int(message.value) % 10 == 0 and message.attempt < 3:
        raise ValueError("once more")
    return f"{gworkers.idempotency_key()} {message.idempotency_key} {message.value.decode()}".encode()
"""
    more = {
        "pass": "message",
        "retry": {"attempts": 1, "topics": ["100ms", "200ms"]},
        "dead_letter": create_topic(kafka_servers, unique("dead")),
    }
    server = start(exactly_once(kafka_servers, source, output, executor=executor, **more), "--until-idle", "1s", app=app)
    assert server.wait() == 0, server.log
    found = [message.value().decode().split() for message in consume(kafka_servers, output)]
    assert len(found) == 100
    assert len({key for key, _, _ in found}) == 100
    for key, same, _ in found:
        assert key == same
        assert key.startswith(f"{source}-")


def test_a_broker_that_is_too_old_is_told(kafka_servers: str, source: str, output: str, start: Any) -> None:
    config = exactly_once(kafka_servers, source, output)
    config["kafka"]["client"] = {"api_version": [2, 4]}
    server = start(config)
    assert server.wait() == 69
    assert "is of version 2.4, and delivery: exactly-once needs 2.5 or later; upgrade it, or write delivery: at-least-once" in server.log


@pytest.fixture
def own_strict_kafka(real_kafka: str) -> Iterator[str]:
    """A single broker whose transaction log wants three, and whose anonymous users may make no
    topic and not use every name."""
    kafka = broker.Kafka(
        auto_create=False,
        authorizer_class_name="org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        super_users="User:nobody",
        allow_everyone_if_no_acl_found="true",
    )
    try:
        kafka.start()
        client = admin.AdminClient({"bootstrap.servers": kafka.servers})
        create_topic(kafka.servers, "in")
        create_topic(kafka.servers, "out")
        rules = [
            admin.AclBinding(kind, name, pattern, "User:ANONYMOUS", "*", operation, admin.AclPermissionType.DENY)
            for kind, name, pattern, operation in (
                (admin.ResourceType.TRANSACTIONAL_ID, "group", admin.ResourcePatternType.PREFIXED, admin.AclOperation.ALL),
                (admin.ResourceType.TOPIC, "in.retry", admin.ResourcePatternType.PREFIXED, admin.AclOperation.CREATE),
                (admin.ResourceType.BROKER, "kafka-cluster", admin.ResourcePatternType.LITERAL, admin.AclOperation.CREATE),
            )
        ]
        for future in client.create_acls(rules).values():
            future.result(10)
        yield kafka.servers
    finally:
        kafka.stop()


def test_what_kafka_does_not_allow_is_told_with_the_command_that_allows_it(own_strict_kafka: str, start: Any) -> None:
    config = exactly_once(own_strict_kafka, "in", "out")
    config["kafka"]["group"] = "group"
    server = start(config)
    assert server.wait() == 69, server.log
    assert "has no right to use the transactional id group.one-" in server.log
    assert "kafka-acls.sh --bootstrap-server" in server.log
    server = start(configuration(own_strict_kafka, "app:handle", "in", "out", retry={"topics": ["1m"]}))
    assert server.wait() == 69, server.log
    assert "the topic in.retry.1m is needed and cannot be made" in server.log
    assert "kafka-topics.sh --bootstrap-server" in server.log
    assert "--create --topic in.retry.1m --partitions 4" in server.log
    assert "Traceback" not in server.log


def test_a_transaction_log_that_wants_more_brokers_is_told(real_kafka: str, start: Any) -> None:
    kafka = broker.Kafka(transaction_state_log_replication_factor="3")
    try:
        kafka.start()
        config = exactly_once(kafka.servers, "in", "out")
        config["kafka"]["connect_timeout"] = "4s"
        server = start(config)
        assert server.wait() == 69, server.log
        assert "has no coordinator for transactions for 4 s; do its transaction.state.log.replication.factor" in server.log
    finally:
        kafka.stop()


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_a_broker_that_takes_no_map_with_a_commit_is_told(real_kafka: str, start: Any, delivery: str) -> None:
    """At least once goes on without the map; exactly-once cannot be had then."""
    kafka = broker.Kafka(offset_metadata_max_bytes="4")
    try:
        kafka.start()
        source, output = create_topic(kafka.servers, "in", partitions=1), create_topic(kafka.servers, "out")
        if delivery == "exactly-once":
            config = exactly_once(kafka.servers, source, output)
        else:
            config = configuration(kafka.servers, "app:handle", source, output)
        app = "import pathlib, time\ndef handle(value):\n    while value == b'0' and not pathlib.Path('go-on').exists():\n"
        app += "        time.sleep(0.02)\n    return value\n"
        server = start(config, app=app)
        server.says("assigned: ")
        produce(kafka.servers, source, ((None, b"%d" % n) for n in range(5)))
        told = "the broker takes less metadata with a commit than the map of finished offsets needs"
        server.says(told)
        if delivery == "exactly-once":
            assert server.wait(30) == 69, server.log
            assert "raise the broker's offset.metadata.max.bytes to 4096, or write delivery: at-least-once" in server.log
            assert "Traceback" not in server.log
            return
        (server.folder / "go-on").touch()
        until(lambda: len(consume(kafka.servers, output)) == 5, what="all results")
        assert server.stop() == 0, server.log
        assert server.log.count(told) == 1
    finally:
        kafka.stop()


def test_a_broker_that_is_long_away_is_waited_for(real_kafka: str, start: Any) -> None:
    kafka = broker.Kafka(transaction_abort_timed_out_transaction_cleanup_interval_ms="500")
    try:
        kafka.start()
        source, output = create_topic(kafka.servers, unique("in")), create_topic(kafka.servers, unique("out"))
        made = fill(kafka.servers, source, 6000)
        config = exactly_once(kafka.servers, source, output, order="key", admin={"bind": "127.0.0.1:0"})
        config["kafka"] |= {"connect_timeout": "2s", "producer": {"transaction_timeout_ms": 1000}}
        app = "import time\ndef handle(value):\n    time.sleep(0.02)\n    return value\n"
        server = start(config, "--until-idle", "2s", app=app)
        place = f"http://{server.says(r'admin at ([0-9.:]+)')[1]}/metrics"
        until(lambda: consume(kafka.servers, output, timeout=1), what="results")
        kafka.terminate()  # killed, an only broker may lose the end of a transaction: docs/reliability.md
        server.says("Kafka does not answer", 60)
        time.sleep(5)  # longer than connect_timeout and the transaction's time-out together
        assert server.process.poll() is None, server.log
        kafka.start()
        until(lambda: len(consume(kafka.servers, output)) == 6000, 90, "all results")  # as long as reading takes
        assert "gworkers_transactions_aborted_total" in requests.get(place, timeout=5).text
        assert server.wait(60) == 0, server.log
        assert_once_and_in_order(kafka.servers, output, made)
        assert "Traceback" not in server.log
    finally:
        kafka.stop()
