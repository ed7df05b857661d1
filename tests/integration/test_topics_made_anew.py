"""A topic that is deleted and made anew under a server: every message of the new one is handled."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient

from tests.support.servers import configuration, consume, create_topic, produce, unique, until


def make_anew(kafka: str, topic: str, wait: float) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([topic])[topic].result(10)
    time.sleep(wait)

    def made() -> bool:
        try:
            create_topic(kafka, topic, partitions=1)
        except confluent_kafka.KafkaException as error:
            return bool(error.args[0].code() == confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS)  # a client's asking made it
        return True

    until(made, 30, "the topic again")


@pytest.mark.parametrize("interval", ["20ms", "1s"])
def test_every_message_of_the_new_topic_is_handled(real_kafka: str, output: str, start: Any, interval: str) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=1)
    config = configuration(real_kafka, "app:handle", source, output, commit={"interval": interval})
    config["kafka"]["consumer"] = {"metadata_max_age_ms": 1000}
    server = start(config)
    server.says("assigned: ")
    draw = random.Random(5)
    wanted: Counter[bytes] = Counter()
    for life in range(5):
        values = [b"%d-%d" % (life, n) for n in range(60 * (life + 1))]  # more each time: the old place is within the new log
        wanted.update(values)
        produce(real_kafka, source, ((None, value) for value in values))
        until(lambda: wanted.keys() == {m.value() for m in consume(real_kafka, output)}, 40, "everything")
        make_anew(real_kafka, source, draw.choice((0, 0, 0.5)))
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log
