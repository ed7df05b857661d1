"""A partition whose log has lost its end: the broker that had everything is gone, and one that had
less leads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.broker import Cluster
from tests.support.servers import configuration, consume, create_topic, produce, unique, until

APP = """
def handle(value):
    return value
"""


@pytest.fixture(scope="module")
def cluster(real_kafka_wanted: None) -> Iterator[Cluster]:
    found = Cluster()
    try:
        found.start()
        yield found
    finally:
        found.stop()


def lead(cluster: Cluster, topic: str) -> int:
    return int(AdminClient({"bootstrap.servers": cluster.servers}).list_topics(topic, timeout=10).topics[topic].partitions[0].leader)


def test_a_log_that_lost_its_end_is_read_from_where_it_differs(cluster: Cluster, start: Any) -> None:
    two, three = cluster.brokers[1:]
    config = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
    topic = NewTopic(unique("unclean"), 1, replica_assignment=[[2, 3]], config=config)
    admin = AdminClient({"bootstrap.servers": cluster.servers})
    admin.create_topics([topic])[topic.topic].result(10)
    source, output = topic.topic, create_topic(cluster.servers, unique("output"), 1, 3)

    def send(first: int, last: int) -> None:
        produce(cluster.servers, source, [(None, json.dumps({"id": number}).encode()) for number in range(first, last)])

    options = configuration(cluster.servers, "app:handle", source, output, decode="json", encode="json", order="partition")

    def handle(count: int) -> list[int]:
        server = start(options, "--until-idle", "2s", app=APP)
        assert server.wait() == 0, server.log
        return [json.loads(message.value())["id"] for message in consume(cluster.servers, output, count)]

    send(0, 100)
    assert handle(100) == list(range(100))
    three.kill()
    until(lambda: lead(cluster, source) == 2, 30, "the second broker leads")
    send(100, 200)
    assert handle(200) == list(range(200))
    two.kill()
    three.start()
    until(lambda: lead(cluster, source) == 3, 30, "the third broker leads, which has the first 100")
    send(200, 350)
    found = handle(350)
    two.start()
    assert found == list(range(350)), "the log had grown past what was committed again"
