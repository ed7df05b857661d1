"""Token buckets, and what is due."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gworkers.config.units import parse_rate
from gworkers.pipeline.pacing import Bucket, _due
from tests.support import jobs


@given(st.floats(0.1, 1000), st.integers(1, 50), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_a_bucket_lets_no_more_through_than_its_rate_and_its_burst(per_second: float, burst: int, pauses: list[float]) -> None:
    rate = parse_rate(f"{per_second:.3f}/s burst {burst}")
    bucket, now, taken = Bucket(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        count = bucket.allowed(now)
        assert 0 <= count <= burst
        bucket.take(count)
        taken += count
        assert taken <= burst + now * rate.per_second + 1e-6
        assert bucket.allowed(now + bucket.wait(1) + 1e-6) >= 1


def partition_of(delay: float, *timestamps: int, attempt: int = 1) -> Any:
    partition = jobs.partition_of()
    partition.delay = delay
    partition.ready.extend(jobs.job_of(partition, offset, timestamp=stamp, attempt=attempt) for offset, stamp in enumerate(timestamps))
    return partition


def test_messages_are_due_when_their_delay_is_over() -> None:
    assert _due(partition_of(10.0, 1000, 2000, 3000), 64, 12.0) == (2, 0.0)
    assert _due(partition_of(10.0, 1000, 2000, 3000), 1, 12.0) == (1, 0.0)
    count, wait = _due(partition_of(10.0, 5000), 64, 12.0)
    assert (count, wait) == (0, 3.0)


def test_another_attempt_does_not_wait_for_the_delay_again() -> None:
    assert _due(partition_of(10.0, 50_000, attempt=2), 64, 12.0)[0] == 1
