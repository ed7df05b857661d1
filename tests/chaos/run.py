"""``bin/test chaos --minutes N``: rounds of random faults until the time is up, and the table."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterable

from tests.chaos.rounds import FAULTS, ONLY_EXACTLY_ONCE, Verdict, World


def table(verdicts: Iterable[Verdict]) -> str:
    """One row a kind of fault, in Markdown."""
    kinds: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault(verdict.kind, []).append(verdict)
    rows = ["| fault | rounds | faults | messages | lost | out of order | twice | by a zombie | longest pause |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    everything = [verdict for found in kinds.values() for verdict in found]
    for kind, found in [*sorted(kinds.items()), ("**all**", everything)]:
        sums = [sum(getattr(v, name) for v in found) for name in ("faults", "messages", "lost", "disorder", "twice", "zombie")]
        pause = max((v.pause for v in found), default=0.0)
        rows.append(f"| {kind} | {len(found)} | " + " | ".join(f"{number:,}" for number in sums) + f" | {pause:.1f} s |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/test chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=None, help="draw the same rounds again")
    parser.add_argument("--only", choices=FAULTS, action="append", help="this fault; may be given several times")
    parser.add_argument("--exactly-once", action="store_true", help="with delivery: exactly-once, and nothing may come twice")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    draw = random.Random(seed)
    print(f"seed {seed}", flush=True)
    world = World(exactly_once=options.exactly_once)
    verdicts: list[Verdict] = []
    ends = time.monotonic() + 60 * options.minutes
    names = list(options.only or (name for name in FAULTS if options.exactly_once or name not in ONLY_EXACTLY_ONCE))
    hanging = ""
    try:
        while time.monotonic() < ends:
            name = draw.choice(names) if len(verdicts) >= len(names) else names[len(verdicts)]  # each at least once
            verdict = FAULTS[name](world, draw.randrange(2**31))
            verdicts.append(verdict)
            mark = "good" if verdict.good else "BAD"
            counts = f"lost {verdict.lost}, out of order {verdict.disorder}, twice {verdict.twice}, by a zombie {verdict.zombie}"
            told = f"{verdict.faults} faults, {verdict.messages:,} messages, {counts}, longest pause {verdict.pause:.1f} s"
            print(f"{mark}  {verdict.kind}: seed {verdict.seed}, {told}" + "".join(f"; {note}" for note in verdict.notes), flush=True)
        if options.exactly_once:
            hanging = world.hanging()
            print(f"hanging transactions, as kafka-transactions finds them: {hanging or 'none'}")
    finally:
        world.close()
        print(f"\n{table(verdicts)}", flush=True)
    return 0 if all(verdict.good for verdict in verdicts) and not hanging else 1


if __name__ == "__main__":
    sys.exit(main())
