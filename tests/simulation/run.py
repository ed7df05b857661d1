"""Simulated schedules: many of them, one after the other, each from its seed.

    bin/test simulation                     the first 20,000
    bin/test simulation --seeds 0-1000000   these, in as many processes as there are cores
    bin/test simulation --seed 4711         one, with what happened in it
    bin/test simulation --mutants           whether bugs that are put in by hand are found

What fails is made as short as it can be and shown as the source of a Plan, with what happened in it.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.plan import Plan, draw, shorter, told
from tests.simulation.world import simulate

#: Seeds that one process takes at a time, and after how many of these it is replaced: the greenlets
#: of killed processes are never collected, about 350 KB a schedule.
CHUNK = 100
CHUNKS_A_PROCESS = 10
FIRST = 20_000
#: How long a failing plan is made shorter, in seconds, and how many failures are shown.
SHRINK_FOR = 60.0
SHOWN = 10
#: Within so many schedules a bug that was put in by hand has to be found.
FOUND_WITHIN = 10_000


@dataclass(frozen=True)
class Failure:
    plan: Plan
    text: str
    trace: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What it is, without the numbers of this one."""
        return "".join(character for character in self.text if not character.isdigit())[:60]


def attempt(plan: Plan, *, telling: bool = False) -> Failure | None:
    """Run it. None when all held."""
    try:
        simulate(plan, telling=telling)
    except Exception as error:
        world = getattr(error, "world", None)
        return Failure(plan, f"{type(error).__name__}: {error}", tuple(world.truth.trace) if world is not None else ())
    return None


def shrink(failure: Failure, seconds: float = SHRINK_FOR) -> Failure:
    """The shortest plan that fails in the same way, as far as it is found in the time."""
    deadline = time.perf_counter() + seconds
    better = True
    while better and time.perf_counter() < deadline:
        better = False
        for plan in shorter(failure.plan):
            found = _fails_likewise(plan, failure.kind)
            if found is not None:
                failure, better = found, True
                break
            if time.perf_counter() > deadline:
                break
    return failure


def _fails_likewise(plan: Plan, kind: str) -> Failure | None:
    """With one message less everything comes at another time: a few other orders are tried, too."""
    for seed in (plan.seed, 1, 2, 3, 4):
        found = attempt(replace(plan, seed=seed))
        if found is not None and found.kind == kind:
            return found
    return None


def _chunk(seeds: range) -> list[Failure]:
    logging.disable(logging.CRITICAL)
    return [failure for seed in seeds if (failure := attempt(draw(seed))) is not None]


def collect_seldom() -> None:
    """A fifth of a schedule's time went into looking through what has been imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _chunks(seeds: range) -> Iterator[range]:
    for start in range(seeds.start, seeds.stop, CHUNK):
        yield range(start, min(start + CHUNK, seeds.stop))


def run(seeds: range, processes: int) -> list[Failure]:
    """All of them; says how far it is."""
    begun, done, failures = time.perf_counter(), 0, []
    with multiprocessing.get_context("spawn").Pool(processes, collect_seldom, maxtasksperchild=CHUNKS_A_PROCESS) as pool:
        for chunk, found in zip(_chunks(seeds), pool.imap(_chunk, _chunks(seeds)), strict=True):
            done += len(chunk)
            failures += found
            for failure in found:
                print(f"seed {failure.plan.seed}: {failure.text}", flush=True)
            if done % 10_000 == 0 or done == len(seeds):
                took = time.perf_counter() - begun
                print(f"{done:,} schedules in {took:,.0f} s ({1000 * took / done:.1f} ms each), {len(failures)} failed", flush=True)
    return failures


def show(failure: Failure) -> None:
    failure = attempt(failure.plan, telling=True) or failure
    print(f"\nseed {failure.plan.seed}: {failure.text}\n{told(failure.plan)}")
    print("\n".join(failure.trace), flush=True)


def hunt(name: str, most: int = FOUND_WITHIN) -> int | None:
    """The seed at which a bug that was put in is found, None when it is not within ``most``."""
    with mutated(name):
        return next((seed for seed in range(most) if attempt(draw(seed)) is not None), None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/test simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default=f"0-{FIRST}")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutants", action="store_true")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # a seed is to replay exactly, and sets of strings go by it
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation.run", *sys.argv[1:]])
    logging.disable(logging.CRITICAL)
    collect_seldom()
    if options.mutants:
        found = {name: hunt(name) for name in MUTANTS}
        for name, seed in found.items():
            print(f"{name}: {f'found at seed {seed:,}' if seed is not None else f'not found within {FOUND_WITHIN:,}'}")
        return int(None in found.values())
    if options.seed is not None:
        failure = attempt(draw(options.seed))
        if failure is None:
            print("all held")
            return 0
        show(failure)
        print("\nshorter:")
        show(shrink(failure))
        return 1
    first, _, last = options.seeds.partition("-")
    failures = run(range(int(first), int(last)), options.processes)
    kinds: dict[str, Failure] = {}
    for failure in failures:
        kinds.setdefault(failure.kind, failure)
    for failure in list(kinds.values())[:SHOWN]:
        show(shrink(failure))
    if failures:
        print(f"\n{len(failures)} failed, of {len(kinds)} kinds; their seeds: {', '.join(str(one.plan.seed) for one in failures[:40])}")
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
