"""``gworkers reset``, and ``gworkers lag --watch``."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import gworkers
from tests.support.servers import ROOT, committed, configuration, consume, create_topic, produce, unique, until

ECHO = "def handle(value):\n    return value\n"


@pytest.fixture
def one(kafka_servers: str) -> str:
    return create_topic(kafka_servers, unique("in"), partitions=1)


@pytest.fixture
def finished(kafka_servers: str, one: str, output: str, start: Any) -> Any:
    """A server that has handled ten messages and has stopped."""
    produce(kafka_servers, one, [(None, b"%d" % n) for n in range(10)], partition=0)
    server = start(configuration(kafka_servers, "app:handle", one, output), "--until-idle", "500ms", app=ECHO)
    assert server.wait(60) == 0, server.log
    return server


def reset(server: Any, *arguments: str) -> Any:
    return gworkers("reset", "-c", str(server.file), *arguments, folder=server.folder)


def group_of(server: Any) -> str:
    return str(yaml.safe_load(server.file.read_text())["kafka"]["group"])


def test_the_group_goes_on_where_it_was_set(kafka_servers: str, one: str, output: str, finished: Any, start: Any) -> None:
    dry = reset(finished, "--to", "beginning", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, f"{one}[0]: 10 -> 0 (-10)\n"), dry.stderr
    assert committed(kafka_servers, group_of(finished), one)[0] == 10
    done = reset(finished, "--to", "7", "--yes")
    assert done.stdout == f"{one}[0]: 10 -> 7 (-3)\nthe group {group_of(finished)} goes on there\n", done.stderr
    again = start(yaml.safe_load(finished.file.read_text()), "--until-idle", "500ms", app=ECHO)
    assert again.wait(60) == 0, again.log
    assert sorted(int(m.value()) for m in consume(kafka_servers, output)) == sorted([*range(10), 7, 8, 9])


@pytest.mark.parametrize(("where", "offset"), [("beginning", 0), ("end", 10), ("0", 0), ("1h", 0), ("0s", 10), ("2001-01-01", 0)])
def test_each_way_to_say_where(kafka_servers: str, one: str, finished: Any, where: str, offset: int) -> None:
    done = reset(finished, "--to", where, "--yes", "--topic", one, "--partition", "0")
    assert done.returncode == 0, done.stderr
    assert committed(kafka_servers, group_of(finished), one)[0] == offset


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--to", "yesterday", "--yes"), 64, "--to 'yesterday' is no place; write beginning, end, an offset, a moment as 2026-11-26T03:00"),
        (("--to", "11", "--yes"), 64, "has the offsets 0 to 10, and not 11"),
        (("--to", "end", "--yes", "--topic", "nothing"), 64, "no route consumes such a partition; gworkers lag shows those there are"),
        (("--to", "end", "--yes", "--partition", "1"), 64, "no route consumes such a partition"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(finished: Any, arguments: tuple[str, ...], status: int, told: str) -> None:
    done = reset(finished, *arguments)
    assert done.returncode == status
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_refused_while_a_member_is_active(kafka_servers: str, one: str, output: str, start: Any) -> None:
    server = start(configuration(kafka_servers, "app:handle", one, output), app=ECHO)
    server.says("assigned: ")
    done = reset(server, "--to", "end", "--yes")
    assert (done.returncode, done.stderr) == (
        69,
        f"gworkers: a member of the group {group_of(server)} is active, and would go on where it is; stop all of them first, "
        "or use gworkers seek, which has running ones go on elsewhere\n",
    )
    assert server.stop() == 0


@pytest.mark.parametrize("with_state", [True, False])
def test_after_a_crash_it_is_done_at_once_and_means_what_it_says(
    kafka_servers: str, one: str, output: str, start: Any, tmp_path: Path, with_state: bool
) -> None:
    """The dead member is let go of, and what it had noted as finished beyond the very commit that is
    set now runs again."""
    more = {"state_dir": str(tmp_path / "state")} if with_state else {}
    config = {**configuration(kafka_servers, "app:handle", one, output, commit={"interval": "1h"}), **more}
    server = start(config, app=ECHO)
    server.says("assigned: ")
    until(lambda: committed(kafka_servers, group_of(server), one).get(0) == 0, what="the first commit")
    produce(kafka_servers, one, [(None, b"%d" % n) for n in range(5)], partition=0)
    until(lambda: len(consume(kafka_servers, output)) == 5, what="all results")
    server.process.kill()
    server.process.wait()
    done = reset(server, "--to", "0", "--yes")
    assert done.returncode == 0, done.stderr
    again = start(config, "--until-idle", "500ms", app=ECHO)
    assert again.wait(60) == 0, again.log
    assert sorted(int(m.value()) for m in consume(kafka_servers, output)) == sorted([*range(5), *range(5)])


def test_without_yes_it_asks(kafka_servers: str, one: str, finished: Any) -> None:
    command = [sys.executable, "-m", "gworkers", "reset", "-c", str(finished.file), "--to", "beginning"]
    done = subprocess.run(command, input="n\n", capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode != 0
    assert f"Set these for the group {group_of(finished)}? [y/N]" in done.stdout
    assert committed(kafka_servers, group_of(finished), one)[0] == 10


def test_lag_is_shown_again_and_again(finished: Any, one: str, tmp_path: Path) -> None:
    output = tmp_path / "shown"
    with output.open("w") as file:
        command = [sys.executable, "-u", "-m", "gworkers", "lag", "-c", str(finished.file), "--watch", "0.5"]
        watching = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
        try:
            until(lambda: output.read_text().count(one) >= 3, what="three looks")
            watching.send_signal(signal.SIGINT)
            assert watching.wait(20) == 0, output.read_text()
        finally:
            watching.kill()
            watching.wait()
    assert "Traceback" not in output.read_text()
