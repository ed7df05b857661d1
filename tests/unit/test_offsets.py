"""Which offset may be committed, against a set."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gworkers.pipeline.offsets import Offsets


@settings(deadline=None, max_examples=500)
@given(st.lists(st.integers(1, 4), max_size=60), st.randoms(use_true_random=False), st.one_of(st.none(), st.integers(0, 100)))
def test_the_position_is_the_lowest_unfinished_offset(gaps: list[int], random: object, start: int | None) -> None:
    """Offsets come in rising order with holes (compaction, transaction markers) and finish in any order."""
    offsets = Offsets(start)
    assert offsets.position == start
    at = start or 0
    unfinished: set[int] = set()
    for gap in gaps:
        at += gap
        offsets.begin(at)
        unfinished.add(at)
        while unfinished and random.random() < 0.4:  # type: ignore[attr-defined]
            one = random.choice(sorted(unfinished))  # type: ignore[attr-defined]
            unfinished.remove(one)
            offsets.finish(one)
        assert offsets.position == (min(unfinished) if unfinished else at + 1)
        assert list(offsets.unfinished()) == sorted(unfinished)
        assert len(offsets) == len(unfinished)
    for one in random.sample(sorted(unfinished), len(unfinished)):  # type: ignore[attr-defined]
        offsets.finish(one)
    assert offsets.position == (at + 1 if gaps else start)
    assert (len(offsets), offsets.ahead) == (0, 0)
