"""The admin address over HTTP: ``/livez`` (starting it anew would not help), ``/healthz`` (it is
well), ``/readyz`` (it has partitions or stands by for them), ``/status`` (all that is seen of it, as
JSON), ``/stacks`` (where each handler stands), ``/failures`` (what failed lately), ``/retries`` (what
waits for another attempt), ``/offsets`` (what is finished of a partition), ``/metrics`` (Prometheus);
and what operates it (gworkers.admin.operate), by POST and with the token for it.

It is made for whoever may reach it: a bounded number of connections, of which the oldest gives way to
a new one, so that nobody shuts a health check out by holding them; a few seconds for a request, which
has no body but a page's small form; nothing that operates it from another site's page; and no line in
the log for what somebody sends there. What operates it is written to the log ``gworkers.audit``.
"""

from __future__ import annotations

import errno
import hmac
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

import gevent
import gevent.socket
from gevent.pywsgi import WSGIHandler, WSGIServer

from gworkers.admin import addresses, health, metrics, status
from gworkers.admin.answer import Answer, BadRequestError, Request
from gworkers.admin.failures import Failures
from gworkers.admin.hiding import Hiding
from gworkers.admin.ready_check import ReadyCheck
from gworkers.config import schema
from gworkers.errors import UnavailableError
from gworkers.handlers.stacks import Standing
from gworkers.pipeline.interventions import Interventions
from gworkers.pipeline.snapshot import Snapshot
from gworkers.text import safe

log = logging.getLogger(__name__)
audit = logging.getLogger("gworkers.audit")

#: Connections at once, and seconds that one request may take from its first byte, or from the end of
#: the one before, to the last byte of its answer.
MOST_CONNECTIONS = 64
REQUEST_TIMEOUT = 5.0

#: What says something of what is in messages.
PERSONAL = frozenset({"/stacks", "/failures", "/retries", "/log"})
#: Where the page for people is, and the cookie that has its token.
PAGE = "/page"
COOKIE = "gworkers"
#: Where forms are sent to, and how many bytes one may have.
FORMS = "/page/"
MOST_FORM = 65_536
#: Fields of a question, and the one that may be given several times.
MOST_FIELDS = 300
MANY = "id"

_METHODS = ("GET", "HEAD", "POST")


class _RefusedError(ValueError):
    """A request that is not answered. line: the first of HTTP's answer."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.line = line


class _Handler(WSGIHandler):  # type: ignore[misc]
    """One connection."""

    def handle_one_request(self) -> Any:
        with gevent.Timeout(REQUEST_TIMEOUT, False) as self._limit:
            return super().handle_one_request()
        return None  # too slow: it is closed

    def get_environ(self) -> dict[str, Any]:
        """With what a stream calls, which may take as long as somebody listens."""
        found: dict[str, Any] = super().get_environ()
        found["gworkers.take_time"] = self._limit.cancel
        return found

    def read_request(self, raw_requestline: str) -> Any:
        good = super().read_request(raw_requestline)
        if good and self.command not in _METHODS:
            raise _RefusedError("405 Method Not Allowed")
        length = self.headers.get("Content-Length", "0") if good else "0"
        form = good and self.command == "POST" and self.path.startswith(FORMS) and length.isdecimal() and len(length) < 6
        if good and (self.headers.get("Transfer-Encoding") or (length != "0" and not (form and int(length) <= MOST_FORM))):
            raise _RefusedError("413 Content Too Large")
        return good

    def _handle_client_error(self, ex: BaseException) -> tuple[str, bytes]:
        line = ex.line if isinstance(ex, _RefusedError) else "400 Bad Request"
        allow = f"Allow: {', '.join(_METHODS)}\r\n" if line.startswith("405") else ""
        answer = f"HTTP/1.1 {line}\r\n{allow}Connection: close\r\nContent-Length: 0\r\n\r\n"
        return line[:3], answer.encode()

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        """Somebody who does not read the answer is no error of this program."""
        if issubclass(t, (gevent.Timeout, OSError)):
            self.close_connection = True
        else:
            super().handle_error(t, v, tb)

    def log_error(self, msg: str, *args: Any) -> None:
        """What somebody sends is not worth a line."""


class _Server(WSGIServer):  # type: ignore[misc]
    handler_class = _Handler

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open: dict[Any, None] = {}  # the greenlets of connections, the oldest first

    def handle(self, sock: Any, address: Any) -> None:
        if len(self._open) >= MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.kill(block=False)
        own = gevent.getcurrent()
        self._open[own] = None
        try:
            super().handle(sock, address)
        except gevent.GreenletExit:
            sock.close()
        finally:
            self._open.pop(own, None)


def tell(request: Request, what: str, given: Mapping[str, str]) -> None:
    """Somebody has something done: who, and what."""
    audit.info("%s: %s", request.who, safe(" ".join([what, *(f"{name}={value}" for name, value in given.items())])))


def _of_cookie(text: str) -> str:
    """The Authorization header that a page's cookie stands for."""
    with suppress(CookieError):
        found = SimpleCookie(text).get(COOKIE)
        if found is not None:
            return f"Bearer {unquote(found.value)}"
    return ""


class Site(Protocol):
    """The page for people, which has all paths below PAGE."""

    def answer(self, request: Request, *, may_read: bool, posted: bool) -> Answer: ...


#: What there is: by path, from what is asked to what is answered.
Pages = Mapping[str, Callable[[Request], Answer]]


def pages_of(
    snapshot: Callable[[], Snapshot],
    config: schema.Config,
    standing: Callable[[], list[Standing]],
    interventions: Interventions,
    failures: Failures,
    check: ReadyCheck | None,
) -> Pages:
    """What is to be seen of one process."""
    return {
        "/status": lambda _: status.page(snapshot(), config),
        "/livez": lambda _: health.lives(snapshot()),
        "/healthz": lambda _: health.healthy(snapshot()),
        "/readyz": lambda _: health.ready(snapshot(), check),
        "/stacks": lambda _: status.stacks(standing()),
        "/failures": lambda _: failures.page(),
        "/retries": lambda _: status.retries(interventions.waiting()),
        "/offsets": lambda request: status.offsets(request, interventions.spans),
        "/metrics": lambda _: metrics.page(snapshot(), config),
    }


class Admin:
    """A small HTTP server on the hub. Handlers of messages never run on it, and it never blocks on
    them."""

    def __init__(self, config: schema.Admin, bind: str, pages: Pages, actions: Pages, site: Site | None = None) -> None:
        """bind: where it listens, which for a worker process of a master is not ``config.bind``;
        site: the page for people."""
        self._pages = pages
        self._actions = actions
        self._site = site
        self._hiding = Hiding(config)
        self._bind, self._mode = bind, int(config.mode, 8)
        self._path = addresses.path_of(bind)
        self._listener: addresses.UnixListener | None = None
        self._server: _Server | None = None
        self._token = config.token.encode() if config.token is not None else None
        self._read_token = config.read_token.encode() if config.read_token is not None else None

    def start(self) -> str:
        """Listen; returns the address as it is in use. Raises UnavailableError when it cannot be
        had."""
        return self._start_on_port() if self._path is None else self._start_on_path(self._path)

    def serving(self, where: Any) -> _Server:
        """What answers at ``where``: host and port, or a socket that is listened on."""
        return _Server(where, self._answer, log=None, error_log=log)

    def _start_on_path(self, path: str) -> str:
        try:
            self._listener = addresses.UnixListener(path, self._mode, gevent.socket.socket)
        except OSError as error:
            reason, advice = error.strerror or f"{error}, which is {addresses.MOST_PATH} bytes at most", "name another"
            if error.errno == errno.EADDRINUSE:
                reason = "another program listens on it"
            elif error.errno == errno.EEXIST:
                reason = "there is a file of that name, which is no socket"
            elif error.errno == errno.ENOENT:
                reason, advice = "there is no such folder", "make it"
            raise UnavailableError(f"admin.bind {self._bind} cannot be listened on: {reason}; {advice}") from None
        self._server = self.serving(self._listener.socket)
        self._server.start()
        return f"{addresses.UNIX}{self._listener.path}"

    def _start_on_port(self) -> str:
        host, _, port = self._bind.rpartition(":")
        self._server = self.serving((host.strip("[]"), int(port)))
        try:
            self._server.start()
        except (OSError, OverflowError) as error:
            reason = "the port is in use by another program"
            if not isinstance(error, OSError):
                reason = "there is no such port"
            elif isinstance(error, socket.gaierror):
                reason = "there is no such host"
            elif error.errno != errno.EADDRINUSE:
                reason = os.strerror(error.errno or 0)
            raise UnavailableError(
                f"admin.bind {self._bind} cannot be listened on: {reason}; name another, or port 0 for a free one"
            ) from None
        host = self._server.server_host
        return f"[{host}]:{self._server.server_port}" if ":" in host else f"{host}:{self._server.server_port}"

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(timeout=0.5)
        if self._listener is not None:
            self._listener.close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self._answer_to(environ)
        data = answer.body.encode("utf-8", "backslashreplace")
        headers = [("Content-Type", f"{answer.kind}; charset=utf-8"), *answer.headers, ("X-Content-Type-Options", "nosniff")]
        if not any(name == "Cache-Control" for name, _ in answer.headers):
            headers.append(("Cache-Control", "no-store"))
        if answer.stream is not None and environ["REQUEST_METHOD"] == "GET":
            environ["gworkers.take_time"]()
            start_response(answer.status, headers)
            return (part.encode("utf-8", "backslashreplace") for part in answer.stream)
        start_response(answer.status, [*headers, ("Content-Length", str(len(data)))])
        return [data] if environ["REQUEST_METHOD"] != "HEAD" else []

    def _answer_to(self, environ: dict[str, Any]) -> Answer:
        path, operates = environ["PATH_INFO"], environ["REQUEST_METHOD"] == "POST"
        try:
            request, may_read = self._request(environ, path)
        except ValueError:
            return Answer.wrong("400 Bad Request", "more fields than any question here has")
        may_operate = request.may_operate
        if operates and environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
            return Answer.wrong("403 Forbidden", "it is asked from another site's page")
        if self._site is not None and (path == "/" or path.startswith(PAGE)):
            return self._site.answer(request, may_read=may_read, posted=operates)
        if not may_read:
            return Answer.not_allowed()
        page = (self._actions if operates else self._pages).get(path)
        if page is None:
            if path in (self._pages if operates else self._actions):
                allowed = "GET, HEAD" if operates else "POST"
                return Answer.wrong("405 Method Not Allowed", f"{path} is asked by {allowed}", (("Allow", allowed),))
            return Answer.not_found([*self._pages, *(f"POST {name}" for name in self._actions)])
        if operates and not may_operate:
            return Answer.wrong("403 Forbidden", "this token may read; admin.token may operate")
        try:
            if operates:
                tell(request, path, request.query)
            answer = page(request)
            return answer.with_facts(self._hiding.without) if path in PERSONAL and self._hiding.hides(request) else answer
        except BadRequestError as error:
            return Answer.wrong("400 Bad Request", str(error))

    def _request(self, environ: dict[str, Any], path: str) -> tuple[Request, bool]:
        """What is asked, and whether who asks may read. Raises ValueError for too many fields."""
        query: dict[str, str] = {}
        for name, value in parse_qsl(environ.get("QUERY_STRING", ""), max_num_fields=MOST_FIELDS):
            query[name] = f"{query[name]},{value}" if name == MANY and name in query else value
        form: dict[str, str] = {}
        if environ["REQUEST_METHOD"] == "POST" and path.startswith(FORMS):
            given = environ["wsgi.input"].read(MOST_FORM)
            form = dict(parse_qsl(given.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS))
        authorization = environ.get("HTTP_AUTHORIZATION", "") or _of_cookie(environ.get("HTTP_COOKIE", ""))
        may_read, may_operate = self._may(authorization)
        who = "nobody" if not may_read else "anybody" if self._open else "admin.token" if may_operate else "admin.read_token"
        whence = environ.get("REMOTE_ADDR") or "the socket"
        take_time = environ["gworkers.take_time"]
        return Request(query, authorization, path, form, may_operate, f"{who} from {whence}", take_time), may_read

    @property
    def _open(self) -> bool:
        return self._token is None and self._read_token is None

    def _may(self, authorization: str) -> tuple[bool, bool]:
        """Whether who asks may read, and may operate. Without any token whoever reaches it may, and it
        is on loopback then."""
        if self._open:
            return True, True
        kind, _, given = authorization.partition(" ")
        found = given.strip().encode("latin-1", "replace") if kind.lower() == "bearer" else b""
        operates, reads = (token is not None and hmac.compare_digest(found, token) for token in (self._token, self._read_token))
        return operates or reads, operates
