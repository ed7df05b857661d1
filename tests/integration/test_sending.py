"""Figures are sent to StatsD and to OpenTelemetry's collector, whether or not anybody is there."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.support.broker import free_port
from tests.support.commands import gworkers
from tests.support.servers import ROOT, Running, configuration, create_topic, produce, unique, until

APP = """
import time
def handle(value):
    time.sleep(0.002)
    if value.endswith(b"7"):
        raise ValueError("no")
    return value
"""
RETRY = {"attempts": 2, "backoff": "10ms"}


class StatsD:
    """Adds up what comes, as StatsD does."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while data := self.socket.recv(65536):
            for line in data.decode().splitlines():
                found = re.fullmatch(r"([A-Za-z0-9_.-]+):(-?[0-9.e-]+)\|(c|g)", line)
                assert found, line
                if found[3] == "c":
                    self.counters[found[1]] += float(found[2])  # type: ignore[assignment]
                else:
                    self.gauges[found[1]] = float(found[2])

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.socket.getsockname())
        self.thread.join()
        self.socket.close()


class Collector:
    """Takes what an exporter sends by OTLP over HTTP."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/metrics"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.headers.append(dict(self.headers))
                taken.requests.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def last(self) -> dict[str, Any]:
        """The metrics of the last request, by name."""
        scope = self.requests[-1].resource_metrics[0].scope_metrics[0]
        return {metric.name: metric for metric in scope.metrics}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def statsd() -> Iterator[StatsD]:
    one = StatsD()
    yield one
    one.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


@pytest.mark.parametrize("executor", ["thread", "greenlet"])
def test_statsd_gets_what_has_been_added_and_what_is(
    kafka_servers: str, source: str, output: str, start: Any, statsd: StatsD, executor: str
) -> None:
    metrics = {"statsd": statsd.address, "prefix": "shop.prices", "interval": "200ms"}
    options = {"executor": executor, "retry": RETRY, "dead_letter": create_topic(kafka_servers, unique("dead"), 1), "metrics": metrics}
    server: Running = start(configuration(kafka_servers, "app:handle", source, output, **options), app=APP)
    produce(kafka_servers, source, ((b"k%d" % (n % 20), b"%d" % n) for n in range(1000)))
    until(lambda: statsd.counters["shop.prices.done_messages.main"] == 1000, what="all of them, as StatsD adds them up")
    until(lambda: statsd.gauges.get("shop.prices.waiting_messages") == 0, what="nothing waits any more")
    assert server.stop() == 0
    assert statsd.counters["shop.prices.failed_attempts.main.ValueError"] == 200
    assert statsd.counters["shop.prices.dead_letters.main"] == 100
    assert statsd.counters["shop.prices.handler_seconds.main.count"] == 1100
    assert 0.001 < statsd.gauges["shop.prices.handler_seconds.main.p50"] < 0.05
    assert statsd.counters["shop.prices.sent_messages"] == 1000, "the last figures are sent at the stop"


@pytest.mark.parametrize("executor", ["thread", "greenlet"])
def test_a_collector_gets_the_figures_of_the_metrics_page(
    kafka_servers: str, source: str, output: str, start: Any, collector: Collector, executor: str
) -> None:
    options = {"executor": executor, "retry": RETRY, "dead_letter": create_topic(kafka_servers, unique("dead"), 1)}
    config = configuration(kafka_servers, "app:handle", source, output, metrics={"otlp": collector.url, "interval": "200ms"}, **options)
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"}
    server: Running = start(config, app=APP, env=env)
    produce(kafka_servers, source, ((None, b"%d" % n) for n in range(1000)))

    def done() -> int:
        found = collector.last().get("gworkers.done_messages") if collector.requests else None
        return found.sum.data_points[0].as_int if found is not None else 0

    until(lambda: done() == 1000, what="all of them, as the collector has them")
    assert server.stop() == 0
    metrics = collector.last()
    handler = metrics["gworkers.handler_seconds"]
    assert (handler.unit, bool(handler.description)) == ("s", True)
    point = handler.histogram.data_points[0]
    assert point.count == 1100 == sum(point.bucket_counts)
    assert {a.key: a.value.string_value for a in point.attributes} == {"route": "main"}
    assert metrics["gworkers.done_messages"].sum.is_monotonic
    assert metrics["gworkers.waiting_messages"].gauge.data_points[0].as_int == 0
    attributes = {a.key: a.value.string_value for a in collector.requests[-1].resource_metrics[0].resource.attributes}
    assert attributes["service.name"] == config["kafka"]["group"]
    assert attributes["deployment.environment"] == "test"
    assert attributes["service.instance.id"] == f"{socket.gethostname()}-0"
    assert collector.headers[-1]["authorization"] == "secret"


def test_a_collector_that_is_away_is_told_once_and_costs_nothing(kafka_servers: str, source: str, output: str, start: Any) -> None:
    port = free_port()
    metrics = {"otlp": f"http://127.0.0.1:{port}", "statsd": "no-such-host.invalid:8125", "interval": "200ms"}
    server: Running = start(configuration(kafka_servers, "app:handle", source, output, metrics=metrics), app=APP)
    server.says(r"metrics cannot be sent to http://127\.0\.0\.1:\d+: .*refused.*; it is tried again every 200ms")
    server.says(r"metrics cannot be sent to no-such-host\.invalid:8125: ")
    produce(kafka_servers, source, ((None, b"%d0" % n) for n in range(1000)))
    collector = Collector(port)
    try:
        server.says(r"metrics are sent to http://127\.0\.0\.1:\d+ again", 60)
        until(lambda: collector.last()["gworkers.done_messages"].sum.data_points[0].as_int == 1000, what="nothing is missing")
    finally:
        collector.close()
    assert server.stop() == 0
    assert server.log.count("cannot be sent to no-such-host") == 1


def test_what_is_not_installed_is_told_by_check(tmp_path: Any) -> None:
    (tmp_path / "app.py").write_text("def handle(value): ...\n")
    (tmp_path / "statsd.py").write_text("")
    config = "kafka: {group: g}\nmetrics: {otlp: 'http://a', statsd: 'b:1'}\nroutes: {main: {topics: [t], handler: 'app:handle'}}\n"
    (tmp_path / "app.yaml").write_text(config)
    hide = "import importlib.abc, sys\nclass Hide(importlib.abc.MetaPathFinder):\n def find_spec(self, name, path, target=None):\n"
    hide += "  if name.partition('.')[0] in ('statsd', 'opentelemetry'): raise ModuleNotFoundError(name)\nsys.meta_path.insert(0, Hide())\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    done = gworkers("check", "-c", "app.yaml", folder=tmp_path, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert done.returncode == 78
    for key in ("otlp", "statsd"):
        assert f"metrics.{key}: it needs a package that is not installed: pip install 'gworkers[{key}]'" in done.stderr
