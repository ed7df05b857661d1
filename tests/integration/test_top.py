"""``gworkers top`` in a real terminal."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import gworkers
from tests.support.debian import NotHere
from tests.support.servers import configuration, create_topic, produce, unique, until
from tests.support.terminal import Terminal

#: Three messages stand until the test ends them, one fails for good.
APP = """
import os, time

def handle(value):
    if value == b"bad":
        raise ValueError("no such product [red]\\x1b[2J\\u202e")
    while value != b"good" and not os.path.exists("go"):
        time.sleep(0.05)
    return value
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Any]:
    opened: list[Terminal] = []

    def open_one(file: Path, command: str = "top --interval 0.3", **how: Any) -> Terminal:
        try:
            opened.append(Terminal(tmp_path, [sys.executable, "-m", "gworkers", *command.split(), "-c", str(file)], **how))
        except NotHere as why:
            pytest.skip(str(why))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def serving(kafka: str, source: str, output: str, start: Any, **more: Any) -> Any:
    dead = create_topic(kafka, unique("dead"))
    retry = {"attempts": 2, "backoff": "100ms"}
    admin = {"bind": "127.0.0.1:0"}
    server = start(configuration(kafka, "app:handle", source, output, dead_letter=dead, retry=retry, admin=admin, **more), app=APP)
    server.says("assigned: ")
    produce(kafka, source, [(None, b"good")] * 20 + [(None, b"bad")])
    produce(kafka, source, [(None, b"slow")] * 3, partition=2)
    return server


def test_it_shows_routes_partitions_what_runs_and_what_failed(
    kafka_servers: str, source: str, output: str, start: Any, terminal: Any
) -> None:
    server = serving(kafka_servers, source, output, start)
    screen = terminal(server.file)
    shown = screen.shows("done 21")
    assert "running 3 of" in shown
    assert re.search(r"main +\d+ +[▁█]+", shown), shown
    screen.type("2")
    shown = screen.shows(f"{source}[2]")
    assert all(len(line) <= 80 for line in shown.splitlines())
    screen.type("3")
    shown = screen.shows("app.py:8 handle: tim")
    assert shown.count(f"{source}[2]@") == 3
    screen.type("4")
    shown = screen.shows("dead-lettered")
    assert "ValueError: no such" in shown, shown
    screen.resize(200, 40)
    shown = screen.shows("no such product [red]\\x1b[2J\\u202e")
    assert shown.count("retried") == 1
    screen.type("s", "/")
    screen.shows("rows that contain this")
    screen.type("d", "e", "a", "d", "Enter")
    screen.shows("rows with dead; Esc: all")
    until(lambda: "retried " not in screen.screen(), what="the filter")
    assert "when ▼" in screen.screen()
    screen.type("Escape")
    screen.shows("retried ")
    (server.folder / "go").touch()
    screen.type("1")
    screen.shows("done 24")
    screen.type("q")
    assert until(lambda: screen.ended() is not None and [screen.ended()], what="its end") == [0]
    assert server.stop() == 0


def test_it_pauses_and_resumes_what_the_cursor_is_at(kafka_servers: str, source: str, output: str, start: Any, terminal: Any) -> None:
    server = serving(kafka_servers, source, output, start)
    screen = terminal(server.file, columns=120)
    screen.shows("running 3 of")
    screen.type("2")
    screen.shows(f"{source}[0]")
    screen.type("/")
    screen.shows("rows that contain this")
    screen.type("[", "1", "]", "Enter")
    screen.shows("rows with [1]; Esc: all")
    until(lambda: f"{source}[0]" not in screen.screen(), what="the filter")
    screen.type("p")
    screen.shows(f"pause topic {source}, partition 1? y: yes, Esc: no")
    assert "an operator has paused it" not in screen.screen()
    screen.type("y")
    screen.shows(f"paused: {source}[1]")
    screen.shows("an operator has paused it")
    assert "an operator: pause" in server.log
    screen.type("r")
    screen.shows("resume topic")
    screen.type("y")
    screen.shows("going on: ")
    until(lambda: "an operator has paused it" not in screen.screen(), what="the end of the pause")


def test_a_server_that_goes_is_said_and_found_again(kafka_servers: str, source: str, output: str, start: Any, terminal: Any) -> None:
    server = serving(kafka_servers, source, output, start)
    screen = terminal(server.file, env={"NO_COLOR": "1"})
    screen.shows("running 3 of")
    used = {int(number) for number in re.findall("[34]8;5;(\\d+)", screen.screen(colours=True))}
    assert all(number in (16, 59, 102, 145, 188, 231) or number >= 232 for number in used), f"{used} has others than greys"
    server.process.kill()
    screen.shows("cannot be asked: Connection refused; looking")
    (server.folder / "go").touch()
    again = start(server.file.read_text(), app=APP)
    again.says("assigned: ")
    screen.shows("well: ")
    assert again.stop() == 0


def test_without_a_terminal_it_is_a_sentence(kafka_servers: str, source: str, output: str, start: Any) -> None:
    server = serving(kafka_servers, source, output, start)
    done = gworkers("top", "-c", server.file, folder=server.folder)
    assert (done.returncode, done.stderr) == (64, "gworkers: top needs a terminal; gworkers status, stacks and lag print the same once\n")
    begun = time.monotonic()
    done = gworkers("top", "-c", server.folder / "none.yaml", folder=server.folder)
    assert done.returncode == 78, done.stderr
    assert time.monotonic() - begun < 20


def test_tables_are_drawn_for_who_looks_and_plain_for_a_pipe(
    kafka_servers: str, source: str, output: str, start: Any, terminal: Any
) -> None:
    server = serving(kafka_servers, source, output, start)
    server.says("failed for good")

    def listed() -> str:
        return gworkers("dead-letters", "ls", "-c", server.file, folder=server.folder).stdout

    until(lambda: "ValueError" in listed(), what="the letter")
    assert "─" not in listed()
    assert "\x1b" not in listed()
    screen = terminal(server.file, command="dead-letters ls", columns=160)
    shown = screen.shows("ValueError: no such product [red]\\x1b[2J\\u202e")
    assert "────" in shown
    assert until(lambda: screen.ended() is not None and [screen.ended()], what="its end") == [0]
    screen.close()
    screen = terminal(server.file, command="dead-letters replay", columns=100)
    shown = screen.shows("1 dead letters sent again to")
    assert re.search(r"replaying ━+ 1/1", shown), shown
