"""Which offset may be committed, and what is known beyond it, against sets."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gworkers.offsets import offset_map
from gworkers.offsets.offsets import Offsets


@settings(deadline=None, max_examples=500)
@given(st.lists(st.integers(1, 4), max_size=60), st.randoms(use_true_random=False), st.one_of(st.none(), st.integers(0, 100)))
def test_the_position_is_the_lowest_unfinished_offset(gaps: list[int], draw: random.Random, start: int | None) -> None:
    """Offsets come in rising order with holes (compaction, transaction markers) and finish in any
    order."""
    offsets = Offsets(start)
    assert offsets.position == start
    at = start or 0
    unfinished: set[int] = set()
    for gap in gaps:
        at += gap
        offsets.begin(at)
        unfinished.add(at)
        while unfinished and draw.random() < 0.4:
            one = draw.choice(sorted(unfinished))
            unfinished.remove(one)
            offsets.finish(one)
        assert offsets.position == (min(unfinished) if unfinished else at + 1)
        assert list(offsets.unfinished()) == sorted(unfinished)
        assert len(offsets) == len(unfinished)
    for one in draw.sample(sorted(unfinished), len(unfinished)):
        offsets.finish(one)
    assert offsets.position == (at + 1 if gaps else start)
    assert len(offsets) == 0
    assert offsets.metadata() == ("", True)


def test_a_span_of_any_length_costs_the_memory_of_what_is_unfinished() -> None:
    offsets = Offsets(0)
    offsets.begin(0)
    for offset in range(1, 200_000):
        offsets.begin(offset)
        offsets.finish(offset)
    assert offsets.position == 0
    assert len(offsets._unfinished) == 1
    text, whole = offsets.metadata()
    assert whole
    assert offset_map.decode(0, text) == offset_map.OffsetMap(200_000, (0,))


def test_a_map_that_does_not_fit_keeps_what_it_can() -> None:
    draw = random.Random(3)
    offsets = Offsets(0)
    finished = set()
    for offset in range(400_000):
        offsets.begin(offset)
    for offset in range(1, 400_000):
        if draw.random() < 0.5:
            offsets.finish(offset)
            finished.add(offset)
    text, whole = offsets.metadata()
    assert not whole
    found = offset_map.decode(0, text)
    assert found is not None
    assert found.end > offset_map.SURE_SPAN
    assert set(range(found.end)) - set(found.unfinished) == {offset for offset in finished if offset < found.end}


class Lives(RuleBasedStateMachine):
    """Random histories of reading, finishing, commits and deaths: nothing lost, and nothing
    finished before a commit run twice."""

    @initialize(holes=st.sets(st.integers(0, 400), max_size=40))
    def begin(self, holes: set[int]) -> None:
        self.topic = [offset for offset in range(400) if offset not in holes]
        self.finished: set[int] = set()
        self.committed: tuple[int, str, set[int]] = (0, "", set())
        self.take_over()

    def take_over(self) -> None:
        position, metadata, safe = self.committed
        self.safe = set(safe)  # finished before the commit that this life began with
        self.here = set(safe)  # and what this life has finished besides
        self.offsets = Offsets(position)
        found = offset_map.decode(position, metadata)
        if found is not None:
            self.offsets.restore(found)
        self.reading = [offset for offset in self.topic if offset >= position]
        self.running: list[int] = []

    @rule(count=st.integers(1, 30))
    def read(self, count: int) -> None:
        for offset in self.reading[:count]:
            if self.offsets.restoring and not self.offsets.wanted(offset):
                assert offset in self.finished, f"{offset} is passed over and was never finished"
                continue
            assert offset not in self.safe, f"{offset} runs again though it was finished before the commit"
            self.offsets.begin(offset)
            self.running.append(offset)
        del self.reading[:count]
        if not self.reading:
            self.offsets.skip_to(400)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), count=st.integers(1, 20))
    def finish(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.running))):
            one = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            self.offsets.finish(one)
            self.finished.add(one)
            self.here.add(one)

    @rule()
    def commit(self) -> None:
        position = self.offsets.position
        assert position is not None
        text, whole = self.offsets.metadata()
        assert whole
        self.committed = (position, text, set(self.here))

    @rule()
    def die(self) -> None:
        self.take_over()

    @rule(data=st.data())
    def retention(self, data: st.DataObject) -> None:
        """The oldest messages go: they need not be run any more."""
        gone = data.draw(st.integers(0, 20))
        for offset in self.topic[:gone]:
            if offset not in self.running:
                self.finished.add(offset)
        self.topic = self.topic[gone:]
        self.reading = [offset for offset in self.reading if offset in set(self.topic)]

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "offsets"):
            return
        position = self.offsets.position
        assert position is not None
        assert all(offset in self.finished for offset in self.topic if offset < position)


Lives.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestLives = Lives.TestCase


@given(st.lists(st.integers(1, 3), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_what_is_unfinished_again_holds_the_position_back(gaps: list[int], draw: random.Random) -> None:
    offsets, all_of_them, at = Offsets(0), [], 0
    for gap in gaps:
        at += gap
        offsets.begin(at)
        all_of_them.append(at)
    finished = draw.sample(all_of_them, draw.randint(0, len(all_of_them)))
    for offset in finished:
        offsets.finish(offset)
    undone = draw.sample(finished, draw.randint(0, len(finished)))
    offsets.unfinish(undone)
    unfinished = sorted({*all_of_them} - {*finished} | {*undone})
    assert list(offsets.unfinished()) == unfinished
    assert offsets.position == (unfinished[0] if unfinished else at + 1)
    for offset in unfinished:
        offsets.finish(offset)
    assert offsets.position == at + 1
