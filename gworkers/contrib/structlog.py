"""structlog: every line of a handler says which message it is about.

    middleware: ["gworkers.contrib.structlog:bound"]

with ``structlog.contextvars.merge_contextvars`` among the processors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from structlog.contextvars import bound_contextvars


def bound(message: Any) -> AbstractContextManager[Any]:
    """For ``middleware``: topic, partition, offset and key, of a batch those of its first message."""
    first = message[0] if isinstance(message, list) else message
    key = first.key.decode("utf-8", "backslashreplace") if first.key is not None else None
    return bound_contextvars(topic=first.topic, partition=first.partition, offset=first.offset, key=key)
