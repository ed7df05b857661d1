"""What the integration tests share: servers that are stopped at the end of a test, and topics of
its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import broker
from tests.support.servers import Running, create_topic, unique

ECHO = "def handle(value):\n    return value\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts servers, and makes sure that they are gone at the end. app: the source of the module
    ``app``."""
    running: list[Running] = []

    def begin(config: Any, *arguments: str, app: str = ECHO, env: dict[str, str] | None = None, name: str = "app.yaml") -> Running:
        (tmp_path / "app.py").write_text(app)
        server = Running(tmp_path, config, arguments, env, name)
        running.append(server)
        return server

    yield begin
    for server in running:
        server.close()


@pytest.fixture
def source(kafka_servers: str) -> str:
    """A topic with four partitions to read from."""
    return create_topic(kafka_servers, unique("in"))


@pytest.fixture
def output(kafka_servers: str) -> str:
    """A topic with four partitions to write to."""
    return create_topic(kafka_servers, unique("out"))


@pytest.fixture(scope="session")
def _strict() -> Iterator[broker.Kafka]:
    kafka = broker.Kafka(auto_create=False)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


@pytest.fixture
def strict_kafka(real_kafka: str, _strict: broker.Kafka) -> str:
    """host:port of an Apache Kafka that makes no topics by itself."""
    return _strict.servers


@pytest.fixture
def own_kafka(real_kafka: str) -> Iterator[broker.Kafka]:
    """An Apache Kafka of the test's own, to be killed and started again."""
    kafka = broker.Kafka()
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


@pytest.fixture(params=["thread", "greenlet"])
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)
