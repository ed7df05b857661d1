"""When a process is to be replaced by a new one: after so many messages, so old, or so large.

The bounds are moved a little for each process, so that those that began together do not end together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import gevent

from gworkers import memory
from gworkers.config import schema
from gworkers.config.units import format_duration
from gworkers.loop import Fatal, Loop

#: Seconds between two looks.
INTERVAL = 1.0
#: By what part of it a bound is moved at the most, down only: it is a bound.
JITTER = 0.1


class Recycling:
    """done: how many messages have been settled; recycle: is told why, once."""

    def __init__(self, config: schema.Recycle, done: Callable[[], int], recycle: Callable[[str], None], fatal: Fatal) -> None:
        part = 1 - JITTER * random.random()
        self._messages = max(1, int(part * config.messages)) if config.messages else None
        self._memory = int(part * config.memory) if config.memory is not None else None
        self._age = part * config.age if config.age is not None else None
        self._done = done
        self._recycle = recycle
        self._began = time.monotonic()
        self._loop = Loop("recycling", self._run, fatal, ends=True)

    def start(self) -> None:
        if self._messages is not None or self._memory is not None or self._age is not None:
            self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def _run(self) -> None:
        while True:
            gevent.sleep(INTERVAL)
            why = self._why()
            if why is not None:
                self._recycle(why)
                return

    def _why(self) -> str | None:
        done, age = self._done(), time.monotonic() - self._began
        if self._messages is not None and done >= self._messages:
            return f"recycle.messages: {done:,} messages"
        if self._age is not None and age >= self._age:
            return f"recycle.age: it is {format_duration(round(age))} old"
        size = memory.resident()
        if self._memory is not None and size >= self._memory:
            return f"recycle.memory: it has {size >> 20} MiB"
        return None
