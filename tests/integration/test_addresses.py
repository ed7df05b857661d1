"""Ways to the brokers other than the address that they advertise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import socks
from tests.support.commands import gworkers
from tests.support.servers import configuration, consume, produce


@pytest.fixture(params=["another name", "a proxy", "a proxy that alone knows the name"])
def way(request: pytest.FixtureRequest, real_kafka: str) -> Any:
    """Settings of ``kafka`` that lead to the broker, which advertises 127.0.0.1."""
    port = real_kafka.rpartition(":")[2]
    if request.param == "another name":
        yield {"bootstrap_servers": f"localhost:{port}"}
        return
    with socks.proxy() as address:
        if request.param == "a proxy":
            yield {"bootstrap_servers": f"127.0.0.1:{port}", "client": {"proxy_url": f"socks5://{address}"}}
        else:
            yield {"bootstrap_servers": f"{socks.INSIDE}:{port}", "client": {"proxy_url": f"socks5h://{address}"}}


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_messages_come_through(real_kafka: str, way: dict[str, Any], source: str, output: str, start: Any, delivery: str) -> None:
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(100)))
    config = configuration(real_kafka, "app:handle", source, output, delivery=delivery)
    config["kafka"].update(way)
    server = start(config, "--until-idle", "1s")
    assert server.wait(30) == 0, server.log
    assert sorted(int(m.value()) for m in consume(real_kafka, output)) == list(range(100))


def test_commands_come_through(real_kafka: str, way: dict[str, Any], source: str, tmp_path: Path) -> None:
    config = configuration(real_kafka, "app:handle", source, dead_letter="dead-of-" + source)
    config["kafka"].update(way)
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "app.py").write_text("def handle(value):\n    return value\n")
    for command in (("send", source), ("lag",), ("tail", source, "--from", "beginning", "-n", "1"), ("dead-letters", "count")):
        done = gworkers(*command, "-c", "app.yaml", folder=tmp_path, given="a line\n", timeout=30)
        assert done.returncode == 0, (command, done.stderr)


def test_a_proxy_that_is_not_there_is_told(real_kafka: str, source: str, start: Any) -> None:
    config = configuration(real_kafka, "app:handle", source)
    config["kafka"].update(client={"proxy_url": "socks5://127.0.0.1:1"}, connect_timeout="3s")
    server = start(config)
    assert server.wait(15) == 69, server.log
    assert f"{real_kafka} through the proxy of kafka.client KafkaConnectionError: 111 ECONNREFUSED" in server.log
