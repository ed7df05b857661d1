"""What the process shows of its work: one living line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

import gevent

from gworkers.config.units import format_duration
from gworkers.pipeline.pipeline import Pipeline

log = logging.getLogger("gworkers")

#: Seconds between two figures on a terminal, and between two lines in a log.
LIVE = 0.25
PLAIN = 10.0


class Progress:
    """Shows figures until it is stopped. sample: how many messages the embedded broker was fed, 0 when none."""

    def __init__(self, pipeline: Pipeline, sample: int, stream: TextIO | None = None) -> None:
        self._pipeline = pipeline
        self._sample = sample
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._shown = False
        self._last = (time.monotonic(), 0)
        self._rate = 0.0
        self._begun: float | None = None
        self._greenlet: gevent.Greenlet | None = None
        self._undo: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []

    def start(self) -> None:
        if self._live:
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is self._stream:
                    self._undo.append((handler, handler.stream))
                    handler.stream = _AboveTheLine(self)
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        self.clear()
        for handler, stream in self._undo:
            handler.stream = stream

    def figures(self) -> str:
        """``done 1,240 · 2,310/s · running 64 · waiting 512 · retried 12 · dead-lettered 3 · lag 1,160``"""
        pipeline = self._pipeline
        stats = pipeline.stats
        lag = pipeline.consumer.lag()
        running = pipeline.workers.handling
        waiting = pipeline.scheduler.waiting + len(pipeline.retries) + stats.running - running
        return " · ".join(
            (
                f"done {stats.done:,}",
                f"{self._rate:,.0f}/s",
                f"running {running:,}",
                f"waiting {max(0, waiting):,}",
                f"retried {stats.retried:,}",
                f"dead-lettered {stats.dead_lettered:,}",
                f"lag {lag:,}" if lag is not None else "lag ?",
            )
        )

    def clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False

    def _run(self) -> None:
        said_at, said_done = time.monotonic(), 0
        while True:
            gevent.sleep(LIVE)
            now, done = time.monotonic(), self._pipeline.stats.done
            then, before = self._last
            self._rate += 0.3 * ((done - before) / (now - then) - self._rate)
            self._last = now, done
            if self._begun is None and self._pipeline.stats.polled:
                self._begun = then
            if self._live:
                self._stream.write(f"\r\x1b[K{self.figures()}")
                self._stream.flush()
                self._shown = True
            elif now - said_at >= PLAIN and done != said_done:
                log.info("%s", self.figures())
                said_at, said_done = now, done
            if self._sample and done >= self._sample and self._pipeline.idle:
                self._close_sample(now)

    def _close_sample(self, now: float) -> None:
        stats = self._pipeline.stats
        took = now - (self._begun or now)
        log.info(
            "the sample is through: %s messages in %.1f s, %s retried, %s dead-lettered; one at a time it would have taken %s",
            f"{self._sample:,}",
            took,
            f"{stats.retried:,}",
            f"{stats.dead_lettered:,}",
            format_duration(round(stats.busy)) if stats.busy < 120 else f"{stats.busy / 60:.1f} minutes",
        )
        self._sample = 0


class _AboveTheLine:
    """A stream that takes the progress line away before a log line is written; the next tick draws it again."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def write(self, text: str) -> int:
        self._progress.clear()
        return self._progress._stream.write(text)

    def flush(self) -> None:
        self._progress._stream.flush()
