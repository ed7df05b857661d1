"""The way of a message, on a real broker."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.servers import committed, configuration, consume, create_topic, metric, produce, unique, until, values


def numbers(count: int, keys: int = 50) -> Any:
    return ((f"k{n % keys}".encode(), str(n).encode()) for n in range(count))


def test_every_message_comes_out_once_with_its_key(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    produce(kafka_servers, source, numbers(5000))
    config = configuration(kafka_servers, "app:handle", source, output, executor=executor)
    server = start(config, "--until-idle", "300ms")
    assert server.wait() == 0, server.log
    found = consume(kafka_servers, output)
    assert sorted(int(m.value()) for m in found) == list(range(5000))
    assert all(m.key() == f"k{int(m.value()) % 50}".encode() for m in found)
    ends = {m.partition(): m.offset() + 1 for m in consume(kafka_servers, source)}
    assert committed(kafka_servers, config["kafka"]["group"], source) == ends
    assert f"stopped: {5000:,} done, everything settled" in server.log


def test_more_handlers_run_at_once_than_there_are_partitions(kafka_servers: str, start: Any, output: str) -> None:
    source = create_topic(kafka_servers, unique("in"), partitions=1)
    produce(kafka_servers, source, numbers(32))
    app = """
import threading
barrier = threading.Barrier(32)
def handle(value):
    barrier.wait(20)
    return value
"""
    server = start(configuration(kafka_servers, "app:handle", source, output, concurrency=32), "--until-idle", "300ms", app=app)
    assert server.wait() == 0, server.log
    assert len(consume(kafka_servers, output)) == 32


def test_headers_keys_timestamps_and_partitions_are_carried_over(kafka_servers: str, source: str, output: str, start: Any) -> None:
    headers = [("trace", b"\x00\xff"), ("trace", b"2"), ("none", None)]
    produce(kafka_servers, source, numbers(200), headers=headers, timestamp=1_600_000_000_000)
    produce(kafka_servers, source, [(None, b"200")], headers=headers, timestamp=1_600_000_000_000)
    server = start(configuration(kafka_servers, "app:handle", source, output), "--until-idle", "300ms")
    assert server.wait() == 0, server.log
    came = {m.value(): m for m in consume(kafka_servers, source)}
    found = consume(kafka_servers, output)
    assert len(found) == 201
    for message in found:
        original = came[message.value()]
        assert (message.key(), message.headers(), message.timestamp()[1]) == (original.key(), headers, 1_600_000_000_000)
        if message.key() is not None:
            assert message.partition() == original.partition(), "the key's partition is not the one of Kafka's own clients"


def test_messages_records_lists_and_none(kafka_servers: str, source: str, output: str, start: Any) -> None:
    other = create_topic(kafka_servers, unique("other"))
    produce(kafka_servers, source, numbers(40))
    app = f"""
from gworkers import Record
def handle(message):
    n = message.value
    where = [message.topic, message.partition, message.offset, message.attempt]
    if n % 4 == 0:
        return None
    if n % 4 == 1:
        return {{"n": n, "where": where}}
    if n % 4 == 2:
        return Record({{"n": n}}, key="own", headers=[("h", b"x")])
    return [Record({{"n": n, "copy": c}}, topic="{other}", partition=c) for c in (0, 1)]
"""
    config = configuration(kafka_servers, "app:handle", source, output, pass_="message", decode="json", encode="json")
    server = start(config, "--until-idle", "300ms", app=app)
    assert server.wait() == 0, server.log
    out = consume(kafka_servers, output)
    came = {int(m.value()): [source, m.partition(), m.offset(), 1] for m in consume(kafka_servers, source)}
    plain = [json.loads(m.value()) for m in out if m.headers() is None]
    assert sorted(v["n"] for v in plain) == list(range(1, 40, 4))
    assert all(v["where"] == came[v["n"]] for v in plain)
    own = [m for m in out if m.headers() == [("h", b"x")]]
    assert sorted(v["n"] for v in values(own)) == list(range(2, 40, 4))
    assert {m.key() for m in own} == {b"own"}
    copies = [(m.partition(), json.loads(m.value())["n"]) for m in consume(kafka_servers, other)]
    assert sorted(copies) == sorted((c, n) for n in range(3, 40, 4) for c in (0, 1))


def test_several_routes_by_list_and_by_pattern_in_one_process(kafka_servers: str, output: str, start: Any) -> None:
    word = unique("shop")
    topics = [create_topic(kafka_servers, f"{word}.{name}", partitions=2) for name in ("eu", "us", "list")]
    outside = create_topic(kafka_servers, f"not-{word}.eu")
    for topic in (*topics, outside):
        produce(kafka_servers, topic, [(None, topic.encode())] * 5)
    config = configuration(kafka_servers, "app:listed", topics[2], output)
    config["routes"]["wild"] = {"pattern": f"{word}\\.(eu|us|later)", "handler": "app:wild", "output": output}
    config["kafka"]["consumer"] = {"metadata_max_age_ms": 1000}
    app = "def listed(value): return b'listed ' + value\ndef wild(value): return b'wild ' + value\n"
    server = start(config, app=app)
    wanted = sorted([f"wild {topics[0]}", f"wild {topics[1]}", f"listed {topics[2]}"] * 5)
    found = until(lambda: (m := consume(kafka_servers, output)) and len(m) >= 15 and m)
    assert sorted(m.value().decode() for m in found) == wanted
    later = create_topic(kafka_servers, f"{word}.later", partitions=2)
    produce(kafka_servers, later, [(None, b"new")] * 5)
    until(lambda: sum(m.value() == b"wild new" for m in consume(kafka_servers, output)) == 5, what="a topic made later is taken up")
    assert server.stop() == 0
    assert len(consume(kafka_servers, output)) == 20


def test_a_partition_added_to_a_topic_is_taken_up(real_kafka: str, output: str, start: Any) -> None:
    from confluent_kafka.admin import AdminClient, NewPartitions

    source = create_topic(real_kafka, unique("grows"), partitions=1)
    config = configuration(real_kafka, "app:handle", source, output)
    config["kafka"]["consumer"] = {"metadata_max_age_ms": 1000}
    server = start(config)
    server.says(r"assigned: .*\[0\]")
    admin = AdminClient({"bootstrap.servers": real_kafka})
    for future in admin.create_partitions([NewPartitions(source, 3)]).values():
        future.result(10)
    server.says(r"assigned: .*\[1,2\]")
    produce(real_kafka, source, numbers(100))
    until(lambda: len(consume(real_kafka, output)) == 100)
    assert server.stop() == 0


def test_a_dotted_path_decodes_and_encodes(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(None, b"1;2"), (None, b"3;4")])
    app = """
def read(data): return [int(part) for part in data.split(b";")]
def write(value): return b"%d" % value
def handle(value): return sum(value)
"""
    config = configuration(kafka_servers, "app:handle", source, output, decode="app:read", encode="app:write")
    assert start(config, "--until-idle", "300ms", app=app).wait() == 0
    assert sorted(m.value() for m in consume(kafka_servers, output)) == [b"3", b"7"]


def test_a_full_buffer_pauses_and_goes_on(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, numbers(3000))
    app = "import time\nfrom gworkers import Record\ndef handle(value):\n    time.sleep(0.001)\n    return value\n"
    config = configuration(
        kafka_servers, "app:handle", source, output, buffer={"messages": 50}, concurrency=16, admin={"bind": "127.0.0.1:0"}
    )
    server = start(config, app=app)
    address = server.says(r"admin at (\S+)")[1]
    most = 0

    def through() -> bool:
        nonlocal most
        most = max(most, int(metric(address, "gworkers_buffered_messages")))
        return metric(address, "gworkers_done_messages_total", route="main") == 3000

    until(through, what="all messages through a buffer of 50")
    assert 0 < most <= 50
    assert server.stop() == 0
    assert len(consume(kafka_servers, output)) == 3000


def test_bytes_bound_the_buffer_too(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, ((None, b"x" * 100_000) for _ in range(300)))
    config = configuration(kafka_servers, "app:handle", source, output, buffer={"bytes": "1MiB"}, admin={"bind": "127.0.0.1:0"})
    server = start(config, "--until-idle", "2s")
    assert server.wait() == 0, server.log
    assert len(consume(kafka_servers, output)) == 300


def test_compressed_topics_are_read_and_written(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, numbers(2000))
    config = configuration(kafka_servers, "app:handle", source, output)
    config["kafka"]["producer"] = {"compression_type": "lz4"}
    assert start(config, "--until-idle", "300ms").wait() == 0
    again = create_topic(kafka_servers, unique("again"))
    config = configuration(kafka_servers, "app:handle", output, again)
    config["kafka"]["producer"] = {"compression_type": "gzip"}
    assert start(config, "--until-idle", "300ms").wait() == 0
    assert sorted(int(m.value()) for m in consume(kafka_servers, again)) == list(range(2000))


def test_a_batch_that_the_broker_finds_too_large_is_split(real_kafka: str, source: str, start: Any) -> None:
    output = create_topic(real_kafka, unique("small"), max_message_bytes="20000")
    produce(real_kafka, source, ((f"k{n % 7}".encode(), b"%05d" % n + b"x" * 2000) for n in range(500)))
    config = configuration(real_kafka, "app:handle", source, output, concurrency=64)
    server = start(config, "--until-idle", "300ms")
    assert server.wait() == 0, server.log
    assert sorted(int(m.value()[:5]) for m in consume(real_kafka, output)) == list(range(500))


def test_an_unknown_kafka_python_is_refused_with_the_versions_that_are_known(kafka_servers: str, source: str, start: Any) -> None:
    app = "from gworkers.kafka import versions\nversions.KNOWN = ((9, 0, 0), (9, 1, 0))\ndef handle(value):\n    return value\n"
    server = start(configuration(kafka_servers, "app:handle", source), app=app)
    assert server.wait() == 69, server.log
    assert "this version of gworkers works with 9.0.0 up to but without 9.1.0; install one of these: pip install" in server.log
    assert "Traceback" not in server.log


def test_a_handlers_block_is_broken_up_when_it_turns_out_to_be_slow(kafka_servers: str, output: str, start: Any) -> None:
    """Fast messages teach the route to take many in one hop; a slow one among them must not keep
    those behind it in the same hop."""
    source = create_topic(kafka_servers, unique("in"), partitions=1)
    app = """
import threading
go_on = threading.Event()
seen = 0
def handle(value):
    global seen
    if value == b"slow":
        assert go_on.wait(20)
    elif value == b"last":
        go_on.set()
    return value
"""
    produce(kafka_servers, source, [(None, b"fast")] * 3000)
    server = start(configuration(kafka_servers, "app:handle", source, output, concurrency=2), app=app)
    until(lambda: len(consume(kafka_servers, output)) >= 3000)
    produce(kafka_servers, source, [(None, b"slow"), *[(None, b"fast")] * 20, (None, b"last")])
    until(lambda: len(consume(kafka_servers, output)) == 3022, 15, "the messages behind a slow one")
    assert server.stop() == 0


@pytest.mark.parametrize("order", ["key", "partition"])
def test_results_come_out_in_the_order_asked_for(kafka_servers: str, source: str, output: str, start: Any, order: str) -> None:
    produce(kafka_servers, source, numbers(400, keys=20))
    app = "import random, time\ndef handle(value):\n    time.sleep(random.random() * 0.01)\n    return value\n"
    config = configuration(kafka_servers, "app:handle", source, output, order=order, concurrency=16)
    assert start(config, "--until-idle", "300ms", app=app).wait() == 0
    found = consume(kafka_servers, output)
    assert len(found) == 400
    last: dict[Any, int] = {}
    for message in found:
        lane = message.key() if order == "key" else message.partition()
        assert int(message.value()) > last.get(lane, -1)
        last[lane] = int(message.value())


def test_a_lone_message_goes_through_at_once(kafka_servers: str, source: str, start: Any) -> None:
    """The broker stamps results as they arrive; none of them waits for a block to fill or a poll to
    run out."""
    output = create_topic(kafka_servers, unique("stamped"), message_timestamp_type="LogAppendTime")
    server = start(configuration(kafka_servers, "app:handle", source, output))
    server.says("assigned")
    for number in range(1, 8):
        produce(kafka_servers, source, [(None, str(time.time()).encode())])
        until(lambda: len(consume(kafka_servers, output)) == number)  # noqa: B023
    assert server.stop() == 0
    took = sorted(m.timestamp()[1] / 1000 - float(m.value()) for m in consume(kafka_servers, output))
    assert took[len(took) // 2] < 0.2, took
