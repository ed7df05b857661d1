"""Several processes under one master: started, replaced, asked, and ended together, under load, with
nothing lost, repeated or out of order but where a process was killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.support.commands import gworkers
from tests.support.load import load
from tests.support.servers import Running, configuration, consume, produce, unique, until

APP = """
import os, time
def handle(value):
    time.sleep(0.01)
    return {"n": value["n"], "key": value["key"], "pid": os.getpid()}
"""
KEYS = 100
RATE = 400  # messages a second


def settings(kafka: str, source: str, output: str, **more: Any) -> dict[str, Any]:
    config = configuration(kafka, "app:handle", source, output, decode="json", encode="json", order="key", concurrency=32)
    return {**config, "processes": 2, **more}


def numbered(number: int) -> tuple[str, str]:
    key = f"key-{number % KEYS}"
    return key, json.dumps({"n": number, "key": key})


def results(kafka: str, output: str) -> list[dict[str, Any]]:
    return [json.loads(m.value()) for m in consume(kafka, output)]


def workers(server: Running) -> dict[int, int]:
    """number → pid of those whose process says that it has begun and lives."""
    found = {int(n): int(pid) for n, pid in re.findall(r"^\[(\d+)\] .* INFO gworkers: gworkers \S+, pid (\d+),", server.log, re.MULTILINE)}
    return {number: pid for number, pid in found.items() if Path(f"/proc/{pid}").exists()}


def joined(server: Running, count: int = 2) -> dict[int, int]:
    """Wait until as many processes have begun, and all partitions are somebody's."""
    until(lambda: len(workers(server)) == count and server.log.count("assigned: ") >= 1, 40, f"{count} processes")
    return workers(server)


def judge(kafka: str, output: str, count: int, twice: int = 0) -> None:
    until(lambda: len({value["n"] for value in results(kafka, output)}) == count, 60, "everything")
    found = results(kafka, output)
    assert len(found) - count <= twice
    last: dict[str, int] = {}
    seen: set[int] = set()
    for value in found:
        if value["n"] not in seen:
            assert value["n"] > last.get(value["key"], -1), "out of order"
            seen.add(value["n"])
            last[value["key"]] = value["n"]


def ended(pids: Iterator[int] | list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_two_processes_share_the_work_and_end_together(real_kafka: str, source: str, output: str, start: Any) -> None:
    server = start(settings(real_kafka, source, output), app=APP)
    pids = joined(server)
    assert set(pids) == {0, 1}
    until(lambda: len(re.findall(r"assigned: \S+\[", server.log)) >= 2, 40, "both have partitions")
    with load(real_kafka, source, RATE, numbered) as sent:
        until(lambda: len({value["pid"] for value in results(real_kafka, output)}) == 2, 30, "results of both")
    judge(real_kafka, output, sent[0])
    assert server.stop() == 0, server.log
    assert ended(list(pids.values()))
    assert "all processes have ended" in server.log
    assert all(line.startswith(("[", "20")) for line in server.log.splitlines())


def test_until_idle_ends_all_of_them(real_kafka: str, source: str, output: str, start: Any) -> None:
    produce(real_kafka, source, ((b"k%d" % (n % 10), json.dumps({"n": n, "key": f"k{n % 10}"}).encode()) for n in range(500)))
    server = start(settings(real_kafka, source, output), "--until-idle", "1s", app=APP)
    assert server.wait(60) == 0, server.log
    judge(real_kafka, output, 500)


def test_one_that_is_killed_is_replaced_and_at_work_again(real_kafka: str, source: str, output: str, start: Any) -> None:
    server = start(settings(real_kafka, source, output), app=APP)
    pids = joined(server)
    with load(real_kafka, source, RATE, numbered) as sent:
        time.sleep(2)  # under load
        os.kill(pids[0], signal.SIGKILL)
        server.says(r"process 0 \(pid \d+\) was ended by SIGKILL; another takes its place")
        begun = time.monotonic()
        until(lambda: workers(server).get(0, pids[0]) != pids[0], 20, "the next one")
        fresh = workers(server)[0]
        until(lambda: fresh in {value["pid"] for value in results(real_kafka, output)}, 30, "its first result")
        took = time.monotonic() - begun
        time.sleep(1)
    judge(real_kafka, output, sent[0], twice=4 * 32)
    assert took < 20, took  # the session, which is not waited for, is 30 s
    assert server.stop() == 0


def test_hup_replaces_them_one_by_one_and_a_bad_configuration_changes_nothing(
    real_kafka: str, source: str, output: str, start: Any
) -> None:
    config = settings(real_kafka, source, output)
    server = start(config, app=APP)
    pids = joined(server)
    good = server.file.read_text()
    with load(real_kafka, source, RATE, numbered) as sent:
        time.sleep(1)
        server.file.write_text(good + "no_such_key: 1\n")
        server.signal(signal.SIGHUP)
        server.says("the configuration is as it was, because the new one is not right")
        server.says(r"no_such_key")
        assert workers(server) == pids
        server.file.write_text(good)
        server.signal(signal.SIGHUP)
        until(lambda: len(workers(server)) == 2 and not set(workers(server).values()) & set(pids.values()), 60, "two new ones")
        told = re.findall(r"^\[(\d)\] .*(the master asks|INFO gworkers: gworkers )", server.log, re.MULTILINE)[2:]
        assert [(number, "asks" in what) for number, what in told] == [("0", True), ("0", False), ("1", True), ("1", False)]
        time.sleep(1)
    judge(real_kafka, output, sent[0])
    assert server.stop() == 0, server.log


def test_ttin_and_ttou_are_one_more_and_one_less(real_kafka: str, source: str, output: str, start: Any) -> None:
    server = start(settings(real_kafka, source, output), app=APP)
    joined(server)
    with load(real_kafka, source, RATE, numbered) as sent:
        server.signal(signal.SIGTTIN)
        until(lambda: len(workers(server)) == 3, 30, "three")
        time.sleep(1)
        for left in (2, 1):
            server.signal(signal.SIGTTOU)
            until(lambda left=left: len(workers(server)) == left, 30, "one less")  # type: ignore[misc]
        server.signal(signal.SIGTTOU)
        server.says("1 processes from now on, 1 before")
        time.sleep(1)
        assert len(workers(server)) == 1
    judge(real_kafka, output, sent[0])
    assert server.stop() == 0, server.log


def test_a_supervisor_that_tells_every_process_to_stop_is_no_second_signal(real_kafka: str, source: str, output: str, start: Any) -> None:
    """As systemd does with KillMode=control-group."""
    server = start(settings(real_kafka, source, output), app=APP)
    pids = joined(server)
    with load(real_kafka, source, RATE, numbered) as sent:
        time.sleep(1.5)
        for pid in (server.process.pid, *pids.values()):
            os.kill(pid, signal.SIGTERM)
        assert server.wait(30) == 0, server.log
    assert server.log.count("everything settled") == 2
    server = start(settings(real_kafka, source, output) | {"kafka": _kafka_of(server)}, app=APP)
    judge(real_kafka, output, sent[0])
    assert server.stop() == 0


def test_a_signal_to_one_that_has_ended_as_it_should_changes_nothing(real_kafka: str, source: str, output: str, start: Any) -> None:
    """It has said so, and Python's own end takes a while."""
    server = start(settings(real_kafka, source, output), app=APP + "import atexit\natexit.register(time.sleep, 3)\n")
    pids = joined(server)
    server.signal(signal.SIGTERM)
    until(lambda: server.log.count("everything settled") == 2, 30, "the last words of both")
    for pid in pids.values():
        os.kill(pid, signal.SIGTERM)
    assert server.wait(30) == 0, server.log


def test_when_the_master_dies_they_drain(real_kafka: str, source: str, output: str, start: Any) -> None:
    server = start(settings(real_kafka, source, output), app=APP)
    pids = joined(server)
    with load(real_kafka, source, RATE, numbered) as sent:
        time.sleep(1.5)
        server.signal(signal.SIGKILL)
        server.wait()
        until(lambda: ended(list(pids.values())), 30, "the end of both")
    server = start(settings(real_kafka, source, output) | {"kafka": _kafka_of(server)}, app=APP)
    judge(real_kafka, output, sent[0])
    assert server.stop() == 0


def _kafka_of(server: Running) -> Any:
    return yaml.safe_load(server.file.read_text())["kafka"]


@pytest.mark.parametrize("signals", [(signal.SIGQUIT,), (signal.SIGTERM, signal.SIGTERM)])
def test_it_ends_at_once_when_it_is_asked_to(real_kafka: str, source: str, output: str, start: Any, signals: tuple[int, ...]) -> None:
    produce(real_kafka, source, [(b"k", b'{"n": 1, "key": "k"}')])
    app = "import time\ndef handle(value):\n    time.sleep(60)\n"
    server = start(settings(real_kafka, source, output), app=app)
    pids = joined(server)
    time.sleep(1)
    begun = time.monotonic()
    for number in signals:
        server.signal(number)
        time.sleep(0.3)
    assert server.wait(20) == 1
    assert time.monotonic() - begun < 10
    assert ended(list(pids.values()))


def test_those_that_die_at_once_again_and_again_end_it_with_70_and_their_last_words(
    real_kafka: str, source: str, output: str, start: Any
) -> None:
    app = "import os, sys\nprint('the disk is on fire', file=sys.stderr, flush=True)\nos._exit(13)\n"
    server = start(settings(real_kafka, source, output), app=app)
    assert server.wait(60) == 70
    assert re.search(r"process \d \(pid \d+\) ended with 13, 6 times in a row at once; all of them end", server.log)
    assert re.search(r"gworkers.master:   the disk is on fire", server.log)


def test_what_ends_one_for_good_ends_all(real_kafka: str, source: str, output: str, start: Any) -> None:
    server = start(settings(real_kafka, source, output, app={"setup": "app:setup"}), app="def setup():\n    raise ValueError('no')\n")
    assert server.wait(30) == 78
    assert "so all of them do" in server.log


def test_titles_say_what_each_process_is_doing(real_kafka: str, source: str, output: str, start: Any) -> None:
    pytest.importorskip("setproctitle")
    config = settings(real_kafka, source, output)
    group = config["kafka"]["group"]
    server = start(config, app=APP)
    joined(server)
    produce(real_kafka, source, [(None, b'{"n": 1, "key": "k"}')] * 20)

    def titles() -> list[str]:
        found = subprocess.run(["ps", "-ww", "-o", "args=", "--ppid", str(server.process.pid)], capture_output=True, text=True)
        return sorted(line.strip() for line in found.stdout.splitlines() if "worker" in line)

    assert Path(f"/proc/{server.process.pid}/cmdline").read_text().startswith(f"gworkers: master, {server.file}")

    def done() -> int:
        return sum(int(number) for title in titles() for number in re.findall(r"done (\d+)", title))

    until(lambda: done() == 20, 30, "20 done, as the titles say")
    wanted = [f"gworkers: worker {number} of {group}" for number in (0, 1)]
    until(lambda: [title.partition(" [")[0] for title in titles()] == wanted, what="the titles of both")


def test_one_address_answers_for_all(real_kafka: str, source: str, output: str, start: Any) -> None:
    config = settings(real_kafka, source, output, admin={"bind": "127.0.0.1:0", "read_token": "0123456789abcdef"})
    server = start(config, app=APP)
    address = server.says(r"admin at (127\.0\.0\.1:\d+)")[1]
    joined(server)
    assert requests.get(f"http://{address}/healthz", timeout=5).status_code == 401
    token = {"Authorization": "Bearer 0123456789abcdef"}

    def ready() -> bool:
        answer = requests.get(f"http://{address}/readyz", headers=token, timeout=5)
        return answer.status_code == 200 and all(facts["ok"] for facts in answer.json()["processes"].values())

    until(ready, 30, "both are ready")
    assert requests.get(f"http://{address}/healthz", headers=token, timeout=5).json()["ok"] is True
    found = requests.get(f"http://{address}/status", headers=token, timeout=5).json()
    assert (found["ok"], set(found["processes"])) == (True, {"0", "1"})
    shown = gworkers("status", "-c", str(server.file), folder=server.folder)
    assert shown.returncode == 0, shown.stderr
    assert {line[:3] for line in shown.stdout.splitlines()} == {"[0]", "[1]"}
    text = requests.get(f"http://{address}/metrics", headers=token, timeout=5).text
    assert 'gworkers_done_messages_total{process="0",route="main"} 0' in text
    assert 'gworkers_done_messages_total{process="1",route="main"} 0' in text
    assert 'gworkers_handler_seconds_bucket{le="0.001",process="1",route="main"} 0' in text
    assert text.count("# TYPE gworkers_done_messages_total") == 1
    assert "gworkers_processes 2" in text
    assert server.stop() == 0, server.log


def test_two_processes_need_names_of_their_own(real_kafka: str, source: str, output: str, start: Any) -> None:
    config = settings(real_kafka, source, output, delivery="exactly-once", instance="fixed")
    server = start(config, app=APP)
    assert server.wait(20) == 78
    assert "instance: 2 processes need a name each; write %(process)s into it" in server.log


def test_exactly_once_holds_with_two(real_kafka: str, source: str, output: str, start: Any) -> None:
    server = start(settings(real_kafka, source, output, delivery="exactly-once"), app=APP)
    pids = joined(server)
    with load(real_kafka, source, RATE, numbered) as sent:
        time.sleep(1.5)
        with suppress(ProcessLookupError):
            os.kill(pids[1], signal.SIGKILL)
        until(lambda: workers(server).get(1, pids[1]) != pids[1], 20, "the next one")
        time.sleep(1.5)
    judge(real_kafka, output, sent[0])
    assert Counter(value["n"] for value in results(real_kafka, output)).most_common(1)[0][1] == 1
    assert server.stop() == 0, server.log


def test_the_first_look_runs_in_two(start: Any, tmp_path: Path) -> None:
    config = {
        "kafka": {"bootstrap_servers": "embedded", "group": unique("group"), "embedded": {"samples": [{"file": "lines", "topic": "in"}]}},
        "processes": 2,
        "concurrency": 4,
        "routes": {"main": {"topics": ["in"], "handler": "app:handle"}},
    }
    (tmp_path / "lines").write_text("a\n")
    config["kafka"]["embedded"]["samples"][0]["file"] = str(tmp_path / "lines")  # type: ignore[index]
    server = start(config, app="def handle(value):\n    print('handled', value)\n")
    server.says(r"\[\d\] handled b'a'", 90)
    until(lambda: server.log.count("assigned: ") == 2, 40, "both have joined")
    assert server.stop() == 0, server.log


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_is_replaced_after_so_many_messages(
    real_kafka: str, source: str, output: str, start: Any, executor: str, processes: int
) -> None:
    config = settings(real_kafka, source, output, recycle={"messages": 300}, executor=executor)
    server = start(config | {"processes": processes}, app=APP)
    server.says("assigned: ")
    with load(real_kafka, source, RATE, numbered) as sent:
        until(lambda: server.log.count("recycle.messages: ") >= 3, 60, "three times")
    judge(real_kafka, output, sent[0])
    assert server.stop() == 0, server.log
    if processes == 1:
        assert len({value["pid"] for value in results(real_kafka, output)}) == 1, "it stays the same process to its supervisor"
