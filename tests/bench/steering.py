"""How near ``concurrency: auto`` comes to the best fixed number, and how soon. ``bin/bench steering``
runs it, and draws what it did.

Each handler runs with fixed numbers first, for some seconds of a backlog that does not end; then with
``auto``, for a minute and a half, of which the last minute counts.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.support import broker
from tests.support.servers import Running, configuration, create_topic, produce, unique, until

FIXED = (4, 8, 16, 32, 64, 128, 256, 512)
SECONDS = 8.0
AUTO_SECONDS = 90.0
FOUND_AFTER = 30.0
CHANGE = 60.0  # seconds of the run whose handler changes under way
KEYS = 200

WAITS = "import time\n\ndef handle(value):\n    time.sleep(0.02)\n    return value\n"
COMPUTES = (
    "import hashlib\n\ndef handle(value):\n    for _ in range(200):\n        value = hashlib.sha256(value).digest()\n    return value\n"
)
DATABASE = """import threading
import time

connections = threading.Semaphore(20)

def handle(value):
    with connections:
        time.sleep(0.02)
    return value
"""
SLOWER = """import threading
import time

lock = threading.Lock()
running = 0

def handle(value):
    global running
    with lock:
        running += 1
        taken = running
    time.sleep(0.02 * max(1, taken / 20) ** 1.5)  # beyond twenty at once they stand in each other's way
    with lock:
        running -= 1
    return value
"""
CHANGES = f"""import time
import threading

connections = threading.Semaphore(20)
begun = None

def handle(value):
    global begun
    begun = begun or time.monotonic()
    if time.monotonic() - begun < {CHANGE}:
        time.sleep(0.02)
    else:
        with connections:
            time.sleep(0.02)
    return value
"""


@dataclass
class Case:
    """name: as in the table; app: the handler's module; order: the route's."""

    name: str
    app: str
    order: str = "none"
    executor: str = "thread"
    seconds: float = AUTO_SECONDS
    numbers: Sequence[int] = FIXED
    after: float = 2.0  # seconds until a fixed number is measured: what it is compared with runs for a while, too
    fixed: dict[int, float] = field(default_factory=dict)
    seen: list[tuple[float, int, int, float]] = field(default_factory=list)  # second, concurrency, settled, messages a second
    reason: str = ""

    @property
    def best(self) -> float:
        return max(self.fixed.values())

    def rate(self, begin: float, end: float) -> float:
        found = [rate for at, _, _, rate in self.seen if begin <= at < end]
        return sum(found) / len(found)


CASES = (
    Case("waits 20 ms", WAITS),
    Case("waits 20 ms, greenlets", WAITS, executor="greenlet"),
    Case("computes 0.1 ms", COMPUTES),
    Case("20 connections", DATABASE),
    Case("slower beyond 20", SLOWER),
    Case("skewed keys", WAITS, order="key", numbers=(16, 64, 256), after=FOUND_AFTER),
    Case("changes", CHANGES, seconds=CHANGE + AUTO_SECONDS),
)


@contextmanager
def serving(servers: str, source: str, case: Case, concurrency: int | str) -> Iterator[str]:
    """Its admin address."""
    output = create_topic(servers, unique("steering-out"))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(case.app)
        more: dict[str, Any] = {"admin": {"bind": "127.0.0.1:0"}, "order": case.order, "executor": case.executor}
        server = Running(Path(folder), configuration(servers, "app:handle", source, output, concurrency=concurrency, **more))
        try:
            address = server.says(r"admin at (\S+)")[1]
            until(lambda: _status(address)["done"] > 0, 60, "the first message")
            yield address
        finally:
            server.signal(signal.SIGKILL)
            server.close()


def _status(address: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"http://{address}/status", timeout=10).json()
    return found


def fixed(servers: str, source: str, case: Case, concurrency: int) -> float:
    """Messages a second."""
    with serving(servers, source, case, concurrency) as address:
        time.sleep(case.after)
        before, began = _status(address)["done"], time.monotonic()
        time.sleep(SECONDS)
        return float(_status(address)["done"] - before) / (time.monotonic() - began)


def found(servers: str, source: str, case: Case) -> None:
    """Fill ``seen`` and ``reason``."""
    with serving(servers, source, case, "auto") as address:
        begun = last = time.monotonic()
        done = _status(address)["done"]
        while last - begun < case.seconds:
            time.sleep(1)
            status, now = _status(address), time.monotonic()
            case.seen.append((now - begun, status["concurrency"], status["steering"]["settled"], (status["done"] - done) / (now - last)))
            done, last, case.reason = status["done"], now, status["steering"]["reason"]


def picture(cases: list[Case], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    drawn, places = pyplot.subplots(len(cases), 2, figsize=(11, 2.4 * len(cases)), layout="constrained", squeeze=False)
    for (left, right), case in zip(places, cases, strict=True):
        at = [one[0] for one in case.seen]
        left.plot(at, [one[1] for one in case.seen], drawstyle="steps-post", linewidth=0.8, label="runs")
        left.plot(at, [one[2] for one in case.seen], drawstyle="steps-post", label="settled on")
        left.set_yscale("log", base=2)
        left.set_ylabel("concurrency")
        left.set_title(case.name, loc="left", fontsize=10)
        right.plot(at, [one[3] for one in case.seen])
        right.axhline(case.best, linestyle="--", color="gray")
        right.set_ylim(0, 1.15 * case.best)
        right.set_title(f"messages a second; dashed: fixed {max(case.fixed, key=lambda n: case.fixed[n])}", loc="left", fontsize=10)
        for place in (left, right):
            place.grid(alpha=0.3)
    places[0][0].legend(loc="lower right", fontsize=8)
    for place in places[-1]:
        place.set_xlabel("seconds")
    drawn.savefig(file)


def table(cases: list[Case]) -> str:
    rows = [
        f"| handler | {' | '.join(map(str, FIXED))} | auto, after 30 s | of the best | settled on |",
        f"|---|{'---|' * len(FIXED)}---|---|---|",
    ]
    for case in cases:
        parts = {"": (FOUND_AFTER, case.seconds)}
        if case.app == CHANGES:
            parts = {"before": (FOUND_AFTER, CHANGE), "after": (CHANGE + FOUND_AFTER, case.seconds)}
        for part, (begin, end) in parts.items():
            best = case.best if part != "after" else next(other for other in cases if other.app == DATABASE).best
            rate = case.rate(begin, end)
            settled = [one[2] for one in case.seen if begin <= one[0] < end]
            cells = [f"{case.fixed[number]:,.0f}" if number in case.fixed and part != "after" else "–" for number in FIXED]
            rows.append(
                f"| {case.name} {part} | {' | '.join(cells)} | {rate:,.0f} | {rate / best:.2f} | {min(settled)} to {max(settled)} |"
            )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/bench steering", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a case by its name; may be given several times")
    parser.add_argument("--picture", type=Path, help="a file to draw it into (SVG)")
    parser.add_argument("--messages", type=int, default=2_500_000)
    options = parser.parse_args()
    cases = [case for case in CASES if not options.only or case.name in options.only]
    kafka = broker.Kafka()
    kafka.start()
    try:
        draw = random.Random(0)
        weights = [1 / (rank + 1) for rank in range(KEYS)]
        keys = [b"%d" % key for key in draw.choices(range(KEYS), weights, k=100_000)]
        source = create_topic(kafka.servers, unique("steering-in"))
        produce(kafka.servers, source, ((keys[n % len(keys)], b"x" * 20) for n in range(options.messages)))
        for case in cases:
            alike = next((other for other in cases if other.app == WAITS and other.fixed and case.app == CHANGES), None)
            case.fixed = alike.fixed if alike else {number: fixed(kafka.servers, source, case, number) for number in case.numbers}
            found(kafka.servers, source, case)
            print(f"{case.name}: {case.reason}", flush=True)
            print(table([case]) if case.app != CHANGES else "", flush=True)
        print(table(cases))
        if options.picture is not None:
            picture(cases, options.picture)
    finally:
        kafka.stop()
    return 0


if __name__ == "__main__":
    broker.close_when_asked_to_end()
    sys.exit(main())
