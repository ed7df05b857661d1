"""What the application has put around its handlers: ``middleware``, ``hooks.before``, ``after`` and
``on_failure``.

    before ─► middleware, the first outside ─► handler ─► … ─► after ─► results
                              │ an attempt that failed
                              └─► on_failure

All of it runs where the handler runs, within its time limit, in the message's own context. What
``before``, a middleware or ``after`` raises fails the attempt as if the handler had raised it; what
``on_failure`` raises is logged. Around a batch there is a list of messages in the place of a message.

A middleware is one of two things, told apart by what it can be called with:

- a function of the message and of what goes on, ``def timed(message, proceed): … return proceed()``,
  which may hand another value to ``proceed(value)``, return another result, or raise;
- what makes a context manager, of the message or of nothing: ``app.app_context`` of Flask is one.

Hooks get as many of their arguments as they can be called with, so that a function of none will do.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import GeneratorType
from typing import Any

from gworkers.errors import PassedOverError
from gworkers.handlers.job import Row

log = logging.getLogger(__name__)

#: A handler with its message: called with the message, or messages, and with what it takes.
Around = Callable[[Any, Any], Any]


_carried: ContextVar[Mapping[str, bytes]] = ContextVar("gworkers_carried")


def carry(headers: Mapping[str, bytes]) -> None:
    """For a middleware: what the running handler's results send has these headers as well, in the
    place of others of their names."""
    _carried.set({**_carried.get({}), **headers})


def carrying(rows: list[Row] | None) -> list[Row] | None:
    """The rows with what a middleware has said that they carry."""
    more = _carried.get(None)
    if not more or not rows:
        return rows
    return [
        (topic, partition, key, value, [*(one for one in headers if one[0] not in more), *more.items()], timestamp)
        for topic, partition, key, value, headers, timestamp in rows
    ]


class Yielded(list[Any]):
    """What a generator has yielded: each is a result of its own."""


@dataclass(frozen=True, slots=True)
class Surrounding:
    """What is around every handler, with the arguments that each takes settled. None where there is
    none."""

    middleware: tuple[Callable[[Around], Around], ...] = ()
    before: Callable[[Any], object] | None = None
    after: Callable[[Any, Any], object] | None = None
    on_failure: Callable[[Any, BaseException], object] | None = None

    def __bool__(self) -> bool:
        return bool(self.middleware or self.before or self.after or self.on_failure)

    def around(self, handler: Callable[[Any], Any]) -> Around:
        """The handler with all of it around."""
        before, after = self.before, self.after

        def call(message: Any, value: Any) -> Any:
            result = handler(value)
            return Yielded(result) if isinstance(result, GeneratorType) else result  # its body runs in here

        inner: Around = call
        for wrap in reversed(self.middleware):
            inner = wrap(inner)
        if before is None and after is None:
            return inner

        def whole(message: Any, value: Any) -> Any:
            if before is not None:
                before(message)
            result = inner(message, value)
            if after is not None:
                after(message, result)
            return result

        return whole

    def failed(self, message: Any, error: BaseException) -> None:
        """An attempt has failed with ``error``."""
        if self.on_failure is None or isinstance(error, PassedOverError):
            return
        try:
            self.on_failure(message, error)
        except Exception:
            log.exception("hooks.on_failure failed, and the message goes the way that it would have gone")


def middleware_of(found: Callable[..., Any]) -> Callable[[Around], Around]:
    """What puts ``found`` around a handler. Raises TypeError with a sentence when it can be called
    neither way."""
    if _takes(found, 2):
        return partial(_function, found)
    for count in (1, 0):
        if _takes(found, count):
            return partial(_context_manager, found, count)
    raise TypeError("takes neither a message and what goes on (message, proceed), nor makes a context manager of a message or of nothing")


def _function(middleware: Callable[[Any, Callable[..., Any]], Any], inner: Around) -> Around:
    def around(message: Any, value: Any) -> Any:
        def proceed(*changed: Any) -> Any:
            return inner(message, changed[0] if changed else value)

        return middleware(message, proceed)

    return around


def _context_manager(make: Callable[..., Any], count: int, inner: Around) -> Around:
    def around(message: Any, value: Any) -> Any:
        with make(message) if count else make():
            return inner(message, value)

    return around


def hook_of(found: Callable[..., Any], names: Sequence[str]) -> Callable[..., object]:
    """``found`` as a function of the arguments ``names``, of which it gets as many as it takes. Raises
    TypeError with a sentence when it takes more."""
    most = len(names)
    for count in range(most, -1, -1):
        if _takes(found, count):
            return found if count == most else partial(_first, found, count)
    raise TypeError(f"cannot be called with {' and '.join(f'the {name}' for name in names) or 'nothing'}")


def _first(found: Callable[..., object], count: int, *arguments: Any) -> object:
    return found(*arguments[:count])


def _takes(found: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with so many arguments; a function of C that does not say can."""
    try:
        inspect.signature(found).bind(*[None] * count)
    except ValueError:
        return True
    except TypeError:
        return False
    return True
