"""Messages that kill the process: each is found, and nothing else is lost with it."""

from __future__ import annotations

import re
import signal
import struct
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gworkers.offsets.journal import ENTRY
from tests.support.servers import configuration, consume, create_topic, produce, unique, until

APP = """
import ctypes, os, time
def handle(value):
    time.sleep(0.002)
    if value == b"segfault":
        ctypes.string_at(0)
    if value == b"exit":
        os._exit(0)
    return value
"""


@pytest.mark.parametrize(
    ("executor", "deaths", "poison", "most"),
    [("thread", 3, [b"segfault"], 4), ("thread", 1, [b"segfault"], 2), ("greenlet", 3, [b"segfault", b"exit"], 6)],
)
def test_only_what_kills_the_process_is_dead_lettered(
    kafka_servers: str, source: str, output: str, start: Any, executor: str, tmp_path: Path, deaths: int, poison: list[bytes], most: int
) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    values = [b"%d" % n for n in range(5000)]
    for index, value in enumerate(poison):
        values[1700 + 900 * index] = value
    produce(kafka_servers, source, ((b"k%d" % (n % 50), value) for n, value in enumerate(values)))
    config = configuration(
        kafka_servers,
        "app:handle",
        source,
        output,
        executor=executor,
        order="key",
        dead_letter=dead,
        state_dir=str(tmp_path / "state"),
        poison={"deaths": deaths},
    )
    config["kafka"]["consumer"] = {"session_timeout_ms": 6000}
    died = 0
    while True:
        server = start(config, "--until-idle", "1s", app=APP)
        server.wait(90)
        if "everything settled" in server.log:
            break
        died += 1
        assert died <= most, server.log
    assert died >= deaths
    letters = consume(kafka_servers, dead)
    assert sorted(letter.value() for letter in letters) == sorted(poison)
    assert {dict(letter.headers())["gworkers-reason"] for letter in letters} == {b"killed"}
    results = Counter(record.value() for record in consume(kafka_servers, output))
    assert set(results) == set(values) - set(poison)


def test_a_state_directory_that_cannot_be_used_is_told(kafka_servers: str, source: str, output: str, start: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = configuration(kafka_servers, "app:handle", source, output, state_dir=str(tmp_path / "file" / "state"))
    server = start(config, app=APP)
    assert server.wait(20) == 78, server.log
    assert "file/state" in server.log
    assert "Not a directory; make it, or name another" in server.log
    assert "Traceback" not in server.log
    folder = tmp_path / "state" / config["kafka"]["group"]
    folder.mkdir(parents=True)
    (folder / "suspects.json").write_text("{")
    (folder / "running.0").write_bytes(b"\0" * 9000)
    config["state_dir"] = str(tmp_path / "state")
    server = start(config, app=APP)
    server.says("assigned: ")
    assert "suspects.json cannot be read: it is damaged" in server.log
    assert server.stop() == 0


BATCHES = """
import ctypes, os, time
GO = os.path.join(os.path.dirname(__file__), "go")
def handle(values):
    while not os.path.exists(GO):
        time.sleep(0.02)
    time.sleep(0.004)
    if b"poison" in values:
        ctypes.string_at(0)
    return list(values)
"""


@pytest.mark.parametrize("poison", [None, 4321], ids=["all innocent", "one guilty"])
def test_thousands_that_ran_in_batches_are_cleared_in_seconds(
    kafka_servers: str, source: str, output: str, start: Any, tmp_path: Path, poison: int | None
) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    values = [b"%d" % n for n in range(12_000)]
    if poison is not None:
        values[poison] = b"poison"
    produce(kafka_servers, source, ((None, value) for value in values))
    config = configuration(
        kafka_servers,
        "app:handle",
        source,
        output,
        concurrency=16,
        batch={"max_messages": 500, "max_wait": "200ms"},
        buffer={"messages": 20_000},
        dead_letter=dead,
        state_dir=str(tmp_path / "state"),
    )
    config["kafka"]["group_instance_id"] = unique("member")
    server = start(config, app=BATCHES)
    folder = tmp_path / "state" / config["kafka"]["group"]
    until(lambda: ran_in(folder) >= 16, what="16 batches that run")
    server.signal(signal.SIGKILL)
    server.wait()
    (tmp_path / "go").touch()
    deaths = 1
    while True:
        begun = time.monotonic()
        server = start(config, "--until-idle", "500ms", app=BATCHES)
        server.wait(90)
        if "everything settled" in server.log:
            break
        deaths += 1
        assert deaths <= 4, server.log
    assert int(server.says(r"(\d+) of them are suspected")[1]) > (7_000 if poison is None else 0)
    assert time.monotonic() - begun < 30
    assert "nothing else ran for" not in server.log
    assert not re.search(r"the hub was held .*(quarantine|suspects|journal)\.py", server.log)  # others': cores that are busy elsewhere
    results = Counter(record.value() for record in consume(kafka_servers, output))
    assert set(results) == set(values) - {b"poison"}
    assert [letter.value() for letter in consume(kafka_servers, dead)] == ([b"poison"] if poison is not None else [])


def ran_in(folder: Path) -> int:
    """How many entries of the journals name a batch of 500 that runs."""
    count = 0
    for path in folder.glob("running.*") if folder.exists() else ():
        data = path.read_bytes()
        for at in range(ENTRY, len(data) - ENTRY + 1, ENTRY):
            first, last = struct.unpack_from("=qq", data, at)
            count += first >= 0 and last >= first + 300
    return count
