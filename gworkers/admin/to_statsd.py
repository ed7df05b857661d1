"""Figures as StatsD has them, by the package statsd, over UDP.

``PREFIX.FIGURE[.LABEL…]``: counters as what has been added since the last time, gauges as they are, a
histogram as three: ``.count``, and ``.p50`` and ``.p99`` in seconds, of what came since the last
time. A label's letters other than ``A-Za-z0-9_-`` become ``_``; of several processes each has
``PREFIX.process_N``.
"""

from __future__ import annotations

import re
from operator import sub

from statsd import StatsClient
from statsd.client.base import PipelineBase

from gworkers.admin.metrics import Figure, Found, Sample, Value
from gworkers.figures import BOUNDS, Times

#: A histogram before anything came.
_NONE = Times((0,) * (len(BOUNDS) + 1), 0.0)


class ToStatsd:
    """address: host:port; number: of which process these are, None of the only one."""

    def __init__(self, address: str, prefix: str, number: int | None) -> None:
        self.address = address
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._prefix = prefix if number is None else f"{prefix}.process_{number}"
        self._before: dict[str, Value] = {}
        self._client: StatsClient | None = None

    def send(self, found: Found) -> None:
        if self._client is None:  # looks the name up, and raises OSError when it is not known
            self._client = StatsClient(self._host, self._port, prefix=self._prefix, ipv6=":" in self._host)
        with self._client.pipeline() as pipeline:
            for figure, samples in found:
                for sample in samples:
                    self._put(pipeline, figure, sample)

    def _put(self, pipeline: PipelineBase, figure: Figure, sample: Sample) -> None:
        labels, value = sample
        name = ".".join((figure.name, *(re.sub(r"[^A-Za-z0-9_-]", "_", label) for label in labels)))
        if value is None:
            return
        before = self._before.get(name)
        if isinstance(value, Times):
            earlier = before if isinstance(before, Times) else _NONE
            since = Times(tuple(map(sub, value.counts, earlier.counts)), value.sum - earlier.sum)
            pipeline.incr(f"{name}.count", since.count)
            for part in (50, 99):
                if (quantile := since.quantile(part / 100)) is not None:
                    pipeline.gauge(f"{name}.p{part}", round(quantile, 6))
        elif figure.kind == "counter":
            assert not isinstance(before, Times)
            pipeline.incr(name, value - (before or 0))
        else:
            pipeline.gauge(name, float(value))
        self._before[name] = value
