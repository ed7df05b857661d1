"""The life of the process: how it starts, what it says, how it ends."""

from __future__ import annotations

import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support import broker
from tests.support.servers import ENVIRONMENT, committed, configuration, consume, create_topic, metric, produce, unique, until, values

HELD = """
import logging, os, time
log = logging.getLogger("shop")
def handle(value):
    log.info("begun")
    while not os.path.exists("go-on"):
        time.sleep(0.01)
    return value
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(kafka_servers: str, source: str, output: str, start: Any, executor: str, number: signal.Signals) -> None:
    produce(kafka_servers, source, [(None, b"%d" % n) for n in range(20)])
    config = configuration(kafka_servers, "app:handle", source, output, executor=executor, concurrency=4)
    server = start(config, app=HELD)
    until(lambda: server.log.count("begun") >= 4)
    server.signal(number)
    server.says(f"{number.name}: draining for up to 30s")
    (server.folder / "go-on").touch()
    assert server.wait() == 0, server.log
    done = len(consume(kafka_servers, output))
    assert 4 <= done < 20, "what ran was finished, what waited was not begun"
    assert sum(max(0, offset) for offset in committed(kafka_servers, config["kafka"]["group"], source).values()) <= done
    assert f"stopped: {done} done, everything settled" in server.log
    again = start(config, "--until-idle", "300ms", app=HELD)
    assert again.wait() == 0
    assert sorted(int(m.value()) for m in consume(kafka_servers, output)) == list(range(20)), "each once, over both lives"


def test_what_is_read_while_it_drains_is_not_committed(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(None, b"0")], partition=0)
    config = configuration(kafka_servers, "app:handle", source, output)
    server = start(config, app=HELD)
    server.says("begun")
    server.signal(signal.SIGTERM)
    server.says("draining")
    for number in range(1, 4):  # the poll that was under way brings them
        produce(kafka_servers, source, [(None, b"%d" % number)] * 3, partition=number)
    until(lambda: len(consume(kafka_servers, source)) == 10)
    (server.folder / "go-on").touch()
    assert server.wait() == 0
    assert start(config, "--until-idle", "300ms", app=HELD).wait() == 0
    assert sorted(int(m.value()) for m in consume(kafka_servers, output)) == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_when_the_grace_runs_out_it_says_what_was_left_and_ends_with_1(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(b"k", b"1")])
    server = start(configuration(kafka_servers, "app:handle", source, output, shutdown={"grace": "500ms"}), app=HELD)
    server.says("begun")
    assert server.stop() == 1
    assert "still running, will be delivered again: " in server.log
    assert "stopped with 1 messages unsettled, they will be delivered again; 0 done" in server.log
    (server.folder / "go-on").touch()


def test_a_second_signal_ends_at_once(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(b"k", b"1")])
    server = start(configuration(kafka_servers, "app:handle", source, output), app=HELD)
    server.says("begun")
    server.signal(signal.SIGINT)
    server.says("SIGINT: draining")
    server.signal(signal.SIGINT)
    assert server.wait(5) == 1
    assert "SIGINT again: ending at once; what was running will be delivered again" in server.log


def test_the_start_says_what_runs_where(kafka_servers: str, source: str, output: str, start: Any) -> None:
    config = configuration(kafka_servers, "app:handle", source, output, order="key", dead_letter="dead", admin={"bind": "127.0.0.1:0"})
    server = start(config)
    server.says("assigned")
    assert f"group {config['kafka']['group']}, Kafka at {kafka_servers}" in server.log
    assert f"route main: {source} ─► app:handle ─► {output} (order: key, dead letters to dead)" in server.log
    assert "concurrency 8, executor thread, admin at 127.0.0.1:" in server.log
    assert len(server.log.splitlines()) < 8
    assert server.stop() == 0


def test_health_readiness_and_metrics(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(None, b"1")] * 7)
    server = start(configuration(kafka_servers, "app:handle", source, output, admin={"bind": "127.0.0.1:0"}))
    address = server.says(r"admin at (\S+)")[1]
    base = f"http://{address}"
    until(lambda: metric(address, "gworkers_done_messages_total", route="main") == 7)
    assert requests.get(f"{base}/healthz", timeout=5).json()["ok"] is True
    assert requests.get(f"{base}/readyz", timeout=5).json() == {"ok": True, "partitions": 4}
    assert requests.get(f"{base}/nothing", timeout=5).status_code == 404
    until(lambda: metric(address, "gworkers_assigned_partitions") == 4 and not metric(address, "gworkers_lag_messages", topic=source))
    assert metric(address, "gworkers_held_back") == 1, "one thing holds it back at a time"
    for name in ("handler", "queue", "end_to_end"):
        assert metric(address, f"gworkers_{name}_seconds_count", route="main") == 7
    assert metric(address, "gworkers_handler_seconds_sum") < metric(address, "gworkers_end_to_end_seconds_sum")
    assert metric(address, "gworkers_commit_seconds_count") >= 1
    assert metric(address, "gworkers_rebalance_seconds_count") == 1
    assert server.stop() == 0


def test_until_idle_ends_when_nothing_is_left(kafka_servers: str, source: str, output: str, start: Any) -> None:
    server = start(configuration(kafka_servers, "app:handle", source, output), "--until-idle", "300ms")
    assert server.wait() == 0
    assert "nothing left to do for 0.3 s" in server.log


def test_lines_about_a_message_carry_it_in_json(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    produce(kafka_servers, source, [(b"c-1", b"1")], partition=3)
    app = """
import logging
def handle(value):
    logging.getLogger("shop").warning("priced %s", 5, extra={"key": "mine", "total": 7})
    raise ValueError("no")
"""
    config = configuration(
        kafka_servers,
        "app:handle",
        source,
        output,
        executor=executor,
        logging={"format": "json"},
        retry={"attempts": 2, "backoff": "10ms"},
        dead_letter=unique("dead"),
    )
    server = start(config, "--until-idle", "300ms", app=app)
    assert server.wait() == 0, server.log
    lines = [json.loads(line) for line in server.log.splitlines()]
    about = {"topic": source, "partition": 3, "offset": 0, "key": "c-1"}
    handlers = [line for line in lines if line["logger"] == "shop"]
    assert len(handlers) == 2
    assert all((about | {"message": "priced 5", "level": "WARNING", "total": 7}).items() <= line.items() for line in handlers)
    failures = [line for line in lines if "failed" in line["message"]]
    assert len(failures) == 2
    assert all(about.items() <= line.items() for line in failures)


def test_the_applications_own_logging_survives(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(None, b"1")])
    app = """
import logging, sys
logging.basicConfig(stream=sys.stderr, format="MINE %(message)s", level=logging.INFO)
def handle(value):
    logging.info("hello")
"""
    server = start(configuration(kafka_servers, "app:handle", source, output), "--until-idle", "300ms", app=app)
    assert server.wait() == 0
    assert server.log.count("hello") == 1


def test_a_logging_dictionary_is_used(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(b"k", b"1")], partition=1)
    dictionary = {
        "version": 1,
        "filters": {"message": {"()": "gworkers.log_context.MessageFilter"}},
        "formatters": {"own": {"format": "%(levelname)s|%(topic)s|%(partition)s|%(offset)s|%(message)s"}},
        "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "own", "filters": ["message"]}},
        "root": {"level": "INFO", "handlers": ["err"]},
    }
    app = "import logging\ndef handle(value): logging.info('hello')\n"
    server = start(configuration(kafka_servers, "app:handle", source, output, logging=dictionary), "--until-idle", "300ms", app=app)
    assert server.wait() == 0
    assert f"INFO|{source}|1|0|hello" in server.log


def test_kafka_away_at_the_start_is_waited_for_and_then_given_up(start: Any) -> None:
    port = broker.free_port()
    config = configuration(f"127.0.0.1:{port}", "app:handle", "in", "out")
    config["kafka"]["connect_timeout"] = "2s"
    config["kafka"].pop("client", None)
    server = start(config)
    assert server.wait(30) == 69
    assert f"127.0.0.1:{port} refuses connections: nothing listens there" in server.log
    assert f"Kafka at 127.0.0.1:{port} cannot be reached for 2 s" in server.log
    assert server.log.count("trying until") == 1
    assert "Traceback" not in server.log


def test_kafka_that_comes_late_is_found(own_kafka: broker.Kafka, start: Any) -> None:
    own_kafka.kill()
    server = start(configuration(own_kafka.servers, "app:handle", "in", "out"))
    server.says("cannot be reached, trying until 60 s are over")
    own_kafka.start()
    server.says("assigned")
    assert server.stop() == 0


def test_kafka_that_goes_away_and_comes_back(own_kafka: broker.Kafka, start: Any) -> None:
    source, output = create_topic(own_kafka.servers, "in"), create_topic(own_kafka.servers, "out")
    produce(own_kafka.servers, source, ((f"k{n % 20}".encode(), b"%d" % n) for n in range(2000)))
    app = "import time\ndef handle(value):\n    time.sleep(0.005)\n    return value\n"
    server = start(configuration(own_kafka.servers, "app:handle", source, output, order="key"), app=app)
    until(lambda: len(consume(own_kafka.servers, output)) > 200)
    own_kafka.kill()
    server.says("Kafka does not answer; gworkers keeps trying, and keeps the results that are finished until then")
    own_kafka.start()
    server.says(r"Kafka is back after \d+ s")
    produce(own_kafka.servers, source, [(b"k0", b"2000")])
    until(lambda: {int(m.value()) for m in consume(own_kafka.servers, output)} == set(range(2001)), 60, "all messages")
    assert server.stop() == 0, server.log
    assert server.log.count("Kafka does not answer") == 1
    assert server.log.count("Kafka is back") == 1
    assert sorted(int(m.value()) for m in consume(own_kafka.servers, output)) == list(range(2001)), "some came twice"


class _Http(http.server.BaseHTTPRequestHandler):
    pass


@pytest.fixture
def web() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Http)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_broker_that_is_none(start: Any, web: int) -> None:
    config = configuration(f"127.0.0.1:{web}", "app:handle", "in", "out")
    config["kafka"]["connect_timeout"] = "1s"
    config["kafka"].pop("client", None)
    server = start(config)
    assert server.wait(30) == 69
    assert f"127.0.0.1:{web} answers as an HTTP server, not as Kafka" in server.log
    assert "Traceback" not in server.log


def test_a_port_in_use(kafka_servers: str, start: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        server = start(configuration(kafka_servers, "app:handle", "in", "out", admin={"bind": bind}))
        assert server.wait(30) == 69
        assert f"admin.bind {bind} cannot be listened on: the port is in use by another program; name another, or port 0" in server.log
        assert "Traceback" not in server.log


def test_a_group_that_is_refused(own_secure_kafka: str, start: Any) -> None:
    config = configuration(own_secure_kafka, "app:handle", "in", "out")
    server = start(config)
    assert server.wait(40) == 69
    assert "User:ANONYMOUS has no right to use the group" in server.log
    assert "kafka-acls.sh" in server.log
    assert "Traceback" not in server.log


@pytest.fixture
def own_secure_kafka(real_kafka: str) -> Iterator[str]:
    """A broker whose anonymous users may use topics and no group."""
    kafka = broker.Kafka(
        authorizer_class_name="org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        super_users="User:nobody",
        allow_everyone_if_no_acl_found="true",
    )
    try:
        kafka.start()
        from confluent_kafka import admin

        client = admin.AdminClient({"bootstrap.servers": kafka.servers})
        create_topic(kafka.servers, "in")
        rule = admin.AclBinding(
            admin.ResourceType.GROUP,
            "group",
            admin.ResourcePatternType.PREFIXED,
            "User:ANONYMOUS",
            "*",
            admin.AclOperation.ALL,
            admin.AclPermissionType.DENY,
        )
        for future in client.create_acls([rule]).values():
            future.result(10)
        yield kafka.servers
    finally:
        kafka.stop()


def test_setup_runs_once_before_the_first_message(kafka_servers: str, source: str, output: str, start: Any) -> None:
    produce(kafka_servers, source, [(None, b"1")] * 3)
    app = "calls = []\ndef boot(): calls.append(1)\ndef handle(value): return str(len(calls)).encode()\n"
    server = start(configuration(kafka_servers, "app:handle", source, output, app={"setup": "app:boot"}), "--until-idle", "300ms", app=app)
    assert server.wait() == 0
    assert values(consume(kafka_servers, output)) == [1, 1, 1]


def test_a_setup_that_fails_is_the_users_line_and_78(kafka_servers: str, start: Any) -> None:
    app = "def boot():\n    raise RuntimeError('no database')\ndef handle(value): pass\n"
    server = start(configuration(kafka_servers, "app:handle", "in", "out", app={"setup": "app:boot"}), app=app)
    assert server.wait() == 78
    assert "app.py:2: RuntimeError: no database" in server.log
    assert "Traceback" not in server.log


def test_a_python_caller_needs_no_yaml(kafka_servers: str, source: str, output: str, start: Any, tmp_path: Any) -> None:
    produce(kafka_servers, source, [(None, b"%d" % n) for n in range(10)])
    config = configuration(kafka_servers, "app:handle", source, output)
    (tmp_path / "app.py").write_text("def handle(value):\n    return value\n")
    (tmp_path / "serve.py").write_text(
        f"import sys\nfrom gworkers import Config, Server\nsys.exit(Server(Config.model_validate({config!r}), until_idle=0.3).run())\n"
    )
    done = subprocess.run([sys.executable, "serve.py"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(consume(kafka_servers, output)) == 10


def test_threads_in_a_patched_process_are_refused_with_the_reason(tmp_path: Any) -> None:
    program = """
from gevent import monkey
monkey.patch_all()
import sys
from gworkers import Config, Server
config = Config.model_validate({"kafka": {"group": "g"}, "routes": {"r": {"topics": ["t"], "handler": "json:loads"}}})
sys.exit(Server(config).run())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert "executor: this process is patched by gevent.monkey, and patched locks hang when native threads contend" in done.stderr
