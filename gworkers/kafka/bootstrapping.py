"""Where the brokers are, when none that is known can be connected to (KIP-899).

kafka-python 3.0 asks the bootstrap servers once, at its start, and tries the brokers that it heard of
for ever; they may all have come back at other addresses. Java's client asks again since 4.0.

This file knows the inside of kafka-python; gworkers/kafka/versions.py says of which versions.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from gworkers.errors import one_line

log = logging.getLogger(__name__)

#: How long the bootstrap servers are asked, in seconds.
TIMEOUT = 4.0


def connected(manager: Any) -> bool:
    return any(connection.connected for connection in list(manager._conns.values()))


def look_again(manager: Any) -> None:
    """Ask the bootstrap servers, unless a broker is connected. Does not wait; while they are asked
    already it changes nothing.

    Beside kafka-python's own bootstrap: when that one fails, for a login that is refused for
    instance, its client never looks for anything again.
    """
    looking = getattr(manager, "gworkers_looks", None)
    if connected(manager) or (looking is not None and not looking.is_done):
        return
    manager.gworkers_looks = looking = manager.call_soon(manager._do_bootstrap, time.monotonic() + TIMEOUT)
    looking.add_errback(lambda error: log.debug("the bootstrap servers do not tell where the brokers are: %s", one_line(error)))
