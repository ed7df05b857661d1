"""``bin/test chaos --minutes N``: rounds of random faults until the time is up, and the table."""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.chaos.faults import FAULTS, NotHere
from tests.chaos.harness import World
from tests.chaos.judge import Verdict, table


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
    names = list(options.only or (name for name, fault in FAULTS.items() if options.exactly_once or not fault.transactions))
    hanging = ""
    try:
        while time.monotonic() < ends:
            name = draw.choice(names) if len(verdicts) >= len(names) else names[len(verdicts)]  # each at least once
            try:
                verdict = FAULTS[name](world, draw.randrange(2**31))
            except NotHere as error:
                print(f"not tried  {name}: {error}", flush=True)
                names.remove(name)
                continue
            verdicts.append(verdict)
            mark = "good" if verdict.good else "BAD"
            counts = f"lost {verdict.lost}, out of order {verdict.disorder}, twice {verdict.twice}, by a zombie {verdict.zombie}"
            told = f"{verdict.faults} faults, {verdict.messages:,} messages, {counts}, longest pause {verdict.pause:.1f} s"
            print(
                f"{mark}  {verdict.kind}: seed {verdict.seed}, {told}" + "".join(f"; {note}" for note in verdict.notes + verdict.remarks),
                flush=True,
            )
        if options.exactly_once:
            hanging = world.hanging()
            print(f"hanging transactions, as kafka-transactions finds them: {hanging or 'none'}")
    finally:
        world.close()
        print(f"\n{table(verdicts)}", flush=True)
    return 0 if all(verdict.good for verdict in verdicts) and not hanging else 1


if __name__ == "__main__":
    sys.exit(main())
