"""What is counted and timed of a route's messages."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import pytest

from gworkers.admin import metrics
from gworkers.figures import BOUNDS, MOST_REASONS, OTHER, Histogram, settled
from tests.support.jobs import job_of, partition_of, route_of

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == metrics.reference(), "run: python -m gworkers.admin.metrics > docs/metrics.md"


def test_a_time_is_in_the_first_bucket_that_is_not_below_it() -> None:
    histogram = Histogram()
    histogram.add(BOUNDS[0])
    histogram.add(BOUNDS[0] * 1.01, 3)
    histogram.add(1e9)
    counts = histogram.times.counts
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (1, 3, 1, 5)
    assert histogram.times.sum == pytest.approx(1e9)


def test_quantiles_are_within_their_bucket() -> None:
    draw = random.Random(1)
    found = [draw.expovariate(20) for _ in range(10_000)]
    histogram = Histogram()
    for seconds in found:
        histogram.add(seconds)
    cuts = statistics.quantiles(found, n=100)
    for part in (50, 90, 99):
        told = histogram.times.quantile(part / 100)
        assert told is not None
        high = next(bound for bound in BOUNDS if bound >= cuts[part - 1])
        low = max((bound for bound in BOUNDS if bound < cuts[part - 1]), default=0.0)
        assert low <= told <= high
    assert Histogram().times.quantile(0.5) is None


def test_messages_that_were_read_together_are_counted_together_each_for_its_route() -> None:
    a, b = partition_of(route_of()), partition_of(route_of())
    jobs = [job_of(a, 0), job_of(a, 1), job_of(b, 0), job_of(a, 2)]
    for job, at in zip(jobs, (1.0, 1.0, 1.0, 2.0), strict=True):
        job.read_at = at
        job.timestamp = int(1000 * (time.time() - 7))
    settled(jobs)
    assert (a.route.figures.done, b.route.figures.done) == (3, 1)
    assert a.route.figures.end_to_end.times.count == 3
    assert a.route.figures.end_to_end.times.sum == pytest.approx(21, abs=0.5)


def test_the_names_of_failures_are_bounded() -> None:
    figures = route_of().figures
    for number in range(2 * MOST_REASONS):
        figures.failure(type(f"Error{number}", (Exception,), {})())
    assert len(figures.failed) == MOST_REASONS + 1
    assert figures.failed[OTHER] == MOST_REASONS


def test_a_rate_is_of_the_last_ten_seconds() -> None:
    figures = route_of().figures
    assert figures.rate == 0
    for second in range(60):
        figures.done += 100 if second < 50 else 20
        figures.sample(float(second))
    assert figures.rate == pytest.approx(20)


def test_the_age_of_a_partition_is_that_of_its_lowest_unfinished_message() -> None:
    partition = partition_of()
    assert partition.age(100.0) is None
    for first, timestamp in ((0, 10_000), (5, 20_000), (10, 30_000)):
        job = job_of(partition, first)
        job.timestamp = timestamp
        partition.reading(job)
        for offset in range(first, first + 5):
            partition.offsets.begin(offset)
    assert partition.age(100.0) == 90
    for offset in range(7):
        partition.offsets.finish(offset)
    assert partition.age(100.0) == 80
    for offset in range(8, 15):
        partition.offsets.finish(offset)
    assert partition.age(100.0) == 80, "7 is not finished"
