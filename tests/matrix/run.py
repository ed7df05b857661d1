"""Handlers as each library's own documentation writes them, on a real server with concurrency 64 in
both executors, the service they speak to beside it; and once more while that is started anew in the
middle. ``bin/test matrix`` runs it and writes docs/compatibility.md with ``--write``.

Wanted each time: nothing lost, nothing dead, results as when the function is called one message after
the other, status 0 at the stop, and no connection left at the service.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.matrix.servers import SERVERS, Server, left
from tests.support import broker
from tests.support.servers import ENVIRONMENT, ROOT, Running, configuration, consume, create_topic, produce, unique, until

APPS = Path(__file__).parent / "apps"
#: What several of them import.
SHARED = "django_project.py"
#: What earlier rounds of ``--write`` found.
KEPT = ROOT / ".cache" / "matrix.json"
CONCURRENCY = 64
#: Values whose results are compared with those of the function called here, one after the other.
COMPARED = 50
#: Seconds without one more message after which a round hangs.
STANDS_STILL = 120.0


@dataclass(frozen=True)
class Library:
    """name: as in the table; app: the module of its handler; service: of SERVERS; distribution: whose
    version is told; executors: those that it is for; why: why not the other; limit: how many handlers
    at once, where its pool turns others away."""

    name: str
    app: str
    service: str | None = None
    distribution: str | None = None
    executors: tuple[str, ...] = ("thread", "greenlet")
    why: str = ""
    limit: int | None = None

    @property
    def source(self) -> str:
        return (APPS / f"{self.app}.py").read_text()

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.distribution) if self.distribution is not None else platform.python_version()


LIBRARIES = (
    Library("psycopg 3, psycopg_pool", "psycopg3_pool", "PostgreSQL", "psycopg", limit=20),
    Library("psycopg2, its pool", "psycopg2_pool", "PostgreSQL", "psycopg2-binary", limit=20),
    Library("SQLAlchemy", "sqlalchemy_session", "PostgreSQL", "SQLAlchemy", limit=20),
    Library("Django, PostgreSQL", "django_orm", "PostgreSQL", "Django"),
    Library("Django, MariaDB", "django_mariadb", "MariaDB", "Django"),
    Library("peewee", "peewee_database", "PostgreSQL", "peewee"),
    Library("PyMySQL", "pymysql_connection", "MariaDB", "PyMySQL"),
    Library("redis-py", "redis_client", "Redis", "redis"),
    Library("pymemcache", "pymemcache_pool", "memcached", "pymemcache"),
    Library("requests", "requests_session", "HTTP", "requests"),
    Library("urllib3", "urllib3_pool", "HTTP", "urllib3"),
    Library("httpx", "httpx_client", "HTTP", "httpx"),
    Library("urllib.request, TLS", "urllib_request", "HTTP"),
    Library("smtplib", "smtplib_mail", "SMTP"),
    Library("ftplib", "ftplib_file", "FTP"),
    Library("pika", "pika_channel", "RabbitMQ", "pika"),
    Library("boto3", "boto3_s3", "S3 (moto)", "boto3"),
    Library("sqlite3, a connection a thread", "sqlite_local", "a file", executors=("thread",), why="its waits hold the hub"),
    Library("numpy, pandas", "numpy_pandas", None, "pandas"),
    Library("lxml", "lxml_tree", None, "lxml"),
    Library("Pillow", "pillow_image", None, "pillow"),
    Library("subprocess", "subprocess_run"),
    Library("ThreadPoolExecutor", "thread_pool"),
    Library("ProcessPoolExecutor", "process_pool", executors=("thread",), why="its threads and pipes are not gevent's"),
    Library("asyncio.run", "asyncio_run", executors=("thread",), why="all greenlets share one thread, which has one loop at a time"),
    Library("handlers of logging", "logging_handlers", "a file"),
    Library("contextvars, thread locals, lru_cache, decimal, locale", "locals_and_caches"),
    Library("re, which holds the interpreter's lock", "holds_the_lock"),
)


@dataclass
class Row:
    """What came of one library in one round. rate: messages a second, by the times at
    which the broker appended results."""

    lost: int = 0
    dead: int = 0
    twice: int = 0
    wrong: int = 0
    rate: float = 0.0
    left: int = 0
    status: int = 0
    hung: bool = False

    @property
    def good(self) -> bool:
        return not (self.lost or self.dead or self.wrong or self.left or self.status or self.hung)

    def told(self) -> str:
        if self.good:
            return f"{self.rate:,.0f}/s" + (f", {self.twice} twice" if self.twice else "")
        parts = [f"{getattr(self, name)} {name}" for name in ("lost", "dead", "twice", "wrong", "left") if getattr(self, name)]
        return ", ".join([*parts, *(["hung"] if self.hung else []), *([f"status {self.status}"] if self.status else [])])


def expected(library: Library, environment: dict[str, str]) -> dict[str, str]:
    """Results of the first messages, from a plain Python that calls the function one after the
    other."""
    script = (
        "import importlib, json, sys\n"
        f"app = importlib.import_module({library.app!r})\n"
        "if __name__ == '__main__':\n"
        "    getattr(app, 'begin', lambda: None)()\n"
        "    found = {}\n"
        f"    for n in range({COMPARED}):\n"
        "        for attempt in range(20):\n"
        "            try:\n"
        "                found[str(n)] = app.handle(str(n))\n"
        "                break\n"
        "            except Exception as error:\n"
        "                print(error, file=sys.stderr)\n"
        "    print(json.dumps(found))\n"
        "    getattr(app, 'thread_end', lambda: None)()\n"
        "    getattr(app, 'end', lambda: None)()\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(script)
        file.flush()
        done = subprocess.run([sys.executable, file.name], env={**environment, "PYTHONPATH": str(APPS)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


#: Hooks that several libraries share, of one module that is written for a round.
_HOOKS = """import importlib

APPS = [importlib.import_module(name) for name in {apps}]

def every(name):
    def call():
        for app in APPS:
            getattr(app, name, lambda: None)()
    return call

begin, end, thread_end = every("begin"), every("end"), every("thread_end")
"""


class Round:
    """Libraries together in one server; alone, where there is one."""

    def __init__(self, kafka: str, libraries: Sequence[Library], executor: str, count: int, services: dict[str, Server]) -> None:
        self._kafka = kafka
        self.libraries = libraries
        self._count = count
        self._services = {library.service: services[library.service] for library in libraries if library.service is not None}
        self.environment = {**ENVIRONMENT}
        for service in self._services.values():
            self.environment |= service.env
        self._topics = {library: create_topic(kafka, unique("matrix-in")) for library in libraries}
        appended: dict[str, Any] = {"message_timestamp_type": "LogAppendTime"}
        self._outputs = {library: create_topic(kafka, unique("matrix-out"), **appended) for library in libraries}
        self._dead = create_topic(kafka, unique("matrix-dead"))
        self.config = self._configuration(executor)

    def _configuration(self, executor: str) -> dict[str, Any]:
        config = configuration(self._kafka, "", "", concurrency=CONCURRENCY, executor=executor, admin={"bind": "127.0.0.1:0"})
        retry = {"attempts": 40, "backoff": "100ms", "max_backoff": "1s"}
        config["routes"] = {
            library.app: {
                "topics": [self._topics[library]],
                "handler": f"{library.app}:handle",
                "decode": "text",
                "encode": "text",
                "output": self._outputs[library],
                "dead_letter": self._dead,
                "retry": retry,
                **({"uses": [library.app]} if library.limit is not None else {}),
            }
            for library in self.libraries
        }
        config["limits"] = {library.app: library.limit for library in self.libraries if library.limit is not None}
        config["app"] = {"path": "."}
        config["dead_letters"] = {"never_succeeded": 0}
        if any(library.app.startswith("django") for library in self.libraries):
            config["middleware"] = ["gworkers.contrib.django:connections"]
        config["hooks"] = {"process_start": "hooks:begin", "process_stop": "hooks:end", "thread_stop": "hooks:thread_end"}
        return config

    def run(self, *, restart: bool) -> dict[Library, Row]:
        wanted = {library: expected(library, self.environment) for library in self.libraries}
        for topic in self._topics.values():
            produce(self._kafka, topic, ((b"%d" % n, b"%d" % n) for n in range(self._count)))
        total = self._count * len(self.libraries)
        rows = {library: Row() for library in self.libraries}
        with tempfile.TemporaryDirectory(prefix="gworkers-matrix-") as folder:
            for library in self.libraries:
                (Path(folder) / f"{library.app}.py").write_text(library.source)
            (Path(folder) / SHARED).write_text((APPS / SHARED).read_text())
            (Path(folder) / "hooks.py").write_text(_HOOKS.format(apps=[library.app for library in self.libraries]))
            server = Running(Path(folder), self.config, env=self.environment)
            try:
                hung = self._watch(server, total, restart)
                status = server.stop(60) if not hung else -1
                remains = survivors(server.process.pid)
                if remains:
                    print(f"left behind: {remains}", file=sys.stderr)
                log = server.log
            finally:
                server.close()
        remaining = {name: left(service) for name, service in self._services.items()}
        for library, row in rows.items():
            self._look(library, row, wanted[library])
            row.status, row.hung = status, hung
            row.left = remaining.get(library.service or "", 0) + len(remains)
        if not all(row.good for row in rows.values()):
            print(log[-6000:], file=sys.stderr)
        return rows

    def _watch(self, server: Running, total: int, restart: bool) -> bool:
        """Until the last message; True when that never came."""
        address = server.says(r"admin at (\S+)", 60)[1]

        def done() -> int:
            return int(requests.get(f"http://{address}/status", timeout=30).json()["done"])

        until(lambda: done() > 0, 60, "the first message")
        before, since = 0, time.monotonic()
        while (now := done()) < total and time.monotonic() - since < STANDS_STILL:
            if now > before:
                before, since = now, time.monotonic()
            if restart and now > total // 3:
                restart = False
                for service in self._services.values():
                    service.restart()
            time.sleep(0.05)
        return now < total

    def _look(self, library: Library, row: Row, wanted: dict[str, str]) -> None:
        found: Counter[bytes] = Counter()
        times = []
        for message in consume(self._kafka, self._outputs[library], timeout=60):
            found[message.key()] += 1
            times.append(message.timestamp()[1] / 1000)
            right = wanted.get(message.key().decode())
            row.wrong += right is not None and message.value().decode() != right
        row.rate = len(times) / max(0.001, max(times, default=0.0) - min(times, default=0.0))
        row.lost = sum(b"%d" % n not in found for n in range(self._count))
        row.twice = sum(found.values()) - len(found)
        row.dead = sum(dict(m.headers())["gworkers-route"] == library.app.encode() for m in consume(self._kafka, self._dead, timeout=60))


def survivors(session: int, patience: float = 10.0) -> list[str]:
    """The processes of a session that run, after those that are about to end have ended."""
    deadline = time.monotonic() + patience
    while True:
        found = []
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, _, own, *_ = file.read_text().rpartition(")")[2].split()
                if int(own) == session and state != "Z":
                    found.append((file.parent / "cmdline").read_text().replace("\0", " "))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


@contextmanager
def services_of(libraries: Sequence[Library]) -> Iterator[dict[str, Server]]:
    """Started, and closed at the end. Raises debian.NotHere."""
    with ExitStack() as stack:
        found: dict[str, Server] = {}
        for name in dict.fromkeys(library.service for library in libraries if library.service is not None):
            service = found[name] = SERVERS[name]()
            stack.callback(service.close)
            service.start()
        yield found


def page(rows: dict[str, dict[str, str]], count: int) -> str:
    head = f"""# Compatibility

Made by `bin/test matrix --write`: {count:,} messages through a handler as each library's documentation
writes it, concurrency {CONCURRENCY}, Python {platform.python_version()}, {os.cpu_count()} cores with Kafka and the service beside them.
Each was run in both executors, and once more while the service was started anew in the middle. A rate
stands where nothing was lost, nothing dead-lettered, results were as when the function is called one
message after the other, the server ended with 0, and no connection was left at the service and no
process of the server's. The handlers are in `tests/matrix/apps`; how many a second there are says
more of the libraries and of what else the machine did than of the server.

| library | version | beside it | threads | service restarts | greenlets | service restarts |
|---|---|---|---|---|---|---|
"""
    lines = []
    for library in LIBRARIES:
        row = rows.get(library.name)
        if row is not None:
            cells = [row.get(f"{executor} {again}", "–") for executor in ("thread", "greenlet") for again in (False, True)]
            lines.append(f"| {library.name} | {library.version} | {library.service or '–'} | {' | '.join(cells)} |")
    reasons = [
        "- psycopg2, and peewee with it, waits in C: greenlets have their statements run one after the other.",
        "- subprocess forks in Python where gevent has patched it, and the hub stands still for it.",
        *(f"- {library.name} is not for greenlets: {library.why}." for library in LIBRARIES if library.why),
    ]
    return head + "\n".join(lines) + "\n\n" + "\n".join(reasons) + "\n"


def write(told: dict[str, dict[str, str]], count: int) -> None:
    """What has been found so far, which ``--only`` goes on with."""
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(told))
    (ROOT / "docs" / "compatibility.md").write_text(page(told, count))


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/test matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--only", action="append", help="a library's module in tests/matrix/apps; may be given several times")
    parser.add_argument("--write", action="store_true", help="write docs/compatibility.md; with --only those rows anew")
    options = parser.parse_args()
    chosen = [library for library in LIBRARIES if not options.only or library.app in options.only]
    kafka = broker.Kafka()
    kafka.start()
    good = True
    told: dict[str, dict[str, str]] = json.loads(KEPT.read_text()) if options.write and options.only and KEPT.exists() else {}
    try:
        with services_of(chosen) as services:
            for library in chosen:
                for executor in library.executors:
                    for restart in (False, True) if library.service not in (None, "a file") else (False,):
                        row = Round(kafka.servers, [library], executor, options.messages, services).run(restart=restart)[library]
                        told.setdefault(library.name, {})[f"{executor} {restart}"] = row.told()
                        if options.write:
                            write(told, options.messages)
                        print(f"{library.name}, {executor}{', restarted' if restart else ''}: {row.told()}", flush=True)
                        good &= row.good
    finally:
        kafka.stop()
    return 0 if good else 1


if __name__ == "__main__":
    broker.close_when_asked_to_end()
    sys.exit(main())
