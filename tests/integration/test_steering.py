"""``concurrency: auto`` on a real server: it finds a number, keeps its threads, and loses nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.commands import gworkers
from tests.support.servers import configuration, consume, metric, produce, until

APP = """
import threading, time
started, stopped = [], []

def begin():
    started.append(threading.get_ident())

def end():
    stopped.append(threading.get_ident())

def over():
    print(f"threads: {len(started)} begun, {len(stopped)} ended, {len(set(started))} different", flush=True)

def handle(value):
    time.sleep(0.05)
    return value
"""
HOOKS = {"thread_start": "app:begin", "thread_stop": "app:end", "process_stop": "app:over"}


def _status(address: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"http://{address}/status", timeout=10).json()
    return found


@pytest.mark.parametrize("executor", ["thread", "greenlet"])
def test_it_grows_where_handlers_wait_and_nothing_is_lost(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    count = 12_000
    produce(kafka_servers, source, ((b"%d" % (n % 5000), b"%d" % n) for n in range(count)))
    config = configuration(
        kafka_servers,
        "app:handle",
        source,
        output,
        executor=executor,
        order="key",
        concurrency={"min": 2, "max": 96, "start": 4},
        admin={"bind": "127.0.0.1:0"},
    )
    if executor == "thread":
        config["hooks"] = HOOKS
    server = start(config, app=APP)
    address = server.says(r"admin at (\S+)")[1]
    until(lambda: _status(address)["steering"]["settled"] >= 48, 40, "a concurrency of 48")
    found = _status(address)
    assert 2 <= found["concurrency"] <= 96
    assert found["steering"]["changes"] >= 3
    assert metric(address, "gworkers_concurrency_settled") >= 48
    assert metric(address, "gworkers_concurrency_changes_total") >= 3
    server.says(r"concurrency 8 from now on, 4 before: \d+ messages a second in place of \d+ with 4")
    told = gworkers("status", "-c", str(server.file)).stdout
    assert re.search(r"concurrency \d+ \(steer(, trying \d+)?\): ", told), told
    until(lambda: _status(address)["done"] == count, 60, "all of them")
    assert server.stop() == 0, server.log
    results = consume(kafka_servers, output)
    assert sorted(int(m.value()) for m in results) == list(range(count))
    for _, of_one in _by_key(results).items():
        assert of_one == sorted(of_one)
    if executor == "thread":
        begun, ended, different = map(int, server.says(r"threads: (\d+) begun, (\d+) ended, (\d+) different").groups())
        assert begun == ended == different <= 96  # those that are not needed for a while keep what is theirs


def _by_key(messages: list[Any]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for message in messages:
        found.setdefault(message.key(), []).append(int(message.value()))
    return found


def test_an_operator_sets_a_number_and_lets_it_be_found_again(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(20_000)))
    config = configuration(
        kafka_servers, "app:handle", source, output, concurrency={"min": 2, "max": 64, "start": 4}, admin={"bind": "127.0.0.1:0"}
    )
    server = start(config, app=APP)
    address = server.says(r"admin at (\S+)")[1]
    until(lambda: _status(address)["steering"]["settled"] > 4, 30, "more than it began with")
    assert gworkers("scale", "-c", str(server.file), "--concurrency", "3").stdout == "concurrency 3 from now on\n"
    found = _status(address)
    assert (found["concurrency"], found["steering"]["mode"], found["steering"]["reason"]) == (3, "held", "an operator has set it")
    assert gworkers("scale", "-c", str(server.file), "--concurrency", "auto").stdout == "concurrency is found again\n"
    until(lambda: _status(address)["steering"]["settled"] > 3, 30, "more than an operator had set")
    assert server.stop() == 0, server.log


def test_observe_changes_nothing_and_says_what_it_would_try(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(20_000)))
    concurrency = {"min": 2, "max": 64, "start": 8, "mode": "observe"}
    config = configuration(kafka_servers, "app:handle", source, output, concurrency=concurrency, admin={"bind": "127.0.0.1:0"})
    server = start(config, app=APP)
    server.says(r"concurrency 8, observed: it would try 16")
    found = _status(server.says(r"admin at (\S+)")[1])
    assert (found["concurrency"], found["steering"]["settled"], found["steering"]["wanted"]) == (8, 8, 16)
    assert server.stop() == 0, server.log


def test_a_fixed_number_is_not_found(kafka_servers: str, source: str, output: str, start: Any, tmp_path: Path) -> None:
    server = start(configuration(kafka_servers, "app:handle", source, output, admin={"bind": "127.0.0.1:0"}), app=APP)
    assert _status(server.says(r"admin at (\S+)")[1])["steering"] is None
    refused = gworkers("scale", "-c", str(server.file), "--concurrency", "auto")
    assert refused.returncode != 0
    assert "concurrency is a number in the configuration; write auto there, and reload" in refused.stderr
    assert server.stop() == 0, server.log
