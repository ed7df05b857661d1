"""Messages that kill the process: each is found, and nothing else is lost with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import configuration, consume, create_topic, produce, unique

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
    config["state_dir"] = str(tmp_path / "state")
    server = start(config, app=APP)
    assert server.wait(20) == 78, server.log
    assert "suspects.json is damaged; move it away, what it recorded is lost" in server.log
