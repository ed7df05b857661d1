"""kafka-python on gevent, and nothing else.

kafka-python starts threads and blocks on sockets and locks. Under gevent these must be greenlets,
gevent's sockets and gevent's locks; the application beside it must keep the ordinary standard
library, because its handlers run in native threads, where gevent's locks lose wake-ups. So
kafka-python is loaded a second time, privately:

1. its modules are executed with an ``__import__`` of their own, which answers ``threading``,
   ``socket``, ``ssl``, ``select``, ``selectors`` and ``time`` with gevent's versions and ``kafka…``
   with the private modules;
2. where they look into ``sys.modules`` or read a resource of their own package, they find the
   private modules too;
3. everything else they import is the ordinary module, imported in the ordinary way;
4. ``sys.modules`` is never touched: ``import kafka`` in the application gives the ordinary
   kafka-python.

Because an import statement looks up ``__import__`` in the globals of the function that runs it,
this holds for imports that kafka-python makes later, inside a function, as well.

In a process patched by ``gevent.monkey.patch_all()`` (executor: greenlet) the ordinary modules are
green already and are used as they are.
"""

from __future__ import annotations

import builtins
import collections
import importlib
import importlib.machinery
import importlib.util
import pathlib
import sys
import types
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import gevent
import gevent.event
import gevent.local
import gevent.lock
import gevent.monkey

PACKAGE = "kafka"

#: The names of ``threading`` that kafka-python uses; a test compares them with the installed
#: version.
THREADING_NAMES = ("Condition", "Event", "Lock", "RLock", "Thread", "TIMEOUT_MAX", "current_thread", "local")


class Thread:
    """The part of threading.Thread that kafka-python uses, as a greenlet."""

    def __init__(
        self,
        target: Any = None,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        daemon: bool | None = None,
    ) -> None:
        self.name = name or f"greenlet-{id(self):x}"
        self.daemon = bool(daemon)
        self._target = target
        self._args = args
        self._kwargs = dict(kwargs or {})
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        if self._greenlet is not None:
            raise RuntimeError("threads can only be started once")
        greenlet = gevent.Greenlet(self.run)
        greenlet.kafka_thread = self
        self._greenlet = greenlet
        greenlet.start()

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def join(self, timeout: float | None = None) -> None:
        if self._greenlet is not None:
            self._greenlet.join(timeout)

    def is_alive(self) -> bool:
        return self._greenlet is not None and not self._greenlet.dead

    @property
    def ident(self) -> int | None:
        return id(self._greenlet) if self._greenlet is not None else None


class Condition:
    """threading.Condition for greenlets of one hub: waiters are woken in the order they came."""

    def __init__(self, lock: Any = None) -> None:
        self._lock = lock if lock is not None else gevent.lock.RLock()
        self._waiters: list[gevent.event.Event] = []
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self._lock.__exit__(*exc)

    def wait(self, timeout: float | None = None) -> bool:
        event = gevent.event.Event()
        self._waiters.append(event)
        self._lock.release()
        try:
            return bool(event.wait(timeout))
        finally:
            if event in self._waiters:
                self._waiters.remove(event)
            self._lock.acquire()

    def notify(self, n: int = 1) -> None:
        for event in self._waiters[:n]:
            self._waiters.remove(event)
            event.set()

    def notify_all(self) -> None:
        self.notify(len(self._waiters))


_OUTSIDE = Thread(name="MainThread")


def current_thread() -> Thread:
    """The Thread whose greenlet is running; one stand-in object for all greenlets that are not such
    threads."""
    thread: Thread = getattr(gevent.getcurrent(), "kafka_thread", _OUTSIDE)
    return thread


def lock() -> gevent.lock.Semaphore:
    """A lock for greenlets: gevent's semaphore is written in C, its BoundedSemaphore-based Lock is
    not."""
    return gevent.lock.Semaphore(1)


def _threading() -> types.ModuleType:
    module = types.ModuleType("threading", "What kafka-python needs of threading, on greenlets.")
    for name, value in {
        "Condition": Condition,
        "Event": gevent.event.Event,
        "Lock": lock,
        "RLock": gevent.lock.RLock,
        "Thread": Thread,
        "TIMEOUT_MAX": float(2**31),
        "current_thread": current_thread,
        "local": gevent.local.local,
    }.items():
        setattr(module, name, value)
    return module


class _Loader:
    """Executes kafka-python's modules in a registry of its own; see the head of this file."""

    def __init__(self) -> None:
        self.modules: dict[str, types.ModuleType] = {}
        self.substitutes: dict[str, types.ModuleType] = {"threading": _threading()}
        for name in ("socket", "ssl", "select", "selectors", "time"):
            self.substitutes[name] = importlib.import_module(f"gevent.{name}")
        self.substitutes["sys"] = self._sys()
        self.substitutes["importlib"] = self.substitutes["importlib.resources"] = self._importlib()  # import a.b binds a
        self._builtins = dict(vars(builtins), __import__=self._import)

    def _sys(self) -> types.ModuleType:
        """``sys`` as kafka-python sees it: its own modules are where it looks for them by
        ``sys.modules[__name__]``."""
        module = types.ModuleType("sys")
        module.__dict__.update(vars(sys), modules=collections.ChainMap(self.modules, sys.modules))
        return module

    def _importlib(self) -> types.ModuleType:
        """``importlib`` as kafka-python sees it: what it loads or reads by name comes from the
        private packages."""
        module, resources = types.ModuleType("importlib"), types.ModuleType("importlib.resources")

        def read_text(package: str, resource: str, encoding: str = "utf-8", errors: str = "strict") -> str:
            folder = self.load(package).__path__[0]
            return pathlib.Path(folder, resource).read_text(encoding, errors)

        def import_module(name: str, package: str | None = None) -> types.ModuleType:
            return self.load(name) if _is_kafka(name) else importlib.import_module(name, package)

        resources.__dict__.update(read_text=read_text)
        module.__dict__.update(vars(importlib), resources=resources, import_module=import_module)
        return module

    def load(self, name: str) -> types.ModuleType:
        """The private module ``name`` (``kafka`` or below), executed at its first call.

        Raises ModuleNotFoundError when kafka-python has no such module.
        """
        if name in self.modules:
            return self.modules[name]
        parent_name, _, last = name.rpartition(".")
        parent = self.load(parent_name) if parent_name else None
        if name in self.modules:  # importing the parent may have brought it in
            return self.modules[name]
        path = list(parent.__path__) if parent is not None and hasattr(parent, "__path__") else None
        if parent is not None and path is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        code = spec.loader.get_code(name)
        assert code is not None
        module = importlib.util.module_from_spec(spec)
        module.__dict__["__builtins__"] = self._builtins
        self.modules[name] = module
        try:
            exec(code, module.__dict__)
        except BaseException:
            self.modules.pop(name, None)
            raise
        if parent is not None:
            setattr(parent, last, module)
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        if level:
            package = str((globals or {}).get("__package__") or "")
            name = importlib.util.resolve_name("." * level + name, package)
        if name in self.substitutes:
            return self.substitutes[name]
        if not _is_kafka(name):
            return builtins.__import__(name, globals, locals, fromlist or (), 0)
        module = self.load(name)
        if not fromlist:
            return self.modules[PACKAGE]
        for attribute in fromlist:
            if attribute != "*" and not hasattr(module, attribute) and hasattr(module, "__path__"):
                try:
                    self.load(f"{name}.{attribute}")
                except ModuleNotFoundError as error:
                    if error.name != f"{name}.{attribute}":
                        raise
        return module


def _is_kafka(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


@lru_cache(maxsize=1)
def _loader() -> _Loader:
    return _Loader()


def patched() -> bool:
    """True when gevent.monkey has patched this process's threads."""
    return bool(gevent.monkey.is_module_patched("threading"))


def module(name: str = PACKAGE) -> Any:
    """The green module ``kafka…``: private in an ordinary process, the ordinary one in a patched
    process.

    Typed Any because kafka-python ships no types.
    """
    if patched():
        return importlib.import_module(name)
    return _loader().load(name)


def private_modules() -> dict[str, types.ModuleType]:
    """What has been loaded privately so far, by name: for tests and for the curious."""
    return dict(_loader().modules) if not patched() else {k: v for k, v in sys.modules.items() if k.startswith(PACKAGE)}
