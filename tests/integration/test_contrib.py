"""Frameworks around handlers, each as its own documentation has it used, in a running server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.matrix.servers import Redis, left
from tests.support.debian import or_skipped
from tests.support.postgres import Postgres
from tests.support.servers import ROOT, configuration, consume, create_topic, more_than, produce, unique, values

SETTINGS = """
INSTALLED_APPS = ["gworkers.contrib.django", "shop"]
import os
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": "127.0.0.1",
                         "PORT": os.environ["POSTGRES_PORT"], "CONN_MAX_AGE": None}}
SECRET_KEY = "x"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
GWORKERS_CONFIG = "app.yaml"
"""
MODELS = """
from django.db import models
class Order(models.Model):
    number = models.IntegerField(unique=True)
"""
DJANGO = """
import time
from shop.models import Order

def handle(value):
    time.sleep(0.01)
    Order.objects.update_or_create(number=value)
    return value
"""
MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with or_skipped():
        server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def project(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Django project."""
    monkeypatch.setenv("POSTGRES_PORT", str(postgres.port))
    (tmp_path / "shop").mkdir()
    for name, text in {
        "settings.py": SETTINGS,
        "manage.py": MANAGE,
        "app.py": DJANGO,
        "shop/__init__.py": "",
        "shop/models.py": MODELS,
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def manage(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "manage.py", *arguments], cwd=project, env=env, capture_output=True, text=True, timeout=120)


def test_django_has_its_models_its_connections_and_a_command(
    kafka_servers: str, source: str, output: str, project: Path, postgres: Postgres, executor: str
) -> None:
    done = manage(project, "migrate", "--run-syncdb")
    assert done.returncode == 0, done.stderr
    dead = create_topic(kafka_servers, unique("dead"))
    more: dict[str, Any] = {"decode": "json", "encode": "json", "dead_letter": dead, "retry": {"attempts": 8, "backoff": "100ms"}}
    config = configuration(kafka_servers, "app:handle", source, output, concurrency=16, executor=executor, **more)
    config |= {"middleware": ["gworkers.contrib.django:connections"], "hooks": {"thread_stop": "gworkers.contrib.django:close"}}
    config["app"] = {"path": ".", "setup": "gworkers.contrib.django:setup"}
    (project / "app.yaml").write_text(json.dumps(config))
    checked = manage(project, "gworkers", "check")
    assert (checked.returncode, checked.stdout.endswith("all right\n")) == (0, True), checked
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(2_000)))
    log = open(project / "log", "wb")
    command = [sys.executable, "manage.py", "gworkers", "--until-idle", "1s"]
    server = subprocess.Popen(command, cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
    try:
        more_than(kafka_servers, output, 300)
        postgres.halt()
        postgres.start()
        assert server.wait(60) == 0, (project / "log").read_text()[-3000:]
    finally:
        if server.poll() is None:
            server.kill()
        log.close()
    assert "attempt 1 of 8 failed" in (project / "log").read_text()  # those that ran when it went
    assert consume(kafka_servers, dead) == []
    assert {message.value() for message in consume(kafka_servers, output)} == {b"%d" % n for n in range(2_000)}
    counted = manage(project, "shell", "-c", "from shop.models import Order; print('orders', Order.objects.count())")
    assert "orders 2000" in counted.stdout, counted
    assert postgres.connections() == 0


SQLALCHEMY = """
import logging, os, time
from sqlalchemy import create_engine, text
from sqlalchemy.orm import scoped_session, sessionmaker
from gworkers.contrib.sqlalchemy import session_of

engine = create_engine(os.environ["DATABASE"], pool_size=8, max_overflow=0, pool_timeout=5)
Session = scoped_session(sessionmaker(engine))
session = session_of(Session, commit=True)
seen = set()

def start():
    with engine.begin() as connection:
        connection.execute(text("create table orders (number integer primary key)"))

def stop():
    with engine.begin() as connection:
        count = connection.execute(text("select count(*) from orders")).scalar()
    logging.getLogger("shop").info("%d orders, %d connections taken", count, engine.pool.checkedout())
    engine.dispose()

def handle(value):
    assert not Session().in_transaction(), "a transaction of the message before"
    time.sleep(0.005)
    Session().execute(text("insert into orders values (:number) on conflict do nothing"), {"number": value})
    if value % 100 == 3:
        raise ValueError("after the insert")
    return value
"""


def test_sqlalchemy_has_a_session_a_message(
    kafka_servers: str, source: str, output: str, start: Any, postgres: Postgres, executor: str
) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    more: dict[str, Any] = {"decode": "json", "encode": "json", "dead_letter": dead, "retry": {"attempts": 8, "backoff": "50ms"}}
    config = configuration(kafka_servers, "app:handle", source, output, concurrency=8, executor=executor, **more)
    config["routes"]["main"]["retry"]["never"] = ["builtins:ValueError"]
    config |= {"middleware": ["app:session"], "hooks": {"process_start": "app:start", "process_stop": "app:stop"}}
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(2_000)))
    url = postgres.url.replace("postgresql:", "postgresql+psycopg:")
    server = start(config, "--until-idle", "1s", app=SQLALCHEMY, env={"DATABASE": url})
    more_than(kafka_servers, output, 300)
    postgres.halt()
    postgres.start()
    assert server.wait() == 0, server.log
    assert "INFO shop: 1980 orders, 0 connections taken" in server.log
    assert {message.value() for message in consume(kafka_servers, output)} == {b"%d" % n for n in range(2_000) if n % 100 != 3}
    assert len(consume(kafka_servers, dead)) == 20
    assert postgres.connections() == 0


FLASK = """
from flask import Flask, current_app, g
app = Flask("shop")
app.config["CURRENCY"] = "EUR"
closed = []
@app.teardown_appcontext
def done(error):
    closed.append(error)
def handle(value):
    assert not hasattr(g, "value")
    g.value = value
    return f"{value} {current_app.config['CURRENCY']}"
"""


def test_flask_has_its_application_context(kafka_servers: str, source: str, output: str, start: Any, executor: str) -> None:
    config = configuration(kafka_servers, "app:handle", source, output, decode="text", encode="text", executor=executor)
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(50)))
    server = start(config | {"middleware": ["app:app.app_context"]}, "--until-idle", "1s", app=FLASK)
    assert server.wait() == 0, server.log
    assert {message.value() for message in consume(kafka_servers, output)} == {b"%d EUR" % n for n in range(50)}


WATCHED = """
import json, sentry_sdk, structlog
from sentry_sdk.transport import Transport
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

def note(kind, facts):
    with open("told.jsonl", "a") as file:
        file.write(json.dumps([kind, facts]) + "\\n")

class ToFile(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            note("event", {"tags": event.get("tags"), "kafka": event["contexts"].get("kafka"), "mine": event.get("tags", {}).get("mine"),
                           "value": event["exception"]["values"][0]["value"], "logger": event.get("logger")})

class Spans(SpanExporter):
    def export(self, spans):
        for span in spans:
            note("span", json.loads(span.to_json()))
        return SpanExportResult.SUCCESS

def setup():
    sentry_sdk.init(dsn="http://a@127.0.0.1:9/1", transport=ToFile)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Spans()))
    trace.set_tracer_provider(provider)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, to_file], logger_factory=structlog.ReturnLoggerFactory())

def to_file(logger, name, event):
    note("line", event)
    return ""

def handle(value):
    if isinstance(value, list):
        return [f"{one} done" for one in value]
    structlog.get_logger().info("priced", value=value)
    if value == "bad":
        sentry_sdk.set_tag("mine", "yes")
        raise ValueError("no such product")
    return value + " done"
"""
TRACE = "0af7651916cd43dd8448eb211c80319c"
MIDDLEWARE = ["gworkers.contrib.opentelemetry:span", "gworkers.contrib.sentry:scope", "gworkers.contrib.structlog:bound"]


def told(folder: Path, kind: str) -> list[Any]:
    lines = (folder / "told.jsonl").read_text().splitlines() if (folder / "told.jsonl").exists() else []
    return [facts for found, facts in map(json.loads, lines) if found == kind]


@pytest.fixture
def traced(kafka_servers: str, source: str) -> None:
    parents = [f"00-{TRACE}-b7ad6b716920333{n}-01".encode() for n in range(3)]
    for parent, value in zip(parents, (b"a", b"b", b"bad"), strict=True):
        produce(kafka_servers, source, [(b"k", value)], headers=[("traceparent", parent), ("own", b"1")])


def test_traces_go_through_and_errors_say_which_message(
    kafka_servers: str, source: str, output: str, start: Any, executor: str, traced: None, tmp_path: Path
) -> None:
    dead = create_topic(kafka_servers, unique("dead"))
    more: dict[str, Any] = {"decode": "text", "encode": "text", "dead_letter": dead, "retry": {"attempts": 2, "backoff": "20ms"}}
    config = configuration(kafka_servers, "app:handle", source, output, order="key", executor=executor, **more)
    config |= {"middleware": MIDDLEWARE, "hooks": {"on_dead_letter": "gworkers.contrib.sentry:dead_letter"}}
    config["app"] = {"path": ".", "setup": "app:setup"}
    server = start(config, "--until-idle", "1s", app=WATCHED)
    assert server.wait() == 0, server.log
    spans = told(tmp_path, "span")
    assert [span["name"] for span in spans] == [f"process {source}"] * 4
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{TRACE}"}
    assert [span["parent_id"][-1] for span in spans] == ["0", "1", "2", "2"]
    assert [span["status"]["status_code"] for span in spans] == ["UNSET", "UNSET", "ERROR", "ERROR"]
    assert spans[0]["kind"] == "SpanKind.CONSUMER"
    assert spans[0]["attributes"]["messaging.kafka.message.key"] == "k"
    sent = consume(kafka_servers, output)
    assert [message.value() for message in sent] == [b"a done", b"b done"]
    for message, span in zip(sent, spans, strict=False):
        headers = message.headers()
        assert ("own", b"1") in headers
        context = f"00-{TRACE}-{span['context']['span_id'][2:]}-01"
        assert [value for name, value in headers if name == "traceparent"] == [context.encode()], headers
    assert {line["topic"] for line in told(tmp_path, "line")} == {source}
    assert [line["value"] for line in told(tmp_path, "line")] == ["a", "b", "bad", "bad"]
    events = [event for event in told(tmp_path, "event") if event["kafka"]]
    assert events
    assert {(event["value"], event["kafka"]["topic"], event["kafka"]["attempt"]) for event in events} == {("no such product", source, 2)}


def test_a_batch_has_one_span_with_a_link_to_each(
    kafka_servers: str, source: str, output: str, start: Any, traced: None, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"decode": "text", "encode": "text", "order": "key", "batch": {"max_messages": 3, "max_wait": "5s", "by": "key"}}
    config = configuration(kafka_servers, "app:handle", source, output, **more) | {"middleware": MIDDLEWARE}
    config["app"] = {"path": ".", "setup": "app:setup"}
    server = start(config, "--until-idle", "1s", app=WATCHED)
    assert server.wait() == 0, server.log
    (span,) = told(tmp_path, "span")
    assert [link["context"]["trace_id"] for link in span["links"]] == [f"0x{TRACE}"] * 3
    assert span["attributes"]["messaging.batch.message_count"] == 3
    assert span["parent_id"] is None
    found = {re.sub("-.{16}-0[13]$", "", dict(message.headers())["traceparent"].decode()) for message in consume(kafka_servers, output)}
    assert found == {f"00-{span['context']['trace_id'][2:]}"}


POOLS = """
import gworkers.contrib.psycopg, gworkers.contrib.redis, os

pool = gworkers.contrib.psycopg.pool(os.environ["DATABASE"])
cache = gworkers.contrib.redis.client(os.environ["CACHE"])

def stop():
    print("pool of", pool.max_size, cache.connection_pool.max_connections, flush=True)
    pool.close()
    cache.close()

def handle(value):
    with pool.connection() as connection:
        doubled = connection.execute("select %s::int * 2, pg_sleep(0.005)", (value,)).fetchone()[0]
    cache.set(f"order:{value}", doubled)
    return int(cache.get(f"order:{value}") or doubled)
"""


@pytest.fixture
def cache() -> Iterator[Redis]:
    with or_skipped():
        server = Redis()
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_pools_are_as_large_as_the_concurrency(
    kafka_servers: str, source: str, output: str, start: Any, postgres: Postgres, cache: Redis, executor: str
) -> None:
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(2_000)))
    dead = create_topic(kafka_servers, unique("dead"))
    more: dict[str, Any] = {"decode": "json", "encode": "json", "dead_letter": dead, "retry": {"attempts": 20, "backoff": "100ms"}}
    config = configuration(kafka_servers, "app:handle", source, output, concurrency=24, executor=executor, **more)
    config["hooks"] = {"process_stop": "app:stop"}
    env = {"DATABASE": postgres.url, "CACHE": f"redis://127.0.0.1:{cache.port}/0"}
    server = start(config, "--until-idle", "1s", app=POOLS, env=env)
    more_than(kafka_servers, output, 300)
    most = max(postgres.connections() for _ in range(20))
    assert 2 <= most <= 24
    postgres.halt()
    postgres.start()
    cache.restart()
    assert server.wait(90) == 0, server.log
    assert "pool of 24 24" in server.log
    assert consume(kafka_servers, dead) == []
    assert sorted(values(consume(kafka_servers, output))) == [2 * n for n in range(2_000)]
    assert (postgres.connections(), left(cache)) == (0, 0)
