"""The first schedules of the simulation, in shares that run beside each other; that bugs put in by
hand are found; that a seed replays exactly and is made shorter."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.plan import draw
from tests.simulation.run import FIRST, attempt, shrink
from tests.support.servers import ROOT

SHARES = 8


def simulation(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation.run", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, timeout=1200)


@pytest.mark.parametrize("share", range(SHARES))
def test_the_first_schedules_hold(share: int) -> None:
    size = FIRST // SHARES
    done = simulation("--processes", "1", "--seeds", f"{share * size}-{(share + 1) * size}")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]


def test_each_bug_that_is_put_in_is_found() -> None:
    done = simulation("--mutants")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == list(MUTANTS)


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_seed_replays_exactly_and_is_made_shorter(quiet: None) -> None:
    with mutated("a lane freed too early"):
        found = next(failure for seed in range(1000) if (failure := attempt(draw(seed))) is not None)
        again = attempt(found.plan)
        assert again == found
        short = shrink(found, 10)
        assert (short.kind, attempt(short.plan)) == (found.kind, short)
        assert len(short.plan.messages) <= 3 < len(found.plan.messages)
    assert attempt(short.plan) is None
