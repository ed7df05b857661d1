"""Health and metrics over HTTP: ``/healthz`` (the process lives), ``/readyz`` (it has partitions), ``/metrics`` (Prometheus)."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from gevent.pywsgi import WSGIServer

from gworkers.errors import UnavailableError
from gworkers.pipeline.pipeline import Pipeline

log = logging.getLogger(__name__)

#: A poll older than this, in seconds, means that the process hangs.
STALE_POLL = 60.0


class Admin:
    """A small HTTP server on the hub. Handlers of messages never run on it, and it never blocks on them."""

    def __init__(self, bind: str, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        host, _, port = bind.rpartition(":")
        self._bind = bind
        self._server = WSGIServer((host.strip("[]"), int(port)), self._answer, log=None, error_log=log)

    def start(self) -> str:
        """Listen; returns host:port as it is in use. Raises UnavailableError when the port cannot be had."""
        try:
            self._server.start()
        except OSError as error:
            reason = "the port is in use by another program" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
            raise UnavailableError(
                f"admin.bind {self._bind} cannot be listened on: {reason}; name another, or port 0 for a free one"
            ) from None
        host = self._server.server_host
        return f"[{host}]:{self._server.server_port}" if ":" in host else f"{host}:{self._server.server_port}"

    def stop(self) -> None:
        self._server.stop(timeout=0.5)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        pages = {"/healthz": self._health, "/readyz": self._ready, "/metrics": self._metrics}
        page = pages.get(environ["PATH_INFO"])
        if page is None:
            status, kind, body = "404 Not Found", "text/plain", f"there are {', '.join(pages)}\n"
        else:
            status, kind, body = page()
        data = body.encode()
        start_response(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(data)))])
        return [data]

    def _health(self) -> tuple[str, str, str]:
        age = time.monotonic() - self._pipeline.consumer.last_poll
        return self._told(age < STALE_POLL, {"last_poll_seconds_ago": round(age, 1)})

    def _ready(self) -> tuple[str, str, str]:
        count = len(self._pipeline.consumer.partitions)
        return self._told(count > 0, {"partitions": count})

    @staticmethod
    def _told(good: bool, facts: dict[str, Any]) -> tuple[str, str, str]:
        body = json.dumps({"ok": good, **facts}) + "\n"
        return "200 OK" if good else "503 Service Unavailable", "application/json", body

    def _metrics(self) -> tuple[str, str, str]:
        pipeline = self._pipeline
        stats = pipeline.stats
        lag = pipeline.consumer.lag()
        rows: list[tuple[str, str, str, float | None]] = [
            ("polled_messages_total", "counter", "Messages read from Kafka.", stats.polled),
            ("done_messages_total", "counter", "Messages finished.", stats.done),
            ("sent_messages_total", "counter", "Messages acknowledged by the broker, dead letters included.", pipeline.producer.sent),
            ("retries_total", "counter", "Attempts after the first.", stats.retried),
            ("dead_letters_total", "counter", "Messages dead-lettered.", stats.dead_lettered),
            ("passed_over_messages_total", "counter", "Messages not handled because of when or max_age.", stats.passed_over),
            ("skipped_messages_total", "counter", "Messages read again that were known to be finished.", stats.skipped),
            ("stuck_handlers_total", "counter", "Handlers that did not end at their limit and were given up.", stats.stuck),
            ("fenced_messages_total", "counter", "Completions that came after their partition was revoked.", stats.fenced),
            ("commits_total", "counter", "Commits of offsets.", stats.commits),
            ("transactions_aborted_total", "counter", "Transactions whose results had to be sent again.", stats.aborted),
            ("handler_seconds_total", "counter", "Time spent in handlers.", round(stats.busy, 3)),
            ("running_messages", "gauge", "Messages in the hands of handlers.", pipeline.workers.handling),
            ("waiting_messages", "gauge", "Messages read and not begun.", pipeline.scheduler.waiting),
            ("waiting_retries", "gauge", "Messages waiting for another attempt.", len(pipeline.retries)),
            ("buffered_messages", "gauge", "Messages read and not settled.", pipeline.buffer.messages),
            ("buffered_bytes", "gauge", "Bytes of messages read and not settled, and of their results.", pipeline.buffer.bytes),
            ("assigned_partitions", "gauge", "Partitions assigned to this process.", len(pipeline.consumer.partitions)),
            ("lag_messages", "gauge", "Messages that are not finished, read or not.", lag),
        ]
        if pipeline.transactions is not None:
            rows.append(
                ("uncommitted_messages", "gauge", "Messages whose transaction is not committed.", pipeline.transactions.uncommitted)
            )
        lines = []
        for name, kind, told, value in rows:
            if value is not None:
                lines += [f"# HELP gworkers_{name} {told}", f"# TYPE gworkers_{name} {kind}", f"gworkers_{name} {value}"]
        return "200 OK", "text/plain; version=0.0.4", "\n".join(lines) + "\n"
