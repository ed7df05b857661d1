"""Durations and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gworkers.config.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1.5s", 1.5), ("0", 0), (0, 0), (" 3 s ", 3)],
)
def test_durations_are_read_with_their_unit(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["30", 30, "5 minutes", "-1s", "", None, True, [], "s", "1e3s", float("nan")])
def test_anything_else_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="unit is wanted"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("64MiB", 64 * 2**20), ("512KiB", 2**19), ("1GB", 10**9), ("7", 7), (7, 7), ("10 kb", 10_000), ("5B", 5)]
)
def test_sizes_are_read_with_their_unit(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["64Mi", "-1", -1, "1.5", 1.5, None, True, "MiB"])
def test_anything_else_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="size is wanted"):
        parse_size(text)


@given(st.integers(0, 10**9))
def test_a_shown_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(0, 2**50))
def test_a_shown_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size
