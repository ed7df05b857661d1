"""Commands that operate a running server, and who may."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.commands import gworkers
from tests.support.servers import configuration, consume, create_topic, produce, unique, until

TOKEN, READ_TOKEN = "operate-0123456789abcdef", "read-0123456789abcdef"
ECHO = "def handle(value):\n    return value\n"
#: Holds what it has until there is a file.
HOLDING = (
    "import pathlib, time\ndef handle(value):\n    while not pathlib.Path('go-on').exists():\n        time.sleep(0.02)\n    return value\n"
)


def command(server: Any, *arguments: str) -> str:
    done = gworkers(*arguments, "-c", str(server.file), folder=server.folder)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def told(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command(server, "status", "--json").splitlines()[0])
    return found


@pytest.fixture
def topics(kafka_servers: str) -> tuple[str, str, str]:
    a, b = create_topic(kafka_servers, unique("a"), partitions=2), create_topic(kafka_servers, unique("b"), partitions=2)
    return a, b, create_topic(kafka_servers, unique("out"))


def two_routes(kafka_servers: str, topics: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    a, b, output = topics
    config = configuration(kafka_servers, "app:handle", a, output, admin={"bind": "127.0.0.1:0"}, **more)
    (route,) = config["routes"].values()
    config["routes"] = {"first": {**route, "topics": [a]}, "second": {**route, "topics": [b]}}
    return config


def test_what_is_paused_stands_still_and_the_rest_goes_on(kafka_servers: str, topics: tuple[str, str, str], start: Any) -> None:
    a, b, output = topics
    server = start(two_routes(kafka_servers, topics), app=ECHO)
    server.says("assigned: ")
    until(lambda: len(told(server)["partitions"]) == 4, what="all partitions")
    assert command(server, "pause", "--route", "first") == f"paused: {a}[0], {a}[1]\npaused now: route first\n"
    assert f"an operator: pause route first; of it here: {a}[0,1]" in server.log
    for topic in (a, b):
        for partition in (0, 1):
            produce(kafka_servers, topic, ((None, f"{topic}/{partition}/{n}".encode()) for n in range(50)), partition=partition)
    until(lambda: told(server)["done"] == 100, what="the other route's messages")
    found = told(server)
    assert (found["holds_back"], found["why"]) == ("paused", "an operator has paused route first")
    assert {p["paused"] for p in found["partitions"] if p["topic"] == a} == {"operator"}
    assert {p["paused"] for p in found["partitions"] if p["topic"] == b} == {None}
    until(lambda: told(server)["lag"] == 100, what="the lag of what is paused")
    assert command(server, "pause", "--topic", a, "--partition", "1").endswith(f"paused now: route first; topic {a}, partition 1\n")
    assert command(server, "resume", "--route", "first") == f"going on: {a}[0]\npaused now: topic {a}, partition 1\n"
    until(lambda: told(server)["done"] == 150, what="one partition's messages")
    assert command(server, "resume") == f"going on: {a}[1]\n"
    until(lambda: told(server)["done"] == 200, what="all")
    values = [m.value() for m in consume(kafka_servers, output)]
    assert len(values) == len(set(values)) == 200
    assert server.stop() == 0


def test_what_runs_and_what_waits_for_another_attempt_is_paused_too(kafka_servers: str, source: str, output: str, start: Any) -> None:
    app = (
        "seen = []\ndef handle(value):\n    seen.append(value)\n    if seen.count(value) < 3: raise ValueError('again')\n    return value\n"
    )
    config = configuration(
        kafka_servers, "app:handle", source, output, admin={"bind": "127.0.0.1:0"}, retry={"attempts": 4, "backoff": "3s", "jitter": 0}
    )
    server = start(config, app=app)
    server.says("assigned: ")
    produce(kafka_servers, source, [(None, b"one")])
    until(lambda: told(server)["retrying"] == 1, what="a message that waits for another attempt")
    command(server, "pause")
    until(lambda: told(server)["waiting"] == 1, what="its attempt, which is due and does not begin")
    assert told(server)["holds_back"] == "paused"
    command(server, "resume")
    until(lambda: told(server)["done"] == 1, what="its end")
    assert server.stop() == 0


def test_a_pause_does_not_hold_up_a_stop(kafka_servers: str, source: str, start: Any) -> None:
    server = start(configuration(kafka_servers, "app:handle", source, admin={"bind": "127.0.0.1:0"}), app=ECHO)
    server.says("assigned: ")
    command(server, "pause")
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(20)))
    assert server.stop() == 0
    assert "stopped: 0 done, everything settled" in server.log


def test_quiet_and_stacks(kafka_servers: str, source: str, output: str, start: Any) -> None:
    server = start(configuration(kafka_servers, "app:handle", source, output, admin={"bind": "127.0.0.1:0"}), app=HOLDING)
    server.says("assigned: ")
    produce(kafka_servers, source, [(None, b"%d" % n) for n in range(20)], partition=0)
    until(lambda: told(server)["running"] == 8, what="busy handlers")
    shown = command(server, "stacks")
    assert len(re.findall(rf"^\[0\] {re.escape(source)}\[0\]@\d+ \(main\) for \d+\.\d s, at$", shown, re.M)) == 8
    assert 'app.py", line 4, in handle' in shown
    lines = [json.loads(line) for line in command(server, "stacks", "--json").splitlines()]
    assert sorted(line["offset"] for line in lines) == list(range(8))
    assert command(server, "quiet") == "nothing new is begun; gworkers quiet --off goes on\n"
    assert told(server)["holds_back"] == "quiet"
    (server.folder / "go-on").touch()
    until(lambda: told(server)["running"] == 0, what="the end of what had begun")
    assert 8 <= told(server)["done"] < 20
    assert command(server, "quiet", "--off") == "going on\n"
    until(lambda: told(server)["done"] == 20, what="the rest")
    assert server.stop() == 0


@pytest.mark.parametrize("executor", ["thread", "greenlet"])
def test_concurrency_is_changed_while_it_runs(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    """Upwards and downwards, by command and by signal; what runs goes on, and nothing is lost or
    repeated."""
    config = configuration(kafka_servers, "app:handle", source, output, admin={"bind": "127.0.0.1:0"}, buffer={"messages": 500})
    server = start({**config, "executor": executor}, app=HOLDING)
    server.says("assigned: ")
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(300)))
    until(lambda: told(server)["running"] == 8, what="8 handlers")
    assert command(server, "scale", "--concurrency", "30") == "concurrency 30 from now on\n"
    until(lambda: (told(server)["running"], told(server)["concurrency"]) == (30, 30), what="30 handlers")
    server.signal(signal.SIGTTIN)
    until(lambda: (told(server)["running"], told(server)["concurrency"]) == (33, 33), what="33 handlers")
    assert "SIGTTIN: concurrency 33 from now on, 30 before" in server.log
    command(server, "scale", "--concurrency", "1")
    server.signal(signal.SIGTTOU)  # there is always one
    assert told(server)["running"] == 33
    (server.folder / "go-on").touch()
    until(lambda: told(server)["done"] == 300, what="all of it")
    (server.folder / "go-on").unlink()
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(300, 310)))
    until(lambda: told(server)["lag"] == 10 and told(server)["running"] >= 1, what="the next ones")
    assert told(server)["running"] == 1
    wrong = gworkers("scale", "--concurrency", "501", "-c", str(server.file), folder=server.folder)
    refused = "gworkers: concurrency 501 is not between 1 and 500, which buffer.messages allows\n"
    assert (wrong.returncode, wrong.stderr) == (64, refused)
    (server.folder / "go-on").touch()
    until(lambda: told(server)["done"] == 310, what="the end of it")
    assert server.stop() == 0
    values = [m.value() for m in consume(kafka_servers, output)]
    assert len(values) == len(set(values)) == 310


def test_who_may_read_may_not_operate(kafka_servers: str, source: str, start: Any) -> None:
    admin = {"bind": "127.0.0.1:0", "token": TOKEN, "read_token": READ_TOKEN}
    server = start(configuration(kafka_servers, "app:handle", source, admin=admin), app=ECHO)
    address = "http://" + server.says(r"admin at (\S+)")[1]

    def post(path: str, token: str | None, **headers: str) -> tuple[int, str]:
        given = {"Authorization": f"Bearer {token}"} if token else {}
        answer = requests.post(address + path, headers={**given, **headers}, timeout=5)
        return answer.status_code, answer.text

    assert post("/pause", None)[0] == 401
    assert post("/pause", READ_TOKEN) == (403, '{"ok": false, "why": "this token may read; admin.token may operate"}\n')
    assert post("/pause", TOKEN, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert post("/pause?route=nothing", TOKEN) == (400, '{"ok": false, "why": "there is no route nothing; there are main"}\n')
    assert post("/pause?partition=x", TOKEN)[0] == 400
    assert post("/pause?rutes=main", TOKEN)[0] == 400
    assert post("/status", TOKEN)[0] == 405
    assert requests.get(f"{address}/pause", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5).status_code == 405
    assert post("/nothing", TOKEN)[0] == 404
    assert requests.get(f"{address}/stacks", headers={"Authorization": f"Bearer {READ_TOKEN}"}, timeout=5).json()["running"] == []
    assert told(server)["paused"] == []
    assert post("/pause", TOKEN)[0] == 200
    assert told(server)["paused"] == ["all of it"]
    assert server.stop() == 0


def test_a_command_that_cannot_be_done_is_a_sentence(kafka_servers: str, source: str, start: Any, tmp_path: Path) -> None:
    server = start(configuration(kafka_servers, "app:handle", source, admin={"bind": "127.0.0.1:0"}), app=ECHO)
    server.says("assigned: ")
    wrong = gworkers("pause", "--route", "nothing", "-c", str(server.file), folder=server.folder)
    assert (wrong.returncode, wrong.stderr) == (64, "gworkers: there is no route nothing; there are main\n")
    alone = gworkers("scale", "--processes", "3", "-c", str(server.file), folder=server.folder)
    assert alone.returncode == 69
    assert "is a single process; write processes: 3 into it and restart it" in alone.stderr
    assert server.stop() == 0
    for name in ("pause", "resume", "quiet", "stacks"):
        gone = gworkers(name, "-c", str(server.file), folder=server.folder)
        assert (gone.returncode, gone.stderr) == (69, f"gworkers: no server runs {server.file}; start one with gworkers -c {server.file}\n")


def test_several_processes_are_operated_as_one(real_kafka: str, source: str, output: str, start: Any) -> None:
    config = configuration(real_kafka, "app:handle", source, output, admin={"bind": "127.0.0.1:0"})
    server = start({**config, "processes": 2}, app=ECHO)

    def all_told() -> list[dict[str, Any]]:
        shown = gworkers("status", "--json", "-c", str(server.file), folder=server.folder)  # 69 while some process is not there
        return [json.loads(line) for line in shown.stdout.splitlines()]

    until(lambda: sorted(len(one.get("partitions", ())) for one in all_told()) == [2, 2], what="two processes at work")
    paused = command(server, "pause", "--topic", source)
    assert paused == f"paused: {', '.join(f'{source}[{n}]' for n in range(4))}\npaused now: topic {source}\n"
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(100)))
    until(lambda: sum(one["lag"] or 0 for one in all_told()) == 100, what="the lag of what is paused")
    assert sum(one["done"] for one in all_told()) == 0
    wrong = gworkers("pause", "--route", "nothing", "-c", str(server.file), folder=server.folder)
    assert (wrong.returncode, wrong.stderr) == (64, "gworkers: there is no route nothing; there are main\n")
    command(server, "resume")
    until(lambda: sum(one["done"] for one in all_told()) == 100, what="all of it")
    assert command(server, "scale", "--processes", "4") == "4 processes from now on, 2 before\n"
    until(lambda: sorted(len(one.get("partitions", ())) for one in all_told()) == [1, 1, 1, 1], what="four processes at work")
    assert command(server, "scale", "--processes", "1") == "1 processes from now on, 4 before\n"
    until(lambda: [len(one.get("partitions", ())) for one in all_told()] == [4], what="one process that has it all")
    assert server.stop() == 0
    values = [m.value() for m in consume(real_kafka, output)]
    assert len(values) == len(set(values)) == 100
