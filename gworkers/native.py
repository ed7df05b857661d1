"""Calling on a native thread from the hub: what blocks there holds nothing else up.

gevent's pool prints the trace of whatever is raised in a thread of it, beside raising it in the
caller; here it is only raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.threadpool import ThreadPool


def call(pool: ThreadPool | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function(*arguments)`` returns or raises, on a thread of ``pool``; where the process is
    patched there need be none, and it is called here. Blocks the greenlet alone."""
    if pool is None:
        return function(*arguments)
    answer, error = pool.apply(_caught, (function, arguments))
    if error is not None:
        raise error
    return answer


def _caught(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, error
