"""``gworkers seek``: partitions of a running server go on elsewhere, and nothing else changes."""

from __future__ import annotations

import json
import signal
from collections import Counter, defaultdict
from typing import Any

import pytest
import requests
import yaml

from tests.support.commands import gworkers
from tests.support.servers import committed, configuration, consume, produce, until

ADMIN = {"bind": "127.0.0.1:0"}
APP = "import time\ndef handle(value):\n    time.sleep(0.005)\n    return value\n"
HOLDING = (
    "import pathlib, time\n"
    "def handle(value):\n"
    "    while value == b'3' and not pathlib.Path('go-on').exists():\n"
    "        time.sleep(0.02)\n"
    "    return value\n"
)
MANY = 6000
DELIVERIES = ("at-least-once", "exactly-once")
BOTH = pytest.mark.parametrize("delivery", DELIVERIES)


def seek(server: Any, *arguments: str) -> str:
    done = gworkers("seek", "-c", str(server.file), "--yes", *arguments, folder=server.folder)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def feed(kafka: str, topic: str, count: int, partition: int = 0) -> None:
    produce(kafka, topic, ((b"%d" % (n % 7), b"%d" % (10_000 * partition + n)) for n in range(count)), partition=partition)


def group_of(server: Any) -> str:
    return str(yaml.safe_load(server.file.read_text())["kafka"]["group"])


@BOTH
def test_back_to_the_beginning_under_load(kafka_servers: str, source: str, output: str, start: Any, executor: str, delivery: str) -> None:
    config = configuration(
        kafka_servers, "app:handle", source, output, executor=executor, delivery=delivery, order="key", concurrency=16, admin=ADMIN
    )
    for partition in range(2):
        feed(kafka_servers, source, MANY, partition)
    server = start(config, app=APP)
    until(lambda: committed(kafka_servers, group_of(server), source)[0] > 300, what="some of it committed")
    told = seek(server, "--topic", source, "--partition", "0", "--to", "beginning")
    assert "-> 0: up to " in told
    assert f": {MANY} -> 0" not in told, "it was not through yet"
    assert f"{source}[0]: it goes on at 0 when what runs of it has finished" in told
    server.says(rf"{source}\[0\] goes on at 0")
    until(lambda: committed(kafka_servers, group_of(server), source)[0] == MANY, 60, what="all of it once more")
    until(lambda: committed(kafka_servers, group_of(server), source)[1] == MANY, 60, what="the other one")
    assert server.stop() == 0, server.log
    found = committed(kafka_servers, group_of(server), source)
    assert (found[0], found[1]) == (MANY, MANY)
    sequences: dict[tuple[int, int], list[int]] = defaultdict(list)
    for message in consume(kafka_servers, output):
        partition, n = divmod(int(message.value()), 10_000)
        sequences[partition, n % 7].append(n)
    for key in range(7):
        whole = list(range(key, MANY, 7))
        assert sequences[1, key] == whole, "the other one is not touched"
        again = sequences[0, key]
        first = len(again) - len(whole)
        assert again == whole[:first] + whole, "in order up to where it was, then from the beginning"
        assert first > 0
    assert "WARNING" not in server.log, server.log


@BOTH
def test_what_runs_finishes_and_what_waits_is_passed_over(
    kafka_servers: str, source: str, output: str, start: Any, executor: str, delivery: str
) -> None:
    config = configuration(
        kafka_servers, "app:handle", source, output, executor=executor, delivery=delivery, order="partition", concurrency=4, admin=ADMIN
    )
    feed(kafka_servers, source, 100)
    server = start(config, app=HOLDING)
    address = server.says(r"admin at (\S+)")[1]

    def partition() -> dict[str, Any]:
        found = requests.get(f"http://{address}/status", timeout=10).json()["partitions"]
        return next((one for one in found if one["partition"] == 0), {})

    until(lambda: partition().get("finished") == 3 and partition()["in_flight"] == 1, what="the fourth to run")
    assert "up to " in seek(server, "--topic", source, "--partition", "0", "--to", "90")
    assert partition()["paused"] == "moving"
    assert partition()["waiting"] == 0
    (server.folder / "go-on").touch()
    server.says(rf"{source}\[0\] goes on at 90")
    until(lambda: committed(kafka_servers, group_of(server), source)[0] == 100, what="the end")
    assert server.stop() == 0, server.log
    assert sorted(int(message.value()) for message in consume(kafka_servers, output)) == [0, 1, 2, 3, *range(90, 100)]


@BOTH
def test_it_is_committed_where_nothing_comes_after_it(kafka_servers: str, source: str, output: str, start: Any, delivery: str) -> None:
    """Whoever has the partition next goes on there, after a kill as well."""
    config = configuration(kafka_servers, "app:handle", source, output, delivery=delivery, admin=ADMIN, state_dir="state")
    feed(kafka_servers, source, 40)
    server = start(config, app=APP)
    until(lambda: committed(kafka_servers, group_of(server), source)[0] == 40, what="all of it")
    address = server.says(r"admin at (\S+)")[1]
    requests.post(f"http://{address}/pause?topic={source}", timeout=10)
    seek(server, "--topic", source, "--partition", "0", "--to", "10")
    until(lambda: committed(kafka_servers, group_of(server), source)[0] == 10, what="the new place")
    server.signal(signal.SIGKILL)
    server.wait()
    second = start(config, app=APP)
    until(lambda: committed(kafka_servers, group_of(second), source)[0] == 40, 60, what="the rest once more")
    assert second.stop() == 0
    assert Counter(int(message.value()) for message in consume(kafka_servers, output)) == Counter([*range(40), *range(10, 40)])


def test_what_waits_for_another_attempt_is_dropped(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    app = "def handle(value):\n    if value == b'1':\n        raise ValueError\n    return value\n"
    retry = {"attempts": 100, "backoff": "1h", "max_backoff": "1h"}
    config = configuration(kafka_servers, "app:handle", source, output, executor=executor, retry=retry, admin=ADMIN)
    feed(kafka_servers, source, 5)
    server = start(config, app=app)
    address = server.says(r"admin at (\S+)")[1]
    until(lambda: requests.get(f"http://{address}/status", timeout=10).json()["retrying"] == 1, what="one that waits")
    until(lambda: len(consume(kafka_servers, output)) == 4, what="the others")
    assert committed(kafka_servers, group_of(server), source)[0] <= 1
    seek(server, "--topic", source, "--partition", "0", "--to", "end")
    until(lambda: committed(kafka_servers, group_of(server), source)[0] == 5, what="the end")
    assert requests.get(f"http://{address}/status", timeout=10).json()["retrying"] == 0
    assert server.stop() == 0, server.log


def test_what_cannot_be_is_said(kafka_servers: str, source: str, output: str, start: Any) -> None:
    feed(kafka_servers, source, 5)
    server = start(configuration(kafka_servers, "app:handle", source, output, admin=ADMIN), app=APP)
    address = server.says(r"admin at (\S+)")[1]
    until(lambda: committed(kafka_servers, group_of(server), source)[0] == 5, what="all of it")

    def asked(query: str) -> tuple[int, str]:
        answer = requests.post(f"http://{address}/seek?{query}", timeout=10)
        return answer.status_code, answer.json()["why"]

    assert asked(f"topic={source}&partition=0&offset=6") == (200, f"{source}[0] has the offsets 0 to 5, and not 6")
    assert asked(f"topic={source}&partition=9&offset=0") == (200, f"{source}[9] is not assigned here")
    assert asked(f"topic={source}&partition=0")[0] == 400
    assert asked(f"topic={source}&partition=0&offset=-1")[0] == 400
    done = gworkers("seek", "-c", str(server.file), "--topic", source, "--to", "77", folder=server.folder)
    assert (done.returncode, done.stderr) == (64, f"gworkers: {source}[0] has the offsets 0 to 5, and not 77\n")
    done = gworkers("seek", "-c", str(server.file), "--topic", source, "--partition", "0", "--to", "2", "--json", folder=server.folder)
    wanted = {"topic": source, "partition": 0, "now": 5, "to": 2, "means": "up to 3 messages run again"}
    assert json.loads(done.stdout) == wanted
    assert server.stop() == 0
    done = gworkers("seek", "-c", str(server.file), "--topic", source, "--to", "beginning", "--yes", folder=server.folder)
    assert done.returncode == 69
    assert "no server runs" in done.stderr


def test_of_several_processes_the_one_that_has_it_goes_on_elsewhere(kafka_servers: str, source: str, output: str, start: Any) -> None:
    for partition in range(4):
        feed(kafka_servers, source, 20, partition)
    server = start(configuration(kafka_servers, "app:handle", source, output, admin=ADMIN) | {"processes": 2}, app=APP)
    until(lambda: set(committed(kafka_servers, group_of(server), source).values()) == {20}, 60, what="all of it")
    told = seek(server, "--topic", source, "--to", "15")
    assert told.count("it goes on at 15 when what runs of it has finished") == 4
    until(lambda: len(consume(kafka_servers, output)) == 80 + 20, 60, what="five of each once more")
    until(lambda: set(committed(kafka_servers, group_of(server), source).values()) == {20}, 60, what="all of it")
    assert server.stop() == 0
