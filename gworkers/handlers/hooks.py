"""What the application has done when processes and handler threads begin and end: ``hooks``.

Plain callables without arguments. ``process_start`` runs once, after the routes are imported and
before the first message; ``thread_start`` in each thread that runs handlers, before its first message;
``thread_stop`` in each of them at its end; ``process_stop`` once, after the last handler, on every
stop that is not a crash. ``ready`` is asked when ``/readyz`` is (gworkers.admin.ready_check). What a
stop hook raises is logged; what a start hook raises ends the process. What is called around a message
is in gworkers.handlers.around, but for ``on_dead_letter``, which is told of what the hub decides
(gworkers.server.dead_letter_hook).

With ``executor: greenlet`` the greenlets that run handlers are what the application sees as threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gworkers.errors import FatalError

log = logging.getLogger(__name__)

Hook = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Hooks:
    """None where there is none."""

    process_start: Hook | None = None
    process_stop: Hook | None = None
    thread_start: Hook | None = None
    thread_stop: Hook | None = None
    ready: Hook | None = None
    on_dead_letter: Callable[[Any, BaseException], object] | None = None


def run_at_start(hook: Hook | None, name: str) -> None:
    """Raises FatalError with what it raises."""
    if hook is None:
        return
    try:
        hook()
    except (Exception, SystemExit) as error:
        raise FatalError(f"hooks.{name} failed: {type(error).__name__}: {error}") from error


def run_at_stop(hook: Hook | None, name: str) -> None:
    """Nothing that it raises holds up the stop."""
    if hook is None:
        return
    try:
        hook()
    except BaseException:
        log.exception("hooks.%s failed, and the stop goes on", name)
