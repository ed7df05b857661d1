"""Surroundings that are not as they should be: each is a sentence, or no matter at all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
import requests
import yaml

from tests.support.broker import free_port
from tests.support.commands import gworkers
from tests.support.servers import ENVIRONMENT, configuration, consume, create_topic, produce, unique, until

NOTHING = "def handle(value):\n    return value\n"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any, str], Path]:
    """Writes a configuration and its application. Returns their folder."""

    def write(config: Any, app: str) -> Path:
        (tmp_path / "app.py").write_text(app)
        (tmp_path / "app.yaml").write_text(yaml.safe_dump(config))
        return tmp_path

    return write


def test_an_application_that_patches_is_told_where(kafka_servers: str, source: str, start: Any, tmp_path: Path) -> None:
    (tmp_path / "legacy.py").write_text("import gevent.monkey\n\ngevent.monkey.patch_all()\n")
    server = start(configuration(kafka_servers, "app:handle", source), app=f"import legacy\n{NOTHING}")
    assert server.wait(20) == 78, server.log
    done = gworkers("check", "-c", "app.yaml", folder=tmp_path)
    assert done.returncode == 78
    for told in (server.log, done.stderr):
        assert f"executor: {tmp_path}/legacy.py:3 calls gevent.monkey.patch_all, and patched locks hang" in told
        assert "Traceback" not in told


def test_an_application_that_disables_all_loggers_does_not_silence_the_server(kafka_servers: str, source: str, start: Any) -> None:
    app = "import logging.config\nlogging.config.dictConfig({'version': 1})\n"
    app += "def setup():\n    logging.config.dictConfig({'version': 1})\ndef handle(value):\n    raise ValueError('as asked')\n"
    produce(kafka_servers, source, [(None, b"1")])
    config = configuration(kafka_servers, "app:handle", source, retry={"attempts": 1}, app={"setup": "app:setup"})
    server = start(config, app=app)
    assert server.wait(30) == 70, server.log
    assert "assigned: " in server.log
    assert "failed for good: ValueError: as asked" in server.log


def test_an_application_that_takes_all_handlers_away_still_says_why_it_ends(kafka_servers: str, source: str, start: Any) -> None:
    app = "import logging\ndef handle(value):\n    logging.getLogger().handlers.clear()\n"
    app += "    logging.lastResort = None\n    raise ValueError('x')\n"
    produce(kafka_servers, source, [(None, b"1")])
    server = start(configuration(kafka_servers, "app:handle", source, retry={"attempts": 1}), app=app)
    assert server.wait(30) == 70
    assert re.search(r"^gworkers: the message at .* failed for good: ValueError: x", server.log, re.MULTILINE)


@pytest.mark.parametrize("trouble", ["not there", "a file", "read-only"])
def test_a_server_runs_where_its_file_cannot_be_written(trouble: str, kafka_servers: str, source: str, start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if trouble == "a file":
        folder.mkdir()
        (folder / f"gworkers-{os.getuid()}").write_text("in the way")
    elif trouble == "read-only":
        folder = Path("/proc")
    server = start(configuration(kafka_servers, "app:handle", source), app=NOTHING, env={"XDG_RUNTIME_DIR": str(folder)})
    server.says("assigned: ")
    assert f"other commands will not find this server, because {folder}" in server.log
    assert "Traceback" not in server.log
    assert server.stop() == 0


SLOW_SETUP = "import time\ndef setup():\n    print('now', flush=True)\n    time.sleep(60)\n"
SLOW_STARTS: dict[str, tuple[dict[str, Any], str]] = {
    "Kafka is away": ({"kafka": {"bootstrap_servers": ""}}, NOTHING),
    "in setup": (
        {"app": {"setup": "app:setup"}},
        SLOW_SETUP + NOTHING,
    ),
    "in an import": ({}, f"import time\nprint('now', flush=True)\ntime.sleep(60)\n{NOTHING}"),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", SLOW_STARTS)
def test_a_signal_while_it_starts_ends_it_at_once(where: str, number: int, kafka_servers: str, source: str, start: Any) -> None:
    more, app = SLOW_STARTS[where]
    config = configuration(kafka_servers, "app:handle", source)
    for section, keys in more.items():
        config.setdefault(section, {}).update(keys)
    if where == "Kafka is away":
        config["kafka"]["bootstrap_servers"] = f"127.0.0.1:{free_port()}"
    server = start(config, app=app)
    server.says("cannot be reached" if where == "Kafka is away" else "now")
    begun = time.monotonic()
    server.signal(number)
    assert server.wait(10) == 0, server.log
    assert time.monotonic() - begun < 3
    assert "stopped before it had begun" in server.log
    assert "Traceback" not in server.log


def catches_sigterm(pid: int) -> bool:
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_signal_at_any_moment_of_the_start_ends_it_with_0(kafka_servers: str, source: str, start: Any) -> None:
    server = start(configuration(kafka_servers, "app:handle", source), app=NOTHING)
    begun = time.monotonic()
    server.says("assigned: ")
    whole = time.monotonic() - begun
    assert server.stop() == 0
    for step in range(8):
        server = start(configuration(kafka_servers, "app:handle", source), app=NOTHING)
        until(partial(catches_sigterm, server.process.pid), what="Python has begun to run the program")
        time.sleep(step * whole / 8)
        assert server.stop(20) == 0, server.log
        assert "Traceback" not in server.log


def test_a_member_that_stands_by_is_ready_and_idle(real_kafka: str, start: Any) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=1)
    config = configuration(real_kafka, "app:handle", source, admin={"bind": "127.0.0.1:0"})
    first = start(config, app=NOTHING, name="first.yaml")
    first.says("assigned: ")
    second = start(config, app=NOTHING, name="second.yaml")

    def ready(server: Any) -> bool:
        address = server.says(r"admin at ([0-9.:]+)")[1]
        return bool(requests.get(f"http://{address}/readyz", timeout=5).status_code == 200)

    until(lambda: ready(first) and ready(second), what="both ready")
    counts = sorted(
        requests.get(f"http://{s.says(r'admin at ([0-9.:]+)')[1]}/readyz", timeout=5).json()["partitions"] for s in (first, second)
    )
    assert counts == [0, 1]
    third = start(config, "--until-idle", "500ms", app=NOTHING, name="third.yaml")
    assert third.wait(30) == 0, third.log


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", ">&- 2>&- <&-"])
def test_a_server_needs_nobody_to_listen(stderr: str, kafka_servers: str, source: str, output: str, written: Any) -> None:
    folder = written(configuration(kafka_servers, "app:handle", source, output), NOTHING)
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(50)))
    line = f'exec "{sys.executable}" -m gworkers run -c app.yaml --until-idle 500ms {stderr}'
    done = subprocess.run(["sh", "-c", line], cwd=folder, env=ENVIRONMENT, timeout=60, stdout=subprocess.DEVNULL)
    assert done.returncode == 0
    assert len(consume(kafka_servers, output)) == 50


@pytest.mark.parametrize("command", ["check", "run"])
def test_python_without_assertions_is_a_sentence(command: str, kafka_servers: str, source: str, written: Any) -> None:
    folder = written(configuration(kafka_servers, "app:handle", source), NOTHING)
    done = gworkers(command, "-c", "app.yaml", folder=folder, env={"PYTHONOPTIMIZE": "1"})
    assert done.returncode == 69, done.stderr
    assert "Python runs with -O or PYTHONOPTIMIZE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_child_process_of_a_handler_ends_at_a_signal(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(None, b"1")])
    app = """
import multiprocessing, time
def handle(value):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(20)
    return str(child.exitcode)
"""
    server = start(configuration(kafka_servers, "app:handle", source, output, encode="text"), "--until-idle", "500ms", app=app)
    assert server.wait(40) == 0, server.log
    assert [message.value() for message in consume(kafka_servers, output)] == [b"-15"]


def test_a_delay_that_lasts_for_years_is_told_with_its_message(real_kafka: str, start: Any) -> None:
    source = create_topic(real_kafka, unique("in"), message_timestamp_after_max_ms=str(2**62))
    produce(real_kafka, source, [(b"k", b"1")], timestamp=int(time.time() * 1_000_000))
    server = start(configuration(real_kafka, "app:handle", source, delay="10s"), app=NOTHING)
    found = server.says(r"\[\S+ \d@0 key=k\]: waits ([\d]+) days for its turn, and holds up its partition: its timestamp is \d{16}")
    assert int(found[1]) > 10_000_000
    assert server.stop() == 0


LINGERS = """
import threading, time
def refresh():
    while True:
        time.sleep(0.1)
def setup():
    threading.Thread(target=refresh, name="refresher").start()
def handle(value):
    return value
"""


def test_a_thread_of_the_application_holds_the_end_up_for_no_longer_than_the_grace(
    kafka_servers: str, source: str, start: Any, executor: str
) -> None:
    config = configuration(kafka_servers, "app:handle", source, app={"setup": "app:setup"}, shutdown={"grace": "5s"}, executor=executor)
    server = start(config, app=LINGERS)
    server.says("assigned: ")
    begun = time.monotonic()
    assert server.stop(30) == 0, server.log
    assert 4 < time.monotonic() - begun < 9
    assert "everything settled" in server.log
    assert re.search(
        r"^gworkers: the thread 'refresher'.* still runs and holds up the end of the process, for 5 s", server.log, re.MULTILINE
    )
    assert re.search(r"^gworkers: the process ends, though the thread 'refresher'.* has not ended", server.log, re.MULTILINE)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("ulimit -n 16", r"this process may have 16 files and connections open \(ulimit -n\), and a server needs \d+; raise the limit"),
        (
            "ulimit -v 1000000",
            r"concurrency 512 needs as many threads, and only \d+ can be started: this process may have 976 MiB of addresses "
            r"\(ulimit -v\), of which each thread takes its stack \(ulimit -s\); raise the limit, or lower concurrency",
        ),
    ],
    ids=["descriptors", "threads"],
)
def test_too_few_descriptors_or_threads_are_told_with_both_numbers(
    limit: str, told: str, kafka_servers: str, source: str, written: Any
) -> None:
    folder = written(configuration(kafka_servers, "app:handle", source, concurrency=512), NOTHING)
    line = f'{limit}; exec "{sys.executable}" -m gworkers run -c app.yaml --until-idle 500ms'
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=ENVIRONMENT, timeout=60, capture_output=True, text=True)
    assert done.returncode == 69, done.stderr
    assert re.search(told, done.stderr)
    assert "Traceback" not in done.stderr
    assert "please report it" not in done.stderr


def test_a_group_that_shares_out_in_another_way_is_told_with_the_option(real_kafka: str, source: str, start: Any) -> None:
    config = configuration(real_kafka, "app:handle", source)
    settings = {"bootstrap.servers": real_kafka, "group.id": config["kafka"]["group"], "partition.assignment.strategy": "range"}
    other = confluent_kafka.Consumer(settings)
    try:
        other.subscribe([source])
        until(lambda: other.poll(0.1) or other.assignment(), what="the other member's partitions")
        server = start(config, app=NOTHING)
        assert server.wait(30) == 69, server.log
        assert "in another way than this one does (cooperative-sticky), and refuses it" in server.log
        assert "set kafka.consumer.partition_assignment_strategy to theirs" in server.log
        assert "Traceback" not in server.log
    finally:
        other.close()
