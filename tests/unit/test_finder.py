"""The Finder against handlers whose rate at each concurrency is known, with windows as noisy as real
ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from gworkers.pipeline.finder import Choice, Finder, Window

LEAST, MOST, START = 4, 512, 64
NOISE = 0.03
SETTLED = 25  # windows, half a minute
WINDOWS = 90


def waits(n: int) -> float:
    return n / 0.02


def interpreter(n: int) -> float:
    """Waits, and takes the interpreter's lock now and then."""
    return 20_000 * n / (n + 250)


def computes(n: int) -> float:
    return 9000 * (1 - n / 5000)


def connections(n: int) -> float:
    return min(n, 20) / 0.02


def slower(n: int) -> float:
    """Twenty do most; those beyond stand in each other's way."""
    return connections(n) * float(min(1.0, 20 / n) ** 0.7)


@dataclass
class World:
    """A handler with ``rate`` messages a second at each concurrency."""

    rate: Callable[[int], float]
    cores: float = 0.3
    seed: int = 0
    used_up: float = 1.0
    running: int | None = None
    start: int = START
    seen: list[tuple[Choice, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.finder = Finder(self.start, LEAST, MOST)
        self.draw = random.Random(self.seed)
        self.choice = Choice(self.start, self.start, "")

    @property
    def best(self) -> float:
        return max(map(self.rate, range(LEAST, MOST + 1)))

    def run(self, windows: int) -> float:
        """How much of what the best number would have done was done in these windows."""
        done = 0.0
        for _ in range(windows):
            n = self.choice.concurrency
            rate = self.rate(n)
            done += rate
            running = n if self.running is None else self.running
            noisy = rate * (1 + self.draw.gauss(0, NOISE))
            self.choice = self.finder.next(Window(running, self.used_up, noisy, running / noisy, self.cores))
            assert LEAST <= self.choice.concurrency <= MOST
            self.seen.append((self.choice, rate))
        return done / windows / self.best


@pytest.mark.parametrize("start", [4, 64, 512])
@pytest.mark.parametrize(
    ("rate", "cores"),
    [(waits, 0.3), (interpreter, 0.8), (computes, 1.0), (connections, 0.2), (slower, 0.2)],
    ids=["waits", "interpreter", "computes", "connections", "slower"],
)
def test_it_comes_near_the_best_number_in_half_a_minute_and_stays_there(rate: Callable[[int], float], cores: float, start: int) -> None:
    shares = []
    for seed in range(20):
        world = World(rate, cores, seed, start=start)
        world.run(SETTLED)
        shares.append(world.run(WINDOWS))
    assert sum(shares) / len(shares) > 0.94
    assert min(shares) > 0.86


@pytest.mark.parametrize(("before", "after"), [(connections, interpreter), (interpreter, slower), (slower, waits)])
def test_it_follows_a_handler_that_changes(before: Callable[[int], float], after: Callable[[int], float]) -> None:
    shares = []
    for seed in range(20):
        world = World(before, seed=seed)
        world.run(60)
        world.rate = after
        world.run(SETTLED)
        shares.append(world.run(WINDOWS))
    assert sum(shares) / len(shares) > 0.92


def test_what_is_not_used_up_is_left_alone() -> None:
    world = World(lambda n: 400.0, used_up=0.2, running=8)
    world.run(100)
    assert {choice.concurrency for choice, _ in world.seen} == {START}
    assert world.choice.reason == "8 handlers are enough for what there is to do"


def test_more_threads_are_not_kept_for_handlers_that_share_one_core() -> None:
    """However the noise falls."""
    for seed in range(20):
        world = World(computes, cores=0.99, seed=seed)
        world.run(150)
        assert max(choice.settled for choice, _ in world.seen) <= 2 * START


def test_a_core_that_is_used_up_hides_no_gain() -> None:
    world = World(interpreter, cores=0.99)
    world.run(SETTLED)
    assert world.choice.settled >= 256


def test_handlers_that_compute_outside_of_the_lock_get_more() -> None:
    world = World(lambda n: min(n, 128) * 10.0, cores=2.0)
    world.run(SETTLED)
    assert world.choice.settled >= 100


def test_attempts_become_rare_when_nothing_changes() -> None:
    world = World(slower)
    world.run(150)
    world.seen.clear()
    world.run(150)
    assert sum(choice.probing for choice, _ in world.seen) < 30


def test_the_reason_says_what_was_tried() -> None:
    assert _reason(interpreter, 512, windows=1) == "where it begins"
    assert "messages a second in place of" in _reason(waits, 64, windows=3)
    assert "less" in _reason(waits, 512, windows=30)


def _reason(rate: Callable[[int], float], start: int, windows: int) -> str:
    world = World(rate, start=start)
    world.run(windows)
    return world.choice.reason
