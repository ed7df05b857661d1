"""Health and metrics over HTTP: ``/healthz`` (the process lives), ``/readyz`` (it has partitions),
``/metrics`` (Prometheus)."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

from gevent.pywsgi import WSGIServer

from gworkers.admin import health, metrics
from gworkers.admin.answer import Answer
from gworkers.errors import UnavailableError
from gworkers.pipeline.snapshot import Snapshot

log = logging.getLogger(__name__)


class Admin:
    """A small HTTP server on the hub. Handlers of messages never run on it, and it never blocks on
    them."""

    def __init__(self, bind: str, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        host, _, port = bind.rpartition(":")
        self._bind = bind
        self._server = WSGIServer((host.strip("[]"), int(port)), self._answer, log=None, error_log=log)

    def start(self) -> str:
        """Listen; returns host:port as it is in use. Raises UnavailableError when the port cannot
        be had."""
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
        pages = {"/healthz": health.healthy, "/readyz": health.ready, "/metrics": metrics.page}
        page = pages.get(environ["PATH_INFO"])
        answer = page(self._snapshot()) if page is not None else Answer.not_found(pages)
        data = answer.body.encode()
        start_response(answer.status, [("Content-Type", f"{answer.kind}; charset=utf-8"), ("Content-Length", str(len(data)))])
        return [data]
