"""The way of a message, on a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Running, configuration, consume, create_topic, produce, unique


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts servers and makes sure that they are gone at the end."""
    running: list[Running] = []

    def begin(config: Any, *arguments: str, app: str = "", env: dict[str, str] | None = None) -> Running:
        if app:
            (tmp_path / "app.py").write_text(app)
        server = Running(tmp_path, config, arguments, env)
        running.append(server)
        return server

    yield begin
    for server in running:
        server.close()


@pytest.fixture
def topics(kafka_servers: str) -> tuple[str, str]:
    return create_topic(kafka_servers, unique("in")), create_topic(kafka_servers, unique("out"))


ECHO = "def handle(value):\n    return value\n"


def test_every_message_comes_out_once_with_its_key(kafka_servers: str, topics: tuple[str, str], start: Any) -> None:
    source, output = topics
    produce(kafka_servers, source, ((f"k{n % 50}".encode(), str(n).encode()) for n in range(5000)))
    server = start(configuration(kafka_servers, "app:handle", source, output), "--until-idle", "1s", app=ECHO)
    assert server.wait() == 0, server.log
    found = consume(kafka_servers, output)
    assert sorted(int(m.value()) for m in found) == list(range(5000))
    assert all(m.key() == f"k{int(m.value()) % 50}".encode() for m in found)
