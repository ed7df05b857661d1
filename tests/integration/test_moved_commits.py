"""Commits that another program has moved, with the map of finished offsets that was written for
other offsets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_reliability import STUCK, metadata_of
from tests.support import broker
from tests.support.servers import configuration, consume, create_topic, produce, unique, until


@pytest.fixture
def pair(real_kafka_wanted: None) -> Iterator[tuple[broker.Kafka, broker.Kafka]]:
    """Two clusters of a broker each."""
    found = broker.Kafka(), broker.Kafka()
    try:
        for one in found:
            one.start()
        yield found
    finally:
        for one in found:
            one.stop()


def test_mirror_maker_moves_a_commit_and_nothing_is_skipped(pair: tuple[broker.Kafka, broker.Kafka], start: Any) -> None:
    """It commits a translated offset with the original metadata; what is not finished there is
    handled there."""
    here, there = pair
    source, output = create_topic(here.servers, unique("in"), partitions=1), create_topic(here.servers, unique("out"))
    for number in range(12):  # so that offsets there are others than here
        produce(here.servers, source, [(None, b"old-%d" % number)], headers=[("n", b"1")])
    values = [
        *(b"first-%d" % n for n in range(50)),
        b"stuck",
        *(b"%d" % n for n in range(150)),
        b"stuck",
        *(b"last-%d" % n for n in range(9)),
    ]
    produce(here.servers, source, ((None, value) for value in values))
    config = configuration(here.servers, "app:handle", source, output, concurrency=16)
    group = config["kafka"]["group"]
    server = start(config, app=STUCK)
    until(lambda: metadata_of(here.servers, group, source, 0)[0] == 62 and metadata_of(here.servers, group, source, 0)[1], what="a map")
    mirror = broker.MirrorMaker(here, there, source)
    try:
        until(lambda: len(consume(there.servers, source, timeout=5)) == 12 + len(values), 90, "the topic there")
        offset, metadata = until(lambda: (found := metadata_of(there.servers, group, source, 0))[1] and found, 90, "the commit there")
    finally:
        mirror.stop()
    assert offset <= 62
    server.process.kill()
    server.wait()
    (server.folder / "go-on").touch()
    create_topic(there.servers, output)
    again = start({**config, "kafka": {**config["kafka"], "bootstrap_servers": there.servers}}, "--until-idle", "1s", app=STUCK)
    assert again.wait() == 0, again.log
    came = {message.value() for message in consume(there.servers, source) if message.offset() >= offset}
    assert {message.value() for message in consume(there.servers, output)} == came
    assert b"stuck" in came
    if offset != 62:
        assert again.log.count("it was written for offset 62, and whoever moved the commit took it along") == 1, again.log
    else:
        assert again.log.count("it was written for another topic of this name") == 1, again.log
    assert metadata
