"""What the process shows of its work: one living line on a terminal, a plain line now and then
elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO

import gevent

from gworkers import titles
from gworkers.config.units import format_duration
from gworkers.loop import Fatal, Loop
from gworkers.pipeline.snapshot import Snapshot

log = logging.getLogger("gworkers")

#: Seconds between two figures on a terminal, and between two lines in a log.
TERMINAL_INTERVAL = 0.25
LOG_INTERVAL = 10.0
#: Between two titles of the process.
TITLE_INTERVAL = 2.0


class Progress:
    """Shows figures until it is stopped. sample: how many messages the embedded broker was fed, 0
    when none; title: of the process, before what it is doing."""

    def __init__(self, snapshot: Callable[[], Snapshot], sample: int, title: str, fatal: Fatal, stream: TextIO | None = None) -> None:
        self._snapshot = snapshot
        self._title = title
        self._titled = -TITLE_INTERVAL  # when the title was set last
        self._sample = sample
        self._stream = stream if stream is not None else sys.stderr  # None where it was closed at the start
        self._live = self._stream is not None and self._stream.isatty()
        self._shown = False
        self._last = self._said = (time.monotonic(), 0)  # when figures were taken, and logged, and how many were done then
        self._rate = 0.0
        self._begun: float | None = None
        self._loop = Loop("progress", self._run, fatal)
        self._undo: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []

    def start(self) -> None:
        if self._live:
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is self._stream:
                    self._undo.append((handler, handler.stream))
                    handler.stream = _AboveTheLine(self)
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()
        self.clear()
        for handler, stream in self._undo:
            handler.stream = stream

    def figures(self, snapshot: Snapshot) -> str:
        """``done 1,240 · 2,310/s · running 64 · waiting 512 · retried 12 · dead-lettered 3 · lag
        1,160``"""
        return " · ".join(
            (
                f"done {snapshot.done:,}",
                f"{self._rate:,.0f}/s",
                f"running {snapshot.running:,}",
                f"waiting {snapshot.waiting:,}",
                f"retried {snapshot.retried:,}",
                f"dead-lettered {snapshot.dead_lettered:,}",
                f"lag {snapshot.lag:,}" if snapshot.lag is not None else "lag ?",
            )
        )

    def clear(self) -> None:
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        """A terminal that has gone is no reason to end a server."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._live = self._shown = False

    def _run(self) -> None:
        while True:
            gevent.sleep(TERMINAL_INTERVAL)
            self._show(self._snapshot())

    def _show(self, snapshot: Snapshot) -> None:
        now, done = time.monotonic(), snapshot.done
        then, before = self._last
        self._rate += 0.3 * ((done - before) / (now - then) - self._rate)
        self._last = now, done
        if self._begun is None and snapshot.polled:
            self._begun = then
        if now - self._titled >= TITLE_INTERVAL:
            self._titled = now
            titles.show(f"{self._title} [{self.figures(snapshot)}]")
        if self._live:
            self._shown = True
            self._write(f"\r\x1b[K{self.figures(snapshot)}")
        elif now - self._said[0] >= LOG_INTERVAL and done != self._said[1]:
            log.info("%s", self.figures(snapshot))
            self._said = now, done
        if self._sample and done >= self._sample and snapshot.idle:
            self._close_sample(now, snapshot)

    def _close_sample(self, now: float, snapshot: Snapshot) -> None:
        took = now - (self._begun or now)
        log.info(
            "the sample is through: %s messages in %.1f s, %s retried, %s dead-lettered; one at a time it would have taken %s",
            f"{self._sample:,}",
            took,
            f"{snapshot.retried:,}",
            f"{snapshot.dead_lettered:,}",
            format_duration(round(snapshot.busy)) if snapshot.busy < 120 else f"{snapshot.busy / 60:.1f} minutes",
        )
        self._sample = 0


class _AboveTheLine:
    """A stream that takes the progress line away before a log line is written; the next tick draws
    it again."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def write(self, text: str) -> int:
        self._progress.clear()
        return self._progress._stream.write(text)

    def flush(self) -> None:
        self._progress._stream.flush()
