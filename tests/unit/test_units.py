"""Durations and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gworkers.config.units import format_duration, format_size, parse_amount, parse_duration, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1.5s", 1.5), ("0", 0), (0, 0), (" 3 s ", 3)],
)
def test_durations_are_read_with_their_unit(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["30", 30, "5 minutes", "-1s", "", None, True, [], "s", "1e3s", float("nan")])
def test_anything_else_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration with its unit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("64MiB", 64 * 2**20), ("512KiB", 2**19), ("1GB", 10**9), ("7", 7), (7, 7), ("10 kb", 10_000), ("5B", 5)]
)
def test_sizes_are_read_with_their_unit(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["64Mi", "-1", -1, "1.5", 1.5, None, True, "MiB"])
def test_anything_else_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


@given(st.integers(0, 10**9))
def test_a_shown_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(0, 2**50))
def test_a_shown_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "per_second", "burst"),
    [("100/s", 100, 100), ("30/m", 0.5, 1), ("0.5/s", 0.5, 1), ("100/s burst 20", 100, 20), (" 36 / h", 0.01, 1)],
)
def test_rates_are_read_with_their_burst(text: str, per_second: float, burst: int) -> None:
    rate = parse_rate(text)
    assert (rate.per_second, rate.burst) == (per_second, burst)


@pytest.mark.parametrize("text", ["100", "0/s", "/s", "100/x", "100/s burst 0", None, 5])
def test_anything_else_is_no_rate(text: object) -> None:
    with pytest.raises(ValueError, match="expected a rate"):
        parse_rate(text)


def test_amounts_are_a_number_in_a_time() -> None:
    amount = parse_amount("100 in 1m")
    assert (amount.count, amount.seconds) == (100, 60)
    for text in ("100", "in 1m", "100 in 0", "x in 1m", None):
        with pytest.raises(ValueError, match="expected a number in a time"):
            parse_amount(text)
