"""A request about a transaction that arrives when the next one is open changes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chaos import holding
from tests.chaos.holding import Holder
from tests.chaos.proxy import Proxy
from tests.support.broker import Kafka
from tests.support.servers import ENVIRONMENT, configuration, consume, create_topic, produce, unique

PRODUCER_FENCED = 90


@pytest.fixture(scope="module")
def world(real_kafka_wanted: None) -> Iterator[tuple[Kafka, Proxy]]:
    proxy = Proxy()
    kafka = Kafka(proxied=proxy.port)
    proxy.target = kafka.behind
    kafka.start()
    try:
        yield kafka, proxy
    finally:
        proxy.close()
        kafka.stop()


@pytest.mark.parametrize("kind", ["END_TXN", "TXN_OFFSET_COMMIT"])
def test_a_replay_sends_each_letter_once(world: tuple[Kafka, Proxy], start: Any, kind: str) -> None:
    kafka, proxy = world
    source, dead = (create_topic(kafka.servers, unique(word)) for word in ("in", "dead"))
    produce(kafka.servers, source, ((b"k%d" % (n % 50), b"%d" % n) for n in range(6000)))
    letters = {"never_succeeded": 0}  # letters are all that is wanted
    config = configuration(kafka.servers, "app:handle", source, dead_letter=dead, retry={"attempts": 1}, dead_letters=letters)
    server = start(config, "--until-idle", "500ms", app="def handle(value):\n    raise ValueError('as it was asked to')\n")
    assert server.wait() == 0, server.log
    config["kafka"]["bootstrap_servers"] = f"127.0.0.1:{proxy.port}"
    server.file.write_text(yaml.safe_dump(config))
    aside = create_topic(kafka.servers, unique("aside"))
    proxy.holder = holder = Holder(getattr(holding, kind))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gworkers", "dead-letters", "replay", "-c", str(server.file), "--to", aside],
            cwd=server.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        proxy.behave()
    assert holder.settle() >= 5
    assert done.returncode == 0, done.stderr
    assert "6,000 dead letters sent again" in done.stdout
    assert Counter(m.value() for m in consume(kafka.servers, aside)) == Counter(b"%d" % n for n in range(6000))
    if kind == "END_TXN":
        assert PRODUCER_FENCED in holder.answered, "none of them came in a later transaction"
