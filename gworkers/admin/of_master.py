"""The admin address of several processes: asks each of them at its own, and answers for all.

- ``/healthz`` is well while every process that runs is, and one does;
- ``/readyz`` when one of them is ready;
- ``/status`` has what each of them says of itself;
- ``/stacks`` has the handlers of each, ``/failures`` what failed in each;
- ``/metrics`` has each process's figures under its number, ``process="0"``;
- what operates it goes to each of them; ``/scale`` (``processes``) and ``/reload`` to the master,
  by its signals; ``/replace`` (``process``) to one.

A process of its own beside the master (gworkers.supervisor.master), which tells it on standard input
where the processes are, a JSON object a line, and ends it by closing that.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlencode

import gevent
import gevent.fileobject
from gevent import socket
from gevent.pool import Group

from gworkers.admin import addresses, metrics
from gworkers.admin.answer import Answer, BadRequestError, Request
from gworkers.admin.page.made import site_of
from gworkers.admin.server import Admin, Pages
from gworkers.config.load import Loaded
from gworkers.config.schema import MOST_PROCESSES
from gworkers.errors import Exit

#: How long a process has to answer, in seconds, and how much it may say, in bytes.
PATIENCE = 2.0
MOST = 4 * 2**20
#: What goes to each process as it is asked.
TO_ALL = ("/pause", "/resume", "/quiet", "/go-on", "/retry-now", "/give-up", "/interrupt", "/seek")
#: Seconds between two signals to the master.
SIGNAL_INTERVAL = 0.02


class OfMaster:
    """addresses: number → host:port, None for a process that has not begun to listen."""

    def __init__(self) -> None:
        self.addresses: dict[int, str | None] = {}

    def pages(self) -> Pages:
        return {
            "/livez": partial(self._well, "/livez"),
            "/healthz": partial(self._well, "/healthz"),
            "/readyz": self._ready,
            "/status": partial(self._shown, "/status"),
            "/stacks": partial(self._shown, "/stacks"),
            "/failures": partial(self._shown, "/failures"),
            "/retries": partial(self._shown, "/retries"),
            "/offsets": partial(self._shown, "/offsets"),
            "/log": partial(self._shown, "/log"),
            "/metrics": self._metrics,
        }

    def actions(self) -> Pages:
        """They go to each process with all that was asked."""
        to_all = {path: partial(self._operate, path) for path in TO_ALL}
        return {**to_all, "/scale": self._scale, "/reload": self._reload, "/replace": self._replace}

    def _well(self, path: str, request: Request) -> Answer:
        found = self._ask_all("GET", path, request)
        good = bool(found) and all(status == 200 for status, _ in found.values())
        return Answer.of(good, {"processes": _facts(found)})

    def _ready(self, request: Request) -> Answer:
        found = self._ask_all("GET", "/readyz", request)
        return Answer.of(any(status == 200 for status, _ in found.values()), {"processes": _facts(found)})

    def _shown(self, path: str, request: Request) -> Answer:
        facts = _facts(self._ask_all("GET", path, request))
        good = bool(facts) and all(one["ok"] for one in facts.values())
        return Answer.shown(good, {"processes": facts})

    def _operate(self, path: str, request: Request) -> Answer:
        found = self._ask_all("POST", path, request)
        facts = _facts(found)
        for number, (status, _) in found.items():
            if status == 400:  # what one of them does not take none does
                raise BadRequestError(facts[str(number)]["why"])
        good = bool(found) and all(status == 200 for status, _ in found.values())
        return Answer.of(good, {"processes": facts})

    def _scale(self, request: Request) -> Answer:
        """Their number by as many signals as an operator would send by hand; what each of them runs at
        once by asking it."""
        if "concurrency" in request.query:
            return self._operate("/scale", request)
        wanted, before = request.number("processes"), len(self.addresses)
        if wanted is None or not 1 <= wanted <= MOST_PROCESSES:
            told = request.query.get("processes", "")
            raise BadRequestError(f"processes has to be a number from 1 to {MOST_PROCESSES}, and is {told!r}")
        for _ in range(abs(wanted - before)):
            os.kill(os.getppid(), signal.SIGTTIN if wanted > before else signal.SIGTTOU)
            gevent.sleep(SIGNAL_INTERVAL)  # two of a kind that come at once are one
        return Answer.shown(True, {"processes": wanted, "before": before})

    def _reload(self, request: Request) -> Answer:
        os.kill(os.getppid(), signal.SIGHUP)
        return Answer.shown(True, {"why": "the configuration is checked; if it is right the processes are replaced"})

    def _replace(self, request: Request) -> Answer:
        """One process, which is named."""
        number = request.number("process")
        address = self.addresses.get(number) if number is not None else None
        if number is None or address is None:
            raise BadRequestError("name a process that runs: process, its number")
        told = _ask(address, "POST", "/replace", request.authorization)
        return Answer.shown(told[0] == 200, {"why": _facts({number: told})[str(number)].get("why", "")})

    def _metrics(self, request: Request) -> Answer:
        found = self._ask_all("GET", "/metrics", request)
        return metrics.together({number: body for number, (status, body) in found.items() if status == 200})

    def _ask_all(self, method: str, path: str, request: Request) -> dict[int, tuple[int, str]]:
        """Each process's answer; status 0 of one that gives none."""
        asked = [(number, address) for number, address in sorted(self.addresses.items()) if address]
        target = path + (f"?{urlencode(request.query)}" if request.query else "")
        answers = Group().map(lambda one: _ask(one[1], method, target, request.authorization), asked)
        return {number: answer for (number, _), answer in zip(asked, answers, strict=True)}


def _ask(address: str, method: str, target: str, authorization: str) -> tuple[int, str]:
    host = "localhost" if addresses.path_of(address) is not None else address
    head = f"{method} {target} HTTP/1.0\r\nHost: {host}\r\n" + (f"Authorization: {authorization}\r\n" if authorization else "") + "\r\n"
    data = b""
    with gevent.Timeout(PATIENCE, False), suppress(OSError, ValueError, IndexError):
        with addresses.connected(address, PATIENCE, socket.socket) as connection:
            connection.sendall(head.encode("latin-1"))
            while len(data) < MOST and (more := connection.recv(65536)):
                data += more
        first, _, body = data.partition(b"\r\n\r\n")
        return int(first.split(b" ", 2)[1]), body.decode("utf-8", "replace")
    return 0, ""


def _facts(found: dict[int, tuple[int, str]]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for number, (_, body) in found.items():
        facts[str(number)] = {"ok": False, "why": "it does not answer"}
        with suppress(ValueError):
            facts[str(number)] = json.loads(body)
    return facts


def serve(loaded: Loaded, given: Sequence[str]) -> None:
    """Until standard input ends. given: the options that name the configuration to a command. Raises
    UnavailableError when the port cannot be had."""
    all_of_them = OfMaster()
    config = loaded.config.admin
    assert config.bind is not None
    pages, actions = all_of_them.pages(), all_of_them.actions()
    site = site_of(loaded, pages, actions, given, _end, several=True)
    admin = Admin(config, addresses.resolved(config.bind, loaded.folder), pages, actions, site)
    print(json.dumps({"admin": admin.start()}), flush=True)
    if site is not None:
        site.start()
    for line in gevent.fileobject.FileObject(sys.stdin.buffer, "rb"):
        all_of_them.addresses = {int(number): address for number, address in json.loads(line).items()}
    if site is not None:
        site.stop()
    admin.stop()


def _end(error: BaseException) -> None:
    """A loop of the page has failed: the master starts this process anew."""
    logging.getLogger(__name__).error("the admin address of all processes ends: %s", error)
    os._exit(Exit.INTERNAL)
