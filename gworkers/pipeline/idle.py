"""Workers that found nothing to do, and waking as many of them as there is work for."""

from __future__ import annotations

from collections import deque
from typing import Any

import gevent
import gevent.hub


class Idle:
    """All methods run on the hub's thread; ``wait`` is called by the workers' greenlets."""

    def __init__(self) -> None:
        self._parked: deque[Any] = deque()
        self._coming = 0  # woken, and not yet back from ``wait``
        self._hub = gevent.hub.get_hub()

    def wait(self) -> None:
        """Block until there may be something to do."""
        me = gevent.getcurrent()
        self._parked.append(me)
        try:
            self._hub.switch()
        except BaseException:  # killed where it waits
            if me in self._parked:
                self._parked.remove(me)
                self._coming += 1
            raise
        finally:
            self._coming -= 1

    def wake(self, ready: int) -> None:
        """There are ``ready`` jobs to be had: let as many workers come, those that are on their way
        included."""
        count = min(len(self._parked), ready - self._coming)
        for _ in range(count):
            self._coming += 1
            self._hub.loop.run_callback(self._parked.pop().switch)

    def wake_all(self) -> None:
        self.wake(len(self._parked) + self._coming)
