"""``gworkers dead-letters`` on what servers have put there."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.support.commands import gworkers
from tests.support.servers import ENVIRONMENT, configuration, consume, create_topic, more_than, produce, unique

FAILS = """
class Busy(Exception): pass
def handle(value):
    if value["n"] % 3 == 0:
        raise Busy(f"number {value['n']}")
    if value["n"] % 3 == 1:
        raise ValueError("not\\nthis one")
    return value
"""


@pytest.fixture
def failed(kafka_servers: str, source: str, output: str, start: Any) -> Any:
    """A server that has run over 300 messages, of which 200 went to its dead letters."""

    def begin(count: int = 300) -> Any:
        dead = create_topic(kafka_servers, unique("dead"))
        produce(kafka_servers, source, ((b"k%d" % (n % 7), json.dumps({"n": n}).encode()) for n in range(count)), headers=[("own", b"1")])
        config = configuration(
            kafka_servers, "app:handle", source, output, decode="json", encode="json", dead_letter=dead, retry={"attempts": 1}
        )
        server = start(config, "--until-idle", "500ms", app=FAILS)
        assert server.wait() == 0, server.log
        return server, dead

    return begin


def command(server: Any, *arguments: str, status: int = 0) -> str:
    done = gworkers("dead-letters", *arguments, "-c", str(server.file), folder=server.folder)
    assert done.returncode == status, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def test_letters_are_counted_listed_and_shown(failed: Any, source: str) -> None:
    server, dead = failed()
    counts = [json.loads(line) for line in command(server, "count", "--json").splitlines()]
    assert {(c["exception"], c["count"]) for c in counts} == {("app.Busy", 100), ("builtins.ValueError", 100)}
    assert re.search("^     100 dead-", command(server, "count"), re.MULTILINE)
    listed = [json.loads(line) for line in command(server, "ls", "--json", "--exception", "Busy", "--key", "k3").splitlines()]
    assert sorted(json.loads(letter["value"])["n"] for letter in listed) == [n for n in range(300) if n % 3 == 0 and n % 7 == 3]
    one = listed[0]
    assert one["origin"]["topic"] == source
    assert one["headers"] == [["own", "1"]]
    assert (one["route"], one["reason"], one["attempts"], one["topic"]) == ("main", "failed", 1, dead)
    assert len(command(server, "ls", "--where", "value.n >= 290 and exception == 'app.Busy'", "--json").splitlines()) == 3
    assert len(command(server, "ls", "--since", "1h", "--limit", "5", "--json").splitlines()) == 5
    assert command(server, "ls", "--until", "1h") == "no dead letters\n"
    table = command(server, "ls")
    assert table.startswith(f"{dead}\nID           FAILED AT           ROUTE ")
    assert "ValueError: not this one" in table
    shown = command(server, "show", one["id"])
    assert f"from      {source}[" in shown
    assert "Traceback (most recent call last)" in shown
    assert shown.rstrip().endswith(one["value"])
    assert f"there is no letter 0@99999 in {dead}" in command(server, "show", "0@99999", status=64)
    assert "--where: 'n > 1' asks for n, and there are" in command(server, "ls", "--where", "n > 1", status=64)


def test_replayed_letters_go_where_they_came_from_once_and_are_listed_no_more(
    real_kafka: str, failed: Any, source: str, start: Any
) -> None:
    server, _ = failed()
    assert command(server, "replay", "--dry-run", "--exception", "Busy") == f"100 to {source}\n100 dead letters would be sent\n"
    assert command(server, "replay", "--exception", "Busy") == f"100 dead letters sent again to {source}\n"
    assert command(server, "replay", "--exception", "Busy") == "no dead letters\n"
    assert len(command(server, "ls", "--json").splitlines()) == 100
    assert len(command(server, "ls", "--json", "--all").splitlines()) == 200
    came = consume(real_kafka, source)
    assert len(came) == 400
    again = [m for m in came if json.loads(m.value())["n"] % 3 == 0]
    assert all(m.headers() == [("own", b"1")] for m in again)
    aside = create_topic(real_kafka, unique("aside"))
    assert command(server, "replay", "--to", aside, "--limit", "30") == f"30 dead letters sent again to {aside}\n"
    assert command(server, "drop", "--yes") == "70 dead letters dropped\n"
    assert command(server, "ls") == "no dead letters\n"
    assert len(consume(real_kafka, aside)) == 30


def test_a_replay_that_is_killed_and_run_again_sends_each_letter_once(real_kafka: str, failed: Any, source: str, output: str) -> None:
    server, _ = failed(3000)
    aside = create_topic(real_kafka, unique("aside"))
    line = [sys.executable, "-m", "gworkers", "dead-letters", "replay", "-c", str(server.file), "--to", aside]
    for seen in (1, 600, 1200):
        replay = subprocess.Popen([*line, "--rate", "600/s burst 100"], cwd=server.folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        try:
            more_than(real_kafka, aside, seen - 1, isolation="read_uncommitted")
        finally:
            replay.send_signal(signal.SIGKILL)
            replay.wait()
    assert subprocess.run(line, cwd=server.folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL, timeout=90).returncode == 0
    numbers = sorted(json.loads(m.value())["n"] for m in consume(real_kafka, aside))
    assert numbers == [n for n in range(3000) if n % 3 != 2]


def test_what_there_is_not_is_said(kafka_servers: str, source: str, start: Any) -> None:
    dead = unique("dead")
    server = start(configuration(kafka_servers, "app:handle", source, dead_letter=dead), "--until-idle", "300ms")
    assert server.wait() == 0, server.log
    assert command(server, "ls") == "no dead letters\n"
    assert f"there is no topic {dead}; no message has been dead-lettered to it" in command(server, "ls", "--topic", dead, status=69)
