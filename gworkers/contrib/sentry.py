"""Sentry: which message an error is about, and each that has failed for good.

    middleware: ["gworkers.contrib.sentry:scope"]
    hooks: {on_dead_letter: "gworkers.contrib.sentry:dead_letter"}

``sentry_sdk.init`` is the application's own, in ``app.setup`` or ``hooks.process_start``. Without
these two Sentry's integration for logging still sees the first failure of each kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sentry_sdk


def _tell(scope: Any, message: Any) -> None:
    first = message[0] if isinstance(message, list) else message
    scope.set_tag("kafka.topic", first.topic)
    scope.set_context(
        "kafka",
        {
            "topic": first.topic,
            "partition": first.partition,
            "offset": first.offset,
            "key": repr(first.key)[:200],
            "attempt": first.attempt,
        },
    )


def scope(message: Any, proceed: Callable[[], Any]) -> Any:
    """For ``middleware``: what the handler reports carries the message's place, and what it sets stays
    with this message."""
    with sentry_sdk.isolation_scope() as found:
        _tell(found, message)
        return proceed()


def dead_letter(message: Any, error: BaseException) -> None:
    """For ``hooks.on_dead_letter``: report the exception of a message that has failed for good."""
    with sentry_sdk.new_scope() as found:
        _tell(found, message)
        sentry_sdk.capture_exception(error)
