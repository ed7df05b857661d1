"""Hooks and middleware of a running server, in both executors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.support.servers import configuration, consume, create_topic, produce, unique, until

APP = """
import contextlib, dataclasses, logging, threading, time

log = logging.getLogger("shop")

@dataclasses.dataclass
class Order:
    customer: str
    count: int

def timed(message, proceed):
    began = time.monotonic()
    try:
        return proceed()
    finally:
        assert message.topic and time.monotonic() >= began

@contextlib.contextmanager
def session():
    yield

def before(message):
    if message.value is not None and message.value.customer == "blocked":
        raise PermissionError("blocked")

def after(message, result):
    result["seen"] = True

def failed(message, error):
    log.info("failed %s attempt %d: %s", message.offset, message.attempt, type(error).__name__)

def dead(message, error):
    name = threading.current_thread().name
    log.info("dead %r: %s", message.value, error)
    if b"blocked" in message.value:
        raise OSError("no alerts today")

def handle(order: Order):
    if order.count > 99:
        raise ValueError("too many")
    return {"customer": order.customer}
"""
HOOKS = {
    name: f"app:{hook}" for name, hook in {"before": "before", "after": "after", "on_failure": "failed", "on_dead_letter": "dead"}.items()
}


def test_they_are_called_around_each_message(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    more: dict[str, Any] = {"decode": "json", "encode": "json", "order": "partition", "retry": {"attempts": 2, "backoff": "50ms"}}
    config = configuration(kafka_servers, "app:handle", source, output, dead_letter=dead, executor=executor, **more)
    config |= {"hooks": HOOKS, "middleware": ["app:timed", "app:session"]}
    orders = [{"customer": f"c-{n}", "count": n} for n in range(100)]
    bad = [{"customer": "c", "count": 100}, {"customer": "blocked", "count": 1}, {"customer": "c", "count": "many"}]
    produce(kafka_servers, source, ((None, json.dumps(order).encode()) for order in orders + bad), partition=0)
    server = start(config, app=APP)
    until(lambda: len(consume(kafka_servers, output)) == 100, 30, "the results")
    assert all(json.loads(message.value())["seen"] for message in consume(kafka_servers, output))
    until(lambda: len(consume(kafka_servers, dead)) == 3, 30, "the dead letters")
    until(lambda: server.log.count("INFO shop") == 8, what="what the hooks were told")
    assert re.findall(r"failed (\d+) attempt (\d): (\w+)", server.log) == [
        ("100", "1", "ValueError"),
        ("100", "2", "ValueError"),
        ("101", "1", "PermissionError"),
        ("101", "2", "PermissionError"),
        ("102", "1", "DecodeError"),
    ]
    assert "it is no Order: count: Input should be a valid integer" in server.log
    assert server.log.count("INFO shop") == 8
    assert re.search(r"dead b'.*\"count\": 100\}': too many", server.log), server.log
    assert "hooks.on_dead_letter failed" in server.log
    assert "OSError: no alerts today" in server.log
    assert server.stop() == 0


def test_a_slow_hook_holds_up_nothing_and_is_waited_for_at_the_stop(
    kafka_servers: str, source: str, start: Any, executor: str, tmp_path: Path
) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    app = """
import os, time
def told(message, error):
    while not os.path.exists("go"): time.sleep(0.02)
    with open("told", "a") as file: file.write(f"{message.offset} ")
def handle(value):
    raise ValueError
"""
    more: dict[str, Any] = {"order": "partition", "retry": {"attempts": 1}, "dead_letter": dead, "executor": executor}
    config = configuration(kafka_servers, "app:handle", source, **more) | {"hooks": {"on_dead_letter": "app:told"}}
    produce(kafka_servers, source, ((None, b"x") for _ in range(50)), partition=0)
    server = start(config, app=app)
    until(lambda: len(consume(kafka_servers, dead)) == 50, 30, "the dead letters, though the first hook has not come back")
    server.process.terminate()
    server.says("revoked: ")
    (tmp_path / "go").touch()
    assert server.wait(30) == 0, server.log
    assert (tmp_path / "told").read_text().split() == [str(n) for n in range(50)]
