"""What a topic's retention may delete: letters, and messages that wait for another attempt."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient, ConfigResource

from tests.support.commands import gworkers
from tests.support.servers import configuration, consume, create_topic, produce, unique, until

FAILS = "def handle(value):\n    raise ValueError('as it was asked to')\n"
DAY = 86_400_000


def config_of_topic(kafka: str, topic: str, name: str) -> str:
    admin = AdminClient({"bootstrap.servers": kafka})
    (future,) = admin.describe_configs([ConfigResource("topic", topic)]).values()
    return str(future.result(10)[name].value)


def test_a_letter_of_an_old_message_is_as_young_as_its_failure(kafka_servers: str, source: str, start: Any) -> None:
    dead, now = create_topic(kafka_servers, unique("dead")), int(time.time() * 1000)
    old = now - 8 * DAY
    produce(kafka_servers, source, [(b"k", b"1")] * 5, timestamp=old)
    app = "from gworkers import Reject\ndef handle(message):\n    raise Reject(f'seen with {message.timestamp}')\n"
    server = start(configuration(kafka_servers, "app:handle", source, dead_letter=dead, pass_="message"), "--until-idle", "300ms", app=app)
    assert server.wait() == 0, server.log
    letters = consume(kafka_servers, dead)
    assert len(letters) == 5
    for letter in letters:
        told = dict(letter.headers())
        assert letter.timestamp()[1] >= now
        assert struct.unpack(">q", told["kafka_dlt-original-timestamp"]) == (old,)
        assert told["kafka_dlt-exception-message"] == b"seen with %d" % old
    listed = gworkers("dead-letters", "ls", "--json", "-c", str(server.file))
    assert [json.loads(line)["origin"]["timestamp"] for line in listed.stdout.splitlines()] == [old] * 5


def test_a_retry_topic_is_made_to_keep_what_waits_in_it(real_kafka: str, source: str, start: Any) -> None:
    retry = {"attempts": 1, "topics": ["10d", "1h"]}
    config = configuration(real_kafka, "app:handle", source, retry=retry, dead_letter=unique("dead"))
    produce(real_kafka, source, [(None, b"1")])
    server = start(config, app=FAILS)
    server.says(f"the next is from {source}.retry.10d")
    assert int(config_of_topic(real_kafka, f"{source}.retry.10d", "retention.ms")) == 17 * DAY
    assert int(config_of_topic(real_kafka, f"{source}.retry.1h", "retention.ms")) == 7 * DAY + DAY // 24
    assert server.stop() == 0


def test_a_retry_topic_that_keeps_less_than_messages_wait_is_refused(real_kafka: str, source: str, start: Any) -> None:
    create_topic(real_kafka, f"{source}.retry.10d", retention_ms=str(7 * DAY))
    create_topic(real_kafka, f"{source}.retry.8d", retention_ms="-1")
    create_topic(real_kafka, f"{source}.retry.9d", cleanup_policy="compact", retention_ms="1000")
    retry = {"attempts": 1, "topics": ["8d", "9d", "10d"]}
    server = start(configuration(real_kafka, "app:handle", source, retry=retry, dead_letter="dead"), app=FAILS)
    assert server.wait(30) == 78, server.log
    wanted = f"messages wait in {source}.retry.10d for 10d, and the topic keeps them for 7d: they would be deleted there; make the wait"
    assert wanted in server.log
    assert "app.yaml:" in server.log
    assert f"--entity-name {source}.retry.10d --add-config retention.ms={17 * DAY}" in server.log
    assert server.log.count(" ERROR ") == 1
    assert "Traceback" not in server.log


def test_an_input_that_keeps_less_than_a_message_waits_is_told(real_kafka: str, start: Any) -> None:
    source = create_topic(real_kafka, unique("in"), retention_ms=str(DAY))
    server = start(configuration(real_kafka, "app:handle", source, delay="2d"))
    server.says(
        f"a message of {source} may wait for 2d until it is handled, and the topic keeps it for 1d: after a restart it would be gone"
    )
    server.says("assigned")
    assert server.stop() == 0
    enough = create_topic(real_kafka, unique("in"), retention_ms=str(3 * DAY))
    server = start(configuration(real_kafka, "app:handle", enough, delay="2d"))
    server.says("assigned")
    assert "may wait for" not in server.log


def test_what_was_deleted_while_it_waited_is_reported(real_kafka: str, start: Any) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=1)
    produce(real_kafka, source, ((None, b"%03d" % n + b"x" * 20_000) for n in range(60)))
    retry = {"attempts": 1, "topics": ["6s"]}
    dead = create_topic(real_kafka, unique("dead"), partitions=1)
    buffer = {"messages": 10, "bytes": "512KiB"}
    config = configuration(real_kafka, "app:handle", source, retry=retry, dead_letter=dead, buffer=buffer)
    server = start(config, app=FAILS)
    waiting = confluent_kafka.TopicPartition(f"{source}.retry.6s", 0)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": real_kafka, "group.id": unique("watch")})

    def all_there() -> bool:
        try:
            return consumer.get_watermark_offsets(waiting, timeout=5)[1] == 60
        except confluent_kafka.KafkaException:
            return False

    until(all_there, what="all messages in the retry topic")
    waiting.offset = 50
    admin = AdminClient({"bootstrap.servers": real_kafka})
    (future,) = admin.delete_records([waiting]).values()
    future.result(10)
    consumer.close()
    found = server.says(rf"{source}\.retry\.6s\[0\]: retention has deleted the offsets from (\d+) to 49 before their messages were handled")
    until(lambda: len(consume(real_kafka, dead)) == int(found[1]) + 10, what="the letters of the others")
    assert server.stop() == 0
