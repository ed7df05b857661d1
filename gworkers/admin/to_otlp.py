"""Figures by OpenTelemetry's protocol, over HTTP, by its own exporter.

They are the same as on ``/metrics``, cumulative since the start of the process, under the names
``gworkers.FIGURE``. The resource says who they are of: ``service.name`` (the group, or what
``OTEL_SERVICE_NAME`` says), ``service.instance.id``, and what ``OTEL_RESOURCE_ATTRIBUTES`` has.
``OTEL_EXPORTER_OTLP_HEADERS`` and the exporter's other variables count, too.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

import gworkers
from gworkers.admin.metrics import Figure, Found, Sample
from gworkers.figures import BOUNDS, Times

#: Seconds that one sending may take, with what the exporter tries again: as long as the interval,
#: within these. It tries again after a second and only then says why.
LEAST, MOST = 2.5, 10.0

_CUMULATIVE = AggregationTemporality.CUMULATIVE


class _Heard(logging.Filter):
    """Keeps to itself what the exporter logs on our thread, which is why something was not sent; what
    it logs on others goes its way."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = 0
        self.first = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self.thread:
            return True
        self.first = self.first or record.getMessage()
        return False


class ToOtlp:
    """endpoint: of a collector; without a path /v1/metrics is meant. interval: seconds between two
    sendings."""

    def __init__(self, endpoint: str, interval: float, group: str, name: str, number: int | None) -> None:
        self.address = endpoint
        told = urlsplit(endpoint)
        url = endpoint if told.path.strip("/") else f"{told.scheme}://{told.netloc}/v1/metrics"
        self._heard = _Heard()
        logging.getLogger(OTLPMetricExporter.__module__).addFilter(self._heard)
        self._exporter = OTLPMetricExporter(endpoint=url, timeout=min(MOST, max(LEAST, interval)))
        attributes: dict[str, str | int] = {"service.instance.id": name, "process.pid": os.getpid()}
        if number is not None:
            attributes["gworkers.process"] = number
        resource = Resource.create(attributes)
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": group}))
        self._resource = resource
        self._began = time.time_ns()

    def send(self, found: Found) -> None:
        self._heard.thread, self._heard.first = threading.get_ident(), ""
        now = time.time_ns()
        metrics = [metric for figure, samples in found if (metric := self._metric(figure, samples, now)) is not None]
        scope = ScopeMetrics(InstrumentationScope("gworkers", gworkers.__version__), metrics, "")
        data = MetricsData([ResourceMetrics(self._resource, [scope], "")])
        if self._exporter.export(data) is not MetricExportResult.SUCCESS:
            raise ConnectionError(self._heard.first or "it was refused")

    def _metric(self, figure: Figure, samples: list[Sample], now: int) -> Metric | None:
        numbers: list[NumberDataPoint] = []
        histograms: list[HistogramDataPoint] = []
        for labels, value in samples:
            attributes = dict(zip(figure.labels, labels, strict=True))
            if isinstance(value, Times):
                point = HistogramDataPoint(
                    attributes, self._began, now, value.count, value.sum, value.counts, BOUNDS, float("nan"), float("nan")
                )
                histograms.append(point)
            elif value is not None:
                numbers.append(NumberDataPoint(attributes, self._began, now, int(value) if isinstance(value, bool) else value))
        data: Sum | Gauge | Histogram
        if histograms:
            data = Histogram(histograms, _CUMULATIVE)
        elif not numbers:
            return None
        elif figure.kind == "counter":
            data = Sum(numbers, _CUMULATIVE, is_monotonic=True)
        else:
            data = Gauge(numbers)
        unit = {"seconds": "s", "bytes": "By"}.get(figure.name.rpartition("_")[2], "1")
        return Metric(f"gworkers.{figure.name}", figure.told, unit, data)
