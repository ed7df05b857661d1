"""A round of inputs for each target: ``bin/test fuzz [--count N] [--target NAME] [--seed N]``.

A finding is an exception that is not documented, an input that takes longer than 100 ms of this
process's time, or more than 100 MB. It is told with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
import traceback
from dataclasses import dataclass, field

from tests.fuzz.targets import TARGETS

#: What one input may take, in seconds of this process's time and in bytes.
SLOW = 0.1
LARGE = 100 * 2**20
#: Findings after which a target is given up.
ENOUGH = 5


@dataclass
class Outcome:
    """What came of a target. slowest: seconds of one input; grown: bytes that the process has become
    larger."""

    inputs: int = 0
    slowest: float = 0.0
    grown: int = 0
    findings: list[str] = field(default_factory=list)


def fuzz(target: str, count: int, seed: int) -> Outcome:
    """Feed a target with ``count`` inputs, each of a seed of its own."""
    feed = TARGETS[target]()
    outcome = Outcome()
    before = _peak()
    for number in range(count):
        draw = random.Random(f"{seed}-{number}")
        begun = time.thread_time()
        try:
            feed(draw)
        except Exception:
            outcome.findings.append(f"{target}, seed {seed}, input {number}:\n{traceback.format_exc(limit=-4)}")
        took = time.thread_time() - begun
        outcome.inputs += 1
        outcome.slowest = max(outcome.slowest, took)
        if took > SLOW and _again(feed, seed, number) > SLOW:  # not the collector, not the machine
            outcome.findings.append(f"{target}, seed {seed}, input {number}: took {took:.2f} s")
        if len(outcome.findings) >= ENOUGH:
            break
    outcome.grown = _peak() - before
    if outcome.grown > LARGE:
        outcome.findings.append(f"{target}: the process grew by {outcome.grown >> 20} MB")
    return outcome


def _again(feed: object, seed: int, number: int) -> float:
    begun = time.thread_time()
    feed(random.Random(f"{seed}-{number}"))  # type: ignore[operator]
    return time.thread_time() - begun


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/test fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    good = True
    print("| target | inputs | slowest input, ms | grown, MB | findings |\n|---|---|---|---|---|", flush=True)
    for target in options.target or TARGETS:
        outcome = fuzz(target, options.count, options.seed)
        good &= not outcome.findings
        row = (target, f"{outcome.inputs:,}", f"{outcome.slowest * 1000:.1f}", f"{outcome.grown / 2**20:.1f}", len(outcome.findings))
        print(f"| {' | '.join(map(str, row))} |", flush=True)
        for finding in outcome.findings:
            print(finding, file=sys.stderr, flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
