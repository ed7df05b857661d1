"""The breaker, and what a letter says of errors that cannot speak."""

from __future__ import annotations

from gworkers.errors import one_line
from gworkers.pipeline.dead_letters import Breaker


def test_the_breaker_opens_at_the_first_letter_above_its_number_and_stays_open() -> None:
    now = [0.0]
    breaker = Breaker(2, 10.0, lambda: now[0])
    assert [breaker.lets_through() for _ in range(4)] == [True, True, False, False]
    now[0] = 1000.0
    assert not breaker.lets_through()


def test_the_breaker_forgets_what_is_older_than_its_time() -> None:
    now = [0.0]
    breaker = Breaker(2, 10.0, lambda: now[0])
    for step in range(20):
        now[0] = step * 5.1
        assert breaker.lets_through()


def test_an_exception_whose_text_cannot_be_had_is_told_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    assert one_line(Mute()) == "Mute: its text cannot be had: ValueError"
