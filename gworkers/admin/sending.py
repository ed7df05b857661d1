"""``metrics``: the figures of ``/metrics`` are sent, too, for those who do not come and fetch them.

A loop looks at the snapshot each ``metrics.interval``; what it found is sent on a native thread of its
own (with ``executor: greenlet`` in the loop's greenlet), because the other end may be slow or away.
What cannot be sent is told once, and again when it can; figures are counted on, so that nothing but
the time between is missing.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import gevent
from gevent.threadpool import ThreadPool

from gworkers import native
from gworkers.admin.metrics import FIGURES, Found
from gworkers.config.load import Loaded
from gworkers.config.schema import Config
from gworkers.config.section import named
from gworkers.config.units import format_duration
from gworkers.errors import Problem, one_line
from gworkers.loop import Fatal, Loop
from gworkers.pipeline.snapshot import Snapshot

log = logging.getLogger(__name__)

#: Seconds that the last figures may take at the stop.
LAST = 2.0
#: By key of ``metrics``: the extra that it needs, and a module of it.
EXTRAS = {"statsd": "statsd", "otlp": "opentelemetry.exporter.otlp.proto.http.metric_exporter"}


class Target(Protocol):
    """Where figures are sent to. address: how it is told."""

    address: str

    def send(self, found: Found) -> None:
        """Blocks. Raises what it raises: that is told."""


def problems(loaded: Loaded) -> Iterator[Problem]:
    """What is asked for and not installed."""
    for key, module in EXTRAS.items():
        if getattr(loaded.config.metrics, key) is not None and not _installed(module):
            text = f"it needs a package that is not installed: pip install 'gworkers[{key}]'"
            yield Problem(loaded.document.where(("metrics", key)), f"metrics.{key}", text)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def targets_of(config: Config, number: int | None) -> list[Target]:
    """number: which this process is of several, None when it is the only one."""
    found: list[Target] = []
    if config.metrics.statsd is not None:
        from gworkers.admin.to_statsd import ToStatsd

        found.append(ToStatsd(config.metrics.statsd, config.metrics.prefix, number))
    if config.metrics.otlp is not None:
        from gworkers.admin.to_otlp import ToOtlp

        name = named(config.instance, number or 0)
        found.append(ToOtlp(config.metrics.otlp, config.metrics.interval, config.kafka.group, name, number))
    return found


class Sending:
    """Sends the snapshot's figures to targets."""

    def __init__(self, config: Config, targets: list[Target], snapshot: Callable[[], Snapshot], fatal: Fatal) -> None:
        self._snapshot = snapshot
        self._config = config
        self._senders = [_Sender(target, config.metrics.interval, config.executor == "thread") for target in targets]
        self._loops = [Loop(f"metrics to {one.target.address}", partial(self._run, one), fatal) for one in self._senders]

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Send the last figures, for up to LAST seconds. Blocks."""
        for loop in self._loops:
            loop.stop()
        found = self._found() if self._senders else []
        with gevent.Timeout(LAST, False):
            for sender in self._senders:
                sender.send(found)

    def _run(self, sender: _Sender) -> None:
        while True:
            gevent.sleep(self._config.metrics.interval)
            sender.send(self._found())

    def _found(self) -> Found:
        snapshot = self._snapshot()
        return [(figure, list(figure.samples(snapshot, self._config))) for figure in FIGURES]


class _Sender:
    def __init__(self, target: Target, interval: float, threads: bool) -> None:
        self.target = target
        self._interval = interval
        self._pool = ThreadPool(1) if threads else None
        self._away = False

    def send(self, found: Found) -> None:
        try:
            native.call(self._pool, self.target.send, found)
        except Exception as error:
            if not self._away:
                text = "metrics cannot be sent to %s: %s; it is tried again every %s"
                log.warning(text, self.target.address, one_line(error), format_duration(self._interval))
            self._away = True
            return
        if self._away:
            log.info("metrics are sent to %s again", self.target.address)
            self._away = False
