"""Finding the application's callables by their dotted paths, and saying in a sentence why one
cannot be had."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent.events

from gworkers import codecs
from gworkers.codecs import CODECS, Codec, Decoder, Encode, custom_encoder
from gworkers.config import env_file
from gworkers.config.load import Loaded
from gworkers.config.route import Route as RouteConfig
from gworkers.config.yaml import KeyPath, dotted
from gworkers.errors import ConfigError, Problem, StopAsked
from gworkers.handlers import packages
from gworkers.handlers.around import Surrounding, hook_of, middleware_of
from gworkers.handlers.coroutines import Coroutines
from gworkers.handlers.hints import fit_of, target_of
from gworkers.handlers.hooks import Hooks
from gworkers.handlers.routes import Route, compile_route
from gworkers.message import Record

#: The hooks that are called around a message, and what hooks are called with that get something.
AROUND = ("before", "after", "on_failure")
HOOK_ARGUMENTS = {
    "before": ("message",),
    "after": ("message", "result"),
    "on_failure": ("message", "exception"),
    "on_dead_letter": ("message", "exception"),
}

#: What to do about a package that is not there.
INSTALL = "install it there, or name the Python that has it in app.python"

#: Of a handler that is a class: what it makes can be encoded.
SENDABLE = (str, bytes, int, float, list, tuple, dict, Record)


class ImportProblem(Exception):
    """Why a dotted path leads to no callable. raised: the module is there, and fails."""

    def __init__(self, text: str, *, raised: bool = False) -> None:
        super().__init__(text)
        self.raised = raised


def put_on_path(loaded: Loaded) -> None:
    """Put ``app.path`` first on sys.path and the packages of ``app.python`` last, once, and what
    ``app.env_file`` has into the environment. Raises ConfigError."""
    packages.put_on_path(loaded)
    env_file.put_into_environment(loaded.document.variables)
    folder = str((loaded.folder / loaded.config.app.path).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)


def resolve(path: str) -> Any:
    """What ``module:attribute`` names. Raises ImportProblem with a sentence, naming the user's own
    file and line."""
    module_name, _, attributes = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            raise ImportProblem(
                f"there is no module {missing}; looked in {', '.join(sys.path[:2])} …; is app.path right, and app.python?"
            ) from None
        raise ImportProblem(f"{_at(error, module_name)} imports {missing}, which is not installed in {sys.prefix}; {INSTALL}") from None
    except SyntaxError as error:
        raise ImportProblem(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, StopAsked)):
            raise
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        failed = f"the module {module_name} fails while being imported, at {_at(error, module_name)}: {told}"
        raise ImportProblem(failed, raised=True) from None
    value: Any = module
    for attribute in attributes.split("."):
        if not hasattr(value, attribute):
            names = [name for name in vars(value) if not name.startswith("_") and callable(getattr(value, name))]
            near = f"; it has {', '.join(sorted(names)[:8])}" if names else ""
            raise ImportProblem(f"{module_name} has no {attribute}{near}")
        value = getattr(value, attribute)
    return value


def _at(error: BaseException, module_name: str) -> str:
    """The innermost line of the traceback in the user's own files; importlib's frames and installed
    packages are not theirs."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if not f.filename.startswith("<frozen") and Path(f.filename) != Path(__file__) and "importlib" not in f.filename
    ]
    home = [f for f in own if "site-packages" not in f.filename] or own
    return f"{home[-1].filename}:{home[-1].lineno}" if home else module_name


def _callable(path: str) -> Callable[..., Any]:
    value = resolve(path)
    if not callable(value):
        raise ImportProblem(f"{path} is {type(value).__name__}, which cannot be called")
    function: Callable[..., Any] = value
    return function


def _handler(path: str, arguments: Mapping[str, Any], sends: bool, coroutines: Coroutines | None) -> Callable[[Any], Any]:
    """arguments: by keyword, beside the message; sends: whether what it returns is encoded
    by an encoder of ours, and sent; coroutines: where those are awaited, None where none can be."""
    handler = _callable(path)
    if inspect.isclass(handler) and sends and not issubclass(handler, SENDABLE):
        raise ImportProblem(
            f"{path} is a class, and what calling it makes cannot be sent; name a function, a method, or an object that can be called"
        )
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        pass
    else:
        try:
            signature.bind(object(), **arguments)
        except TypeError as error:
            beside = f" and the arguments {', '.join(arguments)} ({error})" if arguments else ""
            raise ImportProblem(f"{path}{signature} cannot be called with one argument, the message{beside}") from None
    target = target_of(handler)
    if arguments:
        handler = functools.partial(handler, **arguments)
    if inspect.isasyncgenfunction(target):
        raise ImportProblem(f"{path} is an asynchronous generator; make it a coroutine that returns a list of Records, or a generator")
    if not inspect.iscoroutinefunction(target):
        return handler
    if coroutines is None:
        raise ImportProblem(
            f"{path} is a coroutine function, and with executor: greenlet there is no thread for asyncio's loop; "
            "set executor: thread, or make it a plain function"
        )
    return coroutines.awaited(handler)


def _fit(config: RouteConfig, path: str) -> Callable[[Any], Any] | None:
    """What makes of the value what the handler says that it takes."""
    if config.pass_ == "message":
        return None
    found: Callable[[Any], Any] | None = _made(path, functools.partial(fit_of, batch=config.batch is not None))
    return found


def _decoder(name: str) -> Decoder:
    return _codec(name).decode if name in CODECS else Decoder.of(_callable(name))


def decoder_of(loaded: Loaded, route: RouteConfig) -> Decoder:
    """A route's decoder alone, with as much of the application as it imports. Raises ImportProblem."""
    if route.decode not in CODECS:
        put_on_path(loaded)
    return _decoder(route.decode)


def _encoder(name: str) -> Encode:
    return _codec(name).encode if name in CODECS else custom_encoder(_callable(name))


def _codec(name: str) -> Codec:
    if (package := codecs.missing(name)) is not None:
        raise ImportProblem(f"{name} needs the package {package}, which is not installed: pip install 'gworkers[{name}]'")
    return CODECS[name]


def _exception(path: str) -> type[BaseException]:
    value = resolve(path)
    if not (inspect.isclass(value) and issubclass(value, BaseException)):
        raise ImportProblem(f"{path} is not an exception class")
    return value


class _PatchWatch:
    """Notes who has gevent patch the standard library while the application is imported."""

    def __init__(self) -> None:
        self.where: str | None = None

    def __call__(self, event: Any) -> None:
        if self.where is None and isinstance(event, gevent.events.GeventWillPatchModuleEvent) and event.module_name == "threading":
            frames = traceback.extract_stack()
            inside = [index for index, frame in enumerate(frames) if os.path.join("gevent", "monkey") in frame.filename]
            caller = frames[inside[0] - 1]
            self.where = f"{caller.filename}:{caller.lineno}"


@contextmanager
def _unpatched(loaded: Loaded, problems: list[Problem]) -> Iterator[None]:
    """With ``executor: thread`` nothing that is imported may patch the standard library: patched locks
    hang when native threads contend for them."""
    watch = _PatchWatch()
    gevent.events.subscribers.append(watch)
    try:
        yield
    finally:
        gevent.events.subscribers.remove(watch)
    if loaded.config.executor == "thread" and watch.where is not None:
        text = (
            f"{watch.where} calls gevent.monkey.patch_all, and patched locks hang when the native threads of executor: thread "
            "contend for them; take the call away, or set executor: greenlet"
        )
        problems.append(Problem(loaded.document.where(("executor",)), "executor", text))


def load_hooks(loaded: Loaded) -> Hooks:
    """What ``hooks`` names, imported. Raises ConfigError with every problem found."""
    put_on_path(loaded)
    problems: list[Problem] = []
    found: dict[str, Callable[..., object]] = {}
    for name, path in loaded.config.hooks:
        if path is not None and name not in AROUND:
            try:
                found[name] = _hook(path, HOOK_ARGUMENTS.get(name, ()))
            except ImportProblem as error:
                problems.append(Problem(loaded.document.where(("hooks", name)), f"hooks.{name}", str(error)))
    if problems:
        raise ConfigError(*problems)
    return Hooks(**found)


def _made(path: str, make: Callable[[Callable[..., Any]], Any]) -> Any:
    """What ``make`` makes of the callable, which says with a TypeError why it cannot."""
    try:
        return make(_callable(path))
    except TypeError as error:
        raise ImportProblem(f"{path} {error}") from None


def _hook(path: str, names: Sequence[str]) -> Any:
    return _made(path, functools.partial(hook_of, names=names))


def load_routes(loaded: Loaded, *, begin: bool = False) -> list[Route]:
    """The routes with everything they name imported. Raises ConfigError with every problem found.

    begin: for a server, ``app.setup`` is called before, because what is imported may need it (models
    of Django do). Otherwise it is called only when an import fails without it.
    """
    put_on_path(loaded)
    os.environ["GWORKERS_CONCURRENCY"] = str(loaded.config.most_concurrency)  # for pools that are made while it is imported
    problems: list[Problem] = []
    with _unpatched(loaded, problems):
        if begin:
            _run_setup(loaded)
        found, fails = _load(loaded, problems)
        if fails and not begin and loaded.config.app.setup is not None:
            _run_setup(loaded)
            problems.clear()
            found, _ = _load(loaded, problems)
    if problems:
        raise ConfigError(*problems)
    return found


def _load(loaded: Loaded, problems: list[Problem]) -> tuple[list[Route], bool]:
    """What load_routes does, with the problems that are found put into ``problems``; and whether some
    module failed while it was imported."""
    fails = False

    def find(kind: Callable[[str], Any], path: str, *key: str | int) -> Any:
        nonlocal fails
        try:
            return kind(path)
        except ImportProblem as error:
            fails = fails or error.raised
            where: KeyPath = key
            problems.append(Problem(loaded.document.where(where), dotted(where), str(error)))
            return None

    found: list[Route] = []
    middleware = [
        find(functools.partial(_made, make=middleware_of), path, "middleware", index) for index, path in enumerate(loaded.config.middleware)
    ]
    hooks = {
        name: find(functools.partial(_hook, names=HOOK_ARGUMENTS[name]), path, "hooks", name)
        for name in AROUND
        if (path := getattr(loaded.config.hooks, name)) is not None
    }
    surrounding = Surrounding(tuple(middleware), **hooks)
    coroutines = Coroutines() if loaded.config.executor == "thread" else None
    for name, config in loaded.config.routes.items():
        sends = config.output is not None and config.encode in CODECS
        named = functools.partial(_handler, arguments=config.arguments, sends=sends, coroutines=coroutines)
        handler = find(named, config.handler, "routes", name, "handler")
        decoder = find(_decoder, config.decode, "routes", name, "decode")
        encode = find(_encoder, config.encode, "routes", name, "encode")
        only = [find(_exception, path, "routes", name, "retry", "only", i) for i, path in enumerate(config.retry.only)]
        never = [find(_exception, path, "routes", name, "retry", "never", i) for i, path in enumerate(config.retry.never)]
        fit = find(functools.partial(_fit, config), config.handler, "routes", name, "handler") if handler is not None else None
        if not problems:
            route = compile_route(name, config, handler, decoder, encode, only=only, never=never, fit=fit, surrounding=surrounding)
            found.append(route)
    if loaded.config.app.setup is not None:
        find(_callable, loaded.config.app.setup, "app", "setup")
    return found, fails


def _run_setup(loaded: Loaded) -> None:
    """Call ``app.setup``. Raises ConfigError with the user's line when it fails."""
    path = loaded.config.app.setup
    if path is None:
        return
    where = loaded.document.where(("app", "setup"))
    try:
        setup = _callable(path)
    except ImportProblem as error:
        raise ConfigError(Problem(where, "app.setup", str(error))) from None
    try:
        setup()
    except Exception as error:
        told = f"{path} failed at {_at(error, path)}: {type(error).__name__}: {error}"
        raise ConfigError(Problem(where, "app.setup", told)) from error
