"""Where the brokers are, when none that is known can be connected to (KIP-899).

kafka-python 3.0 asks the bootstrap servers once, at its start, and tries the brokers that it heard of
for ever; they may all have come back at other addresses. Java's client asks again since 4.0.

This file knows the inside of kafka-python; gworkers/kafka/versions.py says of which versions.
"""

from __future__ import annotations

from typing import Any

#: How long the bootstrap servers are asked, in milliseconds.
TIMEOUT_MS = 4000


def connected(manager: Any) -> bool:
    return any(connection.connected for connection in list(manager._conns.values()))


def look_again(manager: Any) -> None:
    """Ask the bootstrap servers, unless a broker is connected. Does not wait; while they are asked
    already it changes nothing."""
    if not connected(manager):
        manager.bootstrap_async(timeout_ms=TIMEOUT_MS)
