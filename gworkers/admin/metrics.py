"""``/metrics``: the snapshot as Prometheus reads it, by prometheus-client.

A table of what there is, from which the page, its help and docs/metrics.md are made. Labels are few
and their values are bounded: routes, topics, named limits, words of ours, and the names of 50
exceptions a route.

    python -m gworkers.admin.metrics > docs/metrics.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from gworkers import memory
from gworkers.admin import status
from gworkers.admin.answer import Answer
from gworkers.config.schema import Config
from gworkers.figures import BOUNDS, Times
from gworkers.pipeline.snapshot import PAUSED, LimitSnapshot, RouteSnapshot, Snapshot, SteeringSnapshot

#: What Prometheus is told that it gets.
KIND = "text/plain; version=0.0.4"

Value = float | int | Times | None
#: Values of the labels, and the value.
Sample = tuple[tuple[str, ...], Value]


@dataclass(frozen=True)
class Figure:
    """One metric, without the prefix. samples: its values by labels; None: not known yet."""

    name: str
    kind: str  # counter, gauge or histogram
    told: str
    labels: tuple[str, ...]
    samples: Callable[[Snapshot, Config], Iterable[Sample]]


#: The figures at one moment, with their values.
Found = list[tuple[Figure, list[Sample]]]


def _one(field: str) -> Callable[[Snapshot, Config], Iterable[Sample]]:
    read: Callable[[Snapshot], Value] = attrgetter(field)
    return lambda snapshot, config: (((), read(snapshot)),)


def _by_route(field: str) -> Callable[[Snapshot, Config], Iterable[Sample]]:
    read: Callable[[RouteSnapshot], Value] = attrgetter(field)
    return lambda snapshot, config: (((route.name,), read(route)) for route in snapshot.routes)


def _by_limit(field: str) -> Callable[[Snapshot, Config], Iterable[Sample]]:
    read: Callable[[LimitSnapshot], Value] = attrgetter(field)
    return lambda snapshot, config: (((limit.name,), read(limit)) for limit in snapshot.limits)


def _steering(field: str) -> Callable[[Snapshot, Config], Iterable[Sample]]:
    read: Callable[[SteeringSnapshot], Value] = attrgetter(field)
    return lambda snapshot, config: [((), read(snapshot.steering))] if snapshot.steering is not None else []


def _oldest(snapshot: Snapshot, config: Config) -> Iterator[Sample]:
    yield (), snapshot.oldest.age if snapshot.oldest is not None else 0.0


def _partitions(snapshot: Snapshot, config: Config) -> Iterator[Sample]:
    yield (), len(snapshot.partitions)


def _failed(snapshot: Snapshot, config: Config) -> Iterator[Sample]:
    for route in snapshot.routes:
        for reason, count in route.failed.items():
            yield (route.name, reason), count


def _paused(snapshot: Snapshot, config: Config) -> Iterator[Sample]:
    for reason in PAUSED:
        yield (reason,), sum(partition.paused == reason for partition in snapshot.partitions)


def _lag(snapshot: Snapshot, config: Config) -> Iterator[Sample]:
    for topic in sorted({partition.topic for partition in snapshot.partitions}):
        lags = [partition.lag for partition in snapshot.partitions if partition.topic == topic]
        yield (topic,), None if None in lags else sum(lag or 0 for lag in lags)


def _lag_seconds(snapshot: Snapshot, config: Config) -> Iterator[Sample]:
    for topic in sorted({partition.topic for partition in snapshot.partitions}):
        ages = [p.lag_seconds for p in snapshot.partitions if p.topic == topic and p.lag_seconds is not None]
        yield (topic,), max(ages, default=None)


def _held_back(snapshot: Snapshot, config: Config) -> Iterator[Sample]:
    found, _ = status.holds_back(snapshot, config)
    for word in status.WORDS:
        yield (word,), int(word == found)


ROUTE = ("route",)
FIGURES = (
    Figure("received_messages", "counter", "Messages read from Kafka.", ROUTE, _by_route("received")),
    Figure("done_messages", "counter", "Messages finished.", ROUTE, _by_route("done")),
    Figure("failed_attempts", "counter", "Attempts that failed, by the exception.", ("route", "reason"), _failed),
    Figure("retries", "counter", "Attempts after the first.", ROUTE, _by_route("retried")),
    Figure("dead_letters", "counter", "Messages dead-lettered.", ROUTE, _by_route("dead_lettered")),
    Figure("running_messages", "gauge", "Handlers that run.", ROUTE, _by_route("running")),
    Figure("handler_seconds", "histogram", "How long a handler took, each attempt.", ROUTE, _by_route("handler")),
    Figure("queue_seconds", "histogram", "From a message's reading to the beginning of its handler.", ROUTE, _by_route("queue")),
    Figure("end_to_end_seconds", "histogram", "From a message's timestamp to its end.", ROUTE, _by_route("end_to_end")),
    Figure("held_seconds", "histogram", "How long messages waited for an earlier one in order.", ROUTE, _by_route("held")),
    Figure("sent_messages", "counter", "Results acknowledged by the broker, dead letters included.", (), _one("sent")),
    Figure("passed_over_messages", "counter", "Messages not handled because of when or max_age.", (), _one("passed_over")),
    Figure("skipped_messages", "counter", "Messages read again that were known to be finished.", (), _one("skipped")),
    Figure("stuck_handlers", "counter", "Handlers that did not end at their limit and were given up.", (), _one("stuck")),
    Figure("fenced_messages", "counter", "Completions that came after their partition was revoked.", (), _one("fenced")),
    Figure("waiting_messages", "gauge", "Messages read and not begun.", (), _one("waiting")),
    Figure("waiting_retries", "gauge", "Messages waiting for another attempt.", (), _one("retrying")),
    Figure("buffered_messages", "gauge", "Messages read and not settled.", (), _one("buffered_messages")),
    Figure("buffered_bytes", "gauge", "Bytes of these, and of their results.", (), _one("buffered_bytes")),
    Figure("uncommitted_messages", "gauge", "Messages that wait for the end of their transaction.", (), _one("uncommitted")),
    Figure(
        "oldest_running_seconds",
        "gauge",
        "Age of what has run for the longest time.",
        (),
        _oldest,
    ),
    Figure("lag_messages", "gauge", "Messages that are not finished, read or not.", ("topic",), _lag),
    Figure("lag_seconds", "gauge", "Age of the oldest message that is not finished, 0 without lag.", ("topic",), _lag_seconds),
    Figure("assigned_partitions", "gauge", "Partitions assigned to this process.", (), _partitions),
    Figure("paused_partitions", "gauge", "Partitions of which nothing is read for now, by the reason.", ("reason",), _paused),
    Figure(
        "limit_handlers",
        "gauge",
        "Handlers that a named limit lets run at once.",
        ("limit",),
        _by_limit("count"),
    ),
    Figure(
        "limit_used_handlers",
        "gauge",
        "Handlers that run under a named limit.",
        ("limit",),
        _by_limit("used"),
    ),
    Figure("commits", "counter", "Commits of offsets.", (), _one("commits")),
    Figure("commit_seconds", "histogram", "How long a commit took; a transaction, from its beginning.", (), _one("commit_times")),
    Figure("transactions_aborted", "counter", "Transactions whose results had to be sent again.", (), _one("aborted")),
    Figure("rebalance_seconds", "histogram", "How long joining the group took, each time.", (), _one("joins")),
    Figure(
        "hub_delay_seconds",
        "histogram",
        "By how much the hub came too late, fifty times a second.",
        (),
        _one("hub_delay"),
    ),
    Figure("concurrency", "gauge", "Handlers that may run at once.", (), _one("concurrency")),
    Figure("concurrency_settled", "gauge", "The best concurrency that is known, with auto.", (), _steering("settled")),
    Figure("concurrency_changes", "counter", "How often another one was settled on.", (), _steering("changes")),
    Figure("concurrency_probes", "counter", "How often another one was tried.", (), _steering("probes")),
    Figure("held_back", "gauge", "1 for what keeps the process from doing more now.", ("by",), _held_back),
    Figure("cores", "gauge", "How much of a processor's time the process had in the last second.", (), _one("cores")),
    Figure("resident_bytes", "gauge", "Memory of the process.", (), lambda s, c: (((), memory.resident()),)),
    Figure("connected", "gauge", "1 while a broker is connected.", (), _one("connected")),
    Figure("uptime_seconds", "gauge", "Since the start of the process.", (), _one("uptime")),
)


def _family(figure: Figure, samples: Iterable[Sample]) -> Metric:
    name = f"gworkers_{figure.name}"
    if figure.kind == "histogram":
        histogram = HistogramMetricFamily(name, figure.told, labels=figure.labels)
        for labels, times in samples:
            if isinstance(times, Times):
                histogram.add_metric(labels, _buckets(times), times.sum)
        return histogram
    family = (CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily)(name, figure.told, labels=figure.labels)
    for labels, value in samples:
        if value is not None and not isinstance(value, Times):
            family.add_metric(labels, value)
    return family


def _buckets(times: Times) -> list[tuple[str, float]]:
    total, found = 0, []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), times.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


class _Collected(CollectorRegistry):
    """What has been collected already, for prometheus-client's writer."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _shown(families: Iterable[Metric]) -> Answer:
    return Answer("200 OK", KIND, generate_latest(_Collected(families)).decode())


def page(snapshot: Snapshot, config: Config) -> Answer:
    return _shown(_family(figure, figure.samples(snapshot, config)) for figure in FIGURES)


def together(pages: dict[int, str]) -> Answer:
    """The pages of several processes as one, each process's figures under its number."""
    found: dict[str, Metric] = {}
    for number, text in pages.items():
        for family in text_string_to_metric_families(text):
            whole = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                whole.add_sample(sample.name, {"process": str(number), **sample.labels}, sample.value)
    running = GaugeMetricFamily("gworkers_processes", "Processes that run.", value=len(pages))
    return _shown([*found.values(), running])


def reference() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `gworkers_{figure.name}{'_total' if figure.kind == 'counter' else ''}` | {figure.kind} | "
        f"{', '.join(f'`{label}`' for label in figure.labels) or '–'} | {figure.told} |"
        for figure in FIGURES
    ]
    words = [f"| `{word}` | {told} |" for word, told in status.WORDS.items()]
    return "\n".join(
        [
            "# Metrics",
            "",
            "Made from the code by `python -m gworkers.admin.metrics`; do not edit.",
            "",
            "`http://ADMIN.BIND/metrics` has these, for Prometheus. With several processes each figure has",
            "the label `process` as well, and `gworkers_processes` says how many run.",
            "",
            "| name | kind | labels | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Buckets of all histograms, in seconds: {', '.join(f'{bound:g}' for bound in BOUNDS)}.",
            "",
            "`gworkers_held_back` is 1 for one of these at a time:",
            "",
            "| by | meaning |",
            "|---|---|",
            *words,
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(reference())
