"""gworkers: concurrent workers between Kafka topics and ordinary synchronous functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gworkers.message import BatchError, HandlerTimeout, Message, Record, Reject, Retry, idempotency_key, time_left

if TYPE_CHECKING:
    from gworkers.config.schema import Config
    from gworkers.supervisor.server import Server

__version__ = "0.1.0"
__all__ = [
    "BatchError",
    "Config",
    "HandlerTimeout",
    "Message",
    "Record",
    "Reject",
    "Retry",
    "Server",
    "__version__",
    "idempotency_key",
    "time_left",
]


def __getattr__(name: str) -> Any:
    """Server and Config are imported when they are asked for: a handler that needs Retry should not
    load a server."""
    if name == "Server":
        from gworkers.supervisor.server import Server

        return Server
    if name == "Config":
        from gworkers.config.schema import Config

        return Config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
