"""``gworkers doctor``: what it finds, each with its place and what to do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest

from gworkers.config.load import load
from gworkers.doctor import brokers
from tests.support.broker import Kafka
from tests.support.commands import gworkers
from tests.support.servers import configuration, create_topic, unique

FINE: dict[str, Any] = {
    "dead_letter": "dead",
    "timeout": "10s",
    "admin": {"bind": "127.0.0.1:0"},
    "state_dir": "state",
    "dead_letters": {"stop_above": "100 in 1m"},
}


def looked(
    folder: Path, app: str, *options: str, kafka: str = "127.0.0.1:1", ask: bool = False, **more: Any
) -> tuple[int, list[dict[str, Any]]]:
    """Its status, and what it found; what every server has, is there."""
    (folder / "app.py").write_text(app)
    (folder / "app.yaml").write_text(json.dumps(configuration(kafka, "app:handle", "in", **{**FINE, **more})))
    done = gworkers("doctor", "-c", "app.yaml", "--json", *([] if ask else ["--no-kafka"]), *options, folder=folder)
    assert ask or not done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_healthy_application_has_nothing(tmp_path: Path) -> None:
    app = "import threading, sqlite3\nlocal = threading.local()\ndef handle(value):\n    return value\n"
    assert looked(tmp_path, app) == (0, [])
    done = gworkers("doctor", "-c", "app.yaml", "--no-kafka", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "app.yaml: nothing found\n")


@pytest.mark.parametrize(
    ("source", "level", "line", "what", "todo"),
    [
        ("import sqlite3\ndb = sqlite3.connect('a', timeout=30)", "error", 2, "is for the thread that made it", "threading.local"),
        ("from psycopg import connect as c\nimport os\ndb = None if 1 else c('x')", "warning", 3, "psycopg.connect is called once", "pool"),
        ("from sqlalchemy import create_engine\ncreate_engine('mysql://', pool_size=3, max_overflow=1) if 0 else 1", "warning", 2,
         "a pool of 4 for 8", "pool: 4"),
        ("import sqlalchemy\ndef e():\n    return sqlalchemy.create_engine('x', pool_size=3)", None, 0, "", ""),
        ("class ThreadedConnectionPool:\n    def __init__(*a): ...\npool = ThreadedConnectionPool(1, 5)", "warning", 3,
         "a pool of 5 for 8", "limits"),
        ("import urllib3\nhttp = urllib3.PoolManager(maxsize=2)", "note", 2, "a pool of 2 for 8", "give it 8"),
        ("import signal\ndef f():\n    signal.alarm(3)", "warning", 3, "signals come to the main thread alone", "timeout"),
        ("from multiprocessing import Pool\ndef f():\n    return Pool(3)", "warning", 3, "multiprocessing.Pool forks", "spawn"),
        ("import os\ndef f():\n    os.chdir('/')", "note", 3, "os.chdir is for the whole process", "app.setup"),
        ("import sqlite3\ndef f():\n    return sqlite3.connect('x')", "warning", 3, "database is locked", "WAL"),
    ],
)  # fmt: skip
def test_code_that_will_hurt(tmp_path: Path, source: str, level: str | None, line: int, what: str, todo: str) -> None:
    status, found = looked(tmp_path, source + "\ndef handle(value): ...\n")
    if level is None:
        assert (status, found) == (0, [])
        return
    (one,) = found
    assert one["level"] == level
    assert one["where"] == f"{tmp_path}/app.py:{line}"
    assert what in one["what"]
    assert todo in one["todo"]
    assert status == {"note": 0, "warning": 1, "error": 78}[level]


def test_a_pool_that_a_limit_guards_is_large_enough(tmp_path: Path) -> None:
    app = "import sqlalchemy\nengine = lambda: sqlalchemy.create_engine('x', pool_size=4, max_overflow=0)\ndef handle(value): ...\n"
    assert looked(tmp_path, app, limits={"database": 4}, uses=["database"]) == (0, [])
    assert looked(tmp_path, app, limits={"database": 5}, uses=["database"])[0] == 1


def test_a_driver_in_c_with_greenlets(tmp_path: Path) -> None:
    (tmp_path / "MySQLdb.py").write_text("")
    status, (one,) = looked(tmp_path, "import MySQLdb\ndef handle(value): ...\n", executor="greenlet")
    assert (status, one["level"]) == (78, "error")
    assert one["what"].startswith("MySQLdb waits in C, outside of gevent")
    status, (one,) = looked(tmp_path, "import asyncio\ndef handle(value):\n    asyncio.run(None)\n", executor="greenlet")
    assert (status, one["where"]) == (78, f"{tmp_path}/app.py:3")


def test_times_that_contradict_each_other_and_what_is_missing(tmp_path: Path) -> None:
    status, found = looked(tmp_path, "def handle(value): ...\n", "--stop-within", "20s", timeout="1m", shutdown={"grace": "30s"})
    assert status == 1
    assert sorted(one["what"] for one in found) == [
        "a handler may take 1m, and at a stop it has 30s: it runs again afterwards",
        "the supervisor kills after 20s, and stopping may take shutdown.grace, 30s, and 10s",
    ]
    for name in ("dead_letter", "timeout", "admin", "state_dir", "dead_letters"):
        fine = {key: value for key, value in FINE.items() if key != name}
        (tmp_path / "app.yaml").write_text(json.dumps(configuration("127.0.0.1:1", "app:handle", "in", **fine)))
        done = gworkers("doctor", "-c", "app.yaml", "--no-kafka", folder=tmp_path)
        assert done.returncode == (1 if name == "dead_letter" else 0), done.stdout
        assert len(done.stdout.splitlines()) == 3, done.stdout


def test_what_check_refuses_is_among_what_it_finds(tmp_path: Path) -> None:
    status, (one,) = looked(tmp_path, "async def handle(value): ...\n", executor="greenlet")
    assert (status, one["level"]) == (78, "error")
    assert "coroutine function" in one["what"]


def test_the_cluster(strict_kafka: str, tmp_path: Path) -> None:
    there = create_topic(strict_kafka, unique("in"), retention_ms="60000")
    missing = unique("nowhere")
    retry = {"attempts": 10, "backoff": "30s", "max_backoff": "10m"}
    config = configuration(strict_kafka, "app:handle", there, **{**FINE, "dead_letter": missing, "retry": retry}) | {"processes": 6}
    (tmp_path / "app.py").write_text("def handle(value): ...\n")
    (tmp_path / "app.yaml").write_text(json.dumps(config))
    done = gworkers("doctor", "-c", "app.yaml", "--json", folder=tmp_path)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 78, done
    told = {one["level"]: one["what"] for one in found if "cores" not in one["what"]}
    assert told["error"] == f"there is no topic {missing}"
    warnings = sorted(one["what"] for one in found if one["level"] == "warning")
    assert warnings[0].startswith("6 processes, and no topic has more than 4 partitions: 2 have nothing to do")
    assert warnings[1].startswith(f"a message of {there} may wait ")
    status, found = looked(tmp_path, "def handle(value): ...\n", "--set", "kafka.connect_timeout=1s", ask=True)
    assert status == 78
    assert found[0]["where"] == "Kafka"


def test_what_the_brokers_allow_and_how_topics_are_kept(real_kafka: str, tmp_path: Path) -> None:
    own = Kafka(group_max_session_timeout_ms="20000", group_max_size="2", offsets_retention_minutes="60", transaction_max_timeout_ms="5000")
    try:
        own.start()
        source = create_topic(own.servers, unique("in"), max_message_bytes="3000000")
        output = create_topic(own.servers, unique("out"), min_insync_replicas="2")
        dead = create_topic(own.servers, unique("dead"), cleanup_policy="compact")
        producer = confluent_kafka.Producer({"bootstrap.servers": own.servers})
        producer.produce(source, b"x", timestamp=int(1000 * (time.time() + 90)))
        producer.flush()
        more = {"output": output, "dead_letter": dead, "delivery": "exactly-once", "processes": 3}
        config = configuration(own.servers, "app:handle", source, **{**FINE, **more})
        (tmp_path / "app.py").write_text("def handle(value): ...\n")
        (tmp_path / "app.yaml").write_text(json.dumps(config))
        done = gworkers("doctor", "-c", "app.yaml", "--json", folder=tmp_path)
        found = [json.loads(line) for line in done.stdout.splitlines()]
    finally:
        own.stop()
    assert done.returncode == 78, done
    told = {one["what"]: one["level"] for one in found if "cores" not in one["what"]}
    for level, what in (
        ("error", "the session's time-out is 45000 ms, and the brokers' group.max.session.timeout.ms is 20000"),
        ("error", "a transaction may take 10000 ms, and the brokers' transaction.max.timeout.ms is 5000"),
        ("error", "3 processes, and the brokers' group.max.size is 2"),
        ("warning", "the brokers' offsets.retention.minutes is 60: a group that is stopped for longer than 1h loses its place"),
        ("error", f"{output} has 1 replica, and its min.insync.replicas is 2: every write to it is refused"),
        ("error", f"{dead} is compacted"),
        ("warning", f"a message may have 3,000,000 bytes, and {dead} takes 1,048,588"),
        ("warning", "a message may have 3,000,000 bytes, and a request of the producer 1,048,576"),
        ("warning", f"the latest message of {source} is "),
    ):
        assert [told.pop(one) for one in [*told] if one.startswith(what)] == [level], (what, told)
    assert told == {}


@pytest.mark.parametrize(
    ("offset", "at", "told"),
    [(5, 1000.9, None), (5, 1003.5, "2s ahead"), (5, 900.0, None), (6, 900.0, "100s behind"), (6, 999.0, None)],
)
def test_clocks_that_differ(offset: int, at: float, told: str | None) -> None:
    found = list(brokers.of_times({("in", 0): (5, 900.0)}, 1000.0, {("in", 0): (offset, at)}, 1001.0))
    assert (told is None and not found) or (told is not None and told in found[0].what)


def test_brokers_that_are_too_old_for_transactions(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(json.dumps(configuration("127.0.0.1:1", "app:handle", "in", output="out", delivery="exactly-once")))
    loaded = load(tmp_path / "app.yaml")
    assert [one.what for one in brokers.of_version((2, 4), loaded)] == [
        "the brokers are of Apache Kafka 2.4, and exactly-once needs 2.5 or later"
    ]
    assert list(brokers.of_version((2, 5), loaded)) == []
