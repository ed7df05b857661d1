"""The application's own modules: what in them does not go with many handlers at once.

They are read and not run again: the syntax tree of each file below ``app.path`` that was imported is
looked through for calls that are known to hurt. What is not to be seen there is not found.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gworkers.config.schema import Config
from gworkers.doctor.finding import Finding, Level

#: Packages whose modules are not the application's own.
_FOREIGN = ("site-packages", "dist-packages")

#: Calls that open a connection which two threads cannot share, by their whole names.
_CONNECTIONS = {
    "sqlite3.connect": "a sqlite3 connection is for the thread that made it",
    "psycopg2.connect": "on one connection statements run one after the other, in one transaction",
    "psycopg.connect": "on one connection statements run one after the other, in one transaction",
    "pymysql.connect": "two threads on one connection garble each other's answers",
    "MySQLdb.connect": "two threads on one connection garble each other's answers",
    "mysql.connector.connect": "two threads on one connection garble each other's answers",
    "pika.BlockingConnection": "a connection of pika is for the thread that made it",
    "smtplib.SMTP": "two threads on one connection garble each other's mails",
    "ftplib.FTP": "two threads on one connection garble each other's answers",
    "paramiko.SSHClient": "two threads on one session wait for each other",
}
#: What sizes of pools are called where pools are made, by the last part of the callable's name, with
#: the size that there is without it; None: as many as are asked for.
_POOLS: dict[str, tuple[tuple[str, ...], int | None, int]] = {
    "create_engine": (("pool_size", "max_overflow"), 15, -1),
    "ConnectionPool": (("max_size", "max_connections"), None, -1),
    "ThreadedConnectionPool": (("maxconn",), None, 1),
    "SimpleConnectionPool": (("maxconn",), None, 1),
    "BlockingConnectionPool": (("max_connections",), 50, -1),
    "PooledDB": (("maxconnections",), None, -1),
    "MySQLConnectionPool": (("pool_size",), 5, -1),
    "PoolManager": (("maxsize",), 1, -1),
    "HTTPAdapter": (("pool_maxsize",), 10, -1),
}
#: Pools that make more connections where they are used up, and throw them away afterwards.
_SOFT = ("PoolManager", "HTTPAdapter")
_DEFAULTS = {"pool_size": 5, "max_overflow": 10}


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    tree: ast.Module
    names: dict[str, str]  # what each name that is imported stands for

    def whole(self, node: ast.expr) -> str:
        """The whole name of what is called: ``sqlite3.connect``."""
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return parts[0] if parts else ""
        return ".".join([self.names.get(node.id, node.id), *reversed(parts)])


def findings(config: Config, folder: Path) -> Iterator[Finding]:
    """folder: ``app.path``, whose modules have been imported."""
    for file in _files(folder):
        yield from _shared(file)
        yield from _pools(file, config)
        for look in _CALLS:
            for node in ast.walk(file.tree):
                if isinstance(node, ast.Call):
                    yield from look(file, node, config)


def _files(folder: Path) -> Iterator[_File]:
    folder = folder.resolve()
    seen = set()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if not path or not path.endswith(".py") or path in seen:
            continue
        seen.add(path)
        if not Path(path).resolve().is_relative_to(folder) or any(name in path for name in _FOREIGN):
            continue
        try:
            tree = ast.parse(Path(path).read_bytes(), path)
        except (OSError, SyntaxError, ValueError):
            continue
        yield _File(path, tree, _names(tree))


def _names(tree: ast.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                found[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _shared(file: _File) -> Iterator[Finding]:
    """A connection that is made when the module is imported is every handler's."""
    for statement in file.tree.body:
        for node in ast.walk(statement) if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Expr)) else ():
            why = _CONNECTIONS.get(file.whole(node.func)) if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and why is not None:
                yield Finding(
                    Level.ERROR if "thread that made it" in why else Level.WARNING,
                    f"{file.whole(node.func)} is called once for all handlers, and {why}",
                    f"{file.path}:{node.lineno}",
                    "make one in each thread (hooks.thread_start, threading.local) or take it from a pool",
                )


def _pools(file: _File, config: Config) -> Iterator[Finding]:
    """A pool that is smaller than the concurrency: handlers wait for it or fail."""
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.Call):
            continue
        name = file.whole(node.func).rpartition(".")[2]
        size = _size_of(node, *_POOLS[name]) if name in _POOLS else None
        if size is None or size >= config.most_concurrency or _limited(config, size):
            continue
        what = f"a pool of {size} for {config.most_concurrency} handlers at once"
        if name in _SOFT:
            todo = f"give it {config.most_concurrency}: what is beyond is opened and closed for each request"
            yield Finding(Level.NOTE, what, f"{file.path}:{node.lineno}", todo)
        else:
            todo = (
                f"give it {config.most_concurrency}, or let fewer handlers use it: limits: {{pool: {size}}} and uses: [pool] on its routes"
            )
            yield Finding(Level.WARNING, f"{what}: the others wait, or fail where it does not wait", f"{file.path}:{node.lineno}", todo)


def _size_of(call: ast.Call, names: tuple[str, ...], default: int | None, position: int) -> int | None:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if any(isinstance(node, ast.Attribute) and node.attr in ("NullPool", "StaticPool") for node in ast.walk(call)):
        return None
    found = [_number(given[name]) for name in names if name in given]
    if 0 <= position < len(call.args) and not found:
        found = [_number(call.args[position])]
    if None in found or (not found and default is None):
        return None
    if names == ("pool_size", "max_overflow"):
        sizes = {name: _number(given[name]) if name in given else _DEFAULTS[name] for name in names}
        return None if sizes["pool_size"] == 0 else sum(size or 0 for size in sizes.values())
    return found[0] if found else default


def _number(node: ast.expr) -> int | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _limited(config: Config, size: int) -> bool:
    """Whether no more than ``size`` handlers run at once on any route, by named limits."""
    return all(any(config.limits.get(name, size + 1) <= size for name in route.uses) for route in config.routes.values())


Look = Callable[[_File, ast.Call, Config], Iterator[Finding]]


def _signals(file: _File, call: ast.Call, config: Config) -> Iterator[Finding]:
    name = file.whole(call.func)
    if name in ("signal.signal", "signal.alarm", "signal.setitimer"):
        todo = "use the route's timeout (time_left() says what is left of it) in the place of alarms"
        what = f"{name}: signals come to the main thread alone, which is the server's; a handler has no alarm of its own"
        yield Finding(Level.WARNING, what, f"{file.path}:{call.lineno}", todo)


def _processes(file: _File, call: ast.Call, config: Config) -> Iterator[Finding]:
    name = file.whole(call.func)
    if name in ("os.fork", "multiprocessing.Pool", "multiprocessing.Process", "multiprocessing.pool.Pool"):
        what = f"{name} forks a process with many threads, whose locks may be held for good in the child"
        todo = 'multiprocessing.get_context("spawn"), subprocess, or processes: N in place of it'
        yield Finding(Level.WARNING, what, f"{file.path}:{call.lineno}", todo)


def _process_wide(file: _File, call: ast.Call, config: Config) -> Iterator[Finding]:
    name = file.whole(call.func)
    if name in ("os.chdir", "locale.setlocale", "os.umask", "socket.setdefaulttimeout", "decimal.setcontext", "time.tzset"):
        what = f"{name} is for the whole process: handlers that run at once see each other's"
        yield Finding(Level.NOTE, what, f"{file.path}:{call.lineno}", "call it in app.setup, once, if at all")


def _loops(file: _File, call: ast.Call, config: Config) -> Iterator[Finding]:
    name = file.whole(call.func)
    if config.executor == "greenlet" and name in ("asyncio.run", "asgiref.sync.AsyncToSync", "asgiref.sync.async_to_sync"):
        what = f"{name} with executor: greenlet: all greenlets share a thread, which has one running asyncio loop at the most"
        yield Finding(Level.ERROR, what, f"{file.path}:{call.lineno}", "set executor: thread; an async def handler is awaited there")


def _sqlite(file: _File, call: ast.Call, config: Config) -> Iterator[Finding]:
    texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    name = file.whole(call.func)
    if config.most_concurrency > 1 and (name == "sqlite3.connect" or any(text.startswith("sqlite:///") for text in texts)):
        given = {keyword.arg for keyword in call.keywords}
        if "timeout" not in given and not any(text == "timeout" for text in texts):
            what = f"SQLite with {config.most_concurrency} handlers at once: one writes, the others get 'database is locked' after 5 s"
            todo = "timeout=30, PRAGMA journal_mode=WAL, BEGIN IMMEDIATE; or limits: {sqlite: 1} and uses: [sqlite]"
            yield Finding(Level.WARNING, what, f"{file.path}:{call.lineno}", todo)


_CALLS: tuple[Look, ...] = (_signals, _processes, _process_wide, _loops, _sqlite)
