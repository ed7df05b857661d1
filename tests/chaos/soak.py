"""``bin/test soak --minutes 60``: two processes under a load that rises and falls, and what they hold
of the machine meanwhile.

Each message's result is counted as it comes: lost, twice and out of order have to be 0 at the end.
What a process holds (memory, descriptors, threads, greenlets) is noted by the application itself each
half minute, where it is counted from inside. The last part of the soak has to hold no more than the
part after the first minutes. Prints a table; ``--picture`` draws it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka

from tests.support.broker import Kafka, close_when_asked_to_end
from tests.support.servers import Running, configuration, create_topic, unique, until

#: Messages a second at the height of the load, and seconds from one height to the next.
HIGHEST = 1_500
PERIOD = 600.0
KEYS = 2_000
#: Minutes after which a process has all that it needs, and the length of the part that is compared.
WARM = 5.0
PART = 0.2
#: By how much the last part may be above the first: memory in bytes, the others in number.
ALLOWED = {"memory": 6 * 2**20, "descriptors": 2, "threads": 1, "greenlets": 5}

APP = """
import gc, json, os, threading, time
import greenlet

def boot():
    threading.Thread(target=note, daemon=True).start()

def note():
    while True:
        with open("/proc/self/status") as file:
            facts = dict(line.split(":", 1) for line in file)
        told = {
            "at": time.time(), "pid": os.getpid(),
            "memory": int(facts["VmRSS"].split()[0]) * 1024, "threads": int(facts["Threads"]),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "greenlets": sum(isinstance(one, greenlet.greenlet) for one in gc.get_objects()),
        }
        with open(f"figures-{os.getpid()}", "a") as file:
            file.write(json.dumps(told) + "\\n")
        time.sleep(30)

def handle(message):
    value = message.value
    time.sleep(value["ms"] / 1000)
    if value["n"] % 1000 == 7 or (value["n"] % 100 == 3 and message.attempt == 1):
        raise ValueError("no such product")
    return value["n"]
"""


@dataclass
class Count:
    """Results as they come."""

    seen: bytearray = field(default_factory=bytearray)
    twice: int = 0
    disorder: int = 0
    last: dict[bytes, int] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def read(self, servers: str, topics: list[str]) -> None:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": servers, "group.id": unique("soak"), "auto.offset.reset": "earliest", "enable.auto.commit": False}
        )
        consumer.subscribe(topics)
        while not self.over.is_set():
            for message in consumer.consume(5_000, 0.5):
                if message.error() is None:
                    self._take(json.loads(message.value() or b"null"), message.key() or b"", ordered=message.topic() == topics[0])
        consumer.close()

    def _take(self, value: Any, key: bytes, *, ordered: bool) -> None:
        number = value["n"] if isinstance(value, dict) else value
        while len(self.seen) <= number:
            self.seen.extend(bytes(1_000_000))
        self.twice += self.seen[number]
        self.seen[number] = 1
        if ordered:
            self.disorder += number < self.last.get(key, -1)
            self.last[key] = number

    def missing(self, sent: int) -> int:
        return sent - sum(self.seen)


def feed(servers: str, topic: str, minutes: float, draw: random.Random) -> int:
    """The load; how many it was."""
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, "linger.ms": 5, "enable.idempotence": True})
    begun, number, due = time.monotonic(), 0, 0.0
    before = begun
    while (now := time.monotonic()) < begun + 60 * minutes:
        due += (now - before) * HIGHEST * (1 - math.cos(2 * math.pi * (now - begun) / PERIOD)) / 2
        before = now
        while due >= 1:
            value = json.dumps({"n": number, "ms": round(draw.uniform(0, 20), 1)})
            producer.produce(topic, value, f"key-{draw.randrange(KEYS)}")
            number, due = number + 1, due - 1
        producer.poll(0)
        time.sleep(0.02)
    assert producer.flush(60) == 0
    return number


def figures(folder: Path, begun: float) -> dict[int, list[dict[str, float]]]:
    """By pid, what each process noted; at: minutes from the beginning."""
    found: dict[int, list[dict[str, float]]] = {}
    for file in sorted(folder.glob("figures-*")):
        for line in file.read_text().splitlines():
            told = json.loads(line)
            found.setdefault(told["pid"], []).append({**told, "at": (told["at"] - begun) / 60})
    return found


def grown(rows: list[dict[str, float]], minutes: float) -> list[str]:
    """What the last part of the soak holds more of than the part after the first minutes."""
    length = PART * minutes
    first = [row for row in rows if WARM <= row["at"] < WARM + length]
    last = [row for row in rows if minutes - length <= row["at"] < minutes]
    told = []
    for name, most in ALLOWED.items():
        before, after = (statistics.median(row[name] for row in part) for part in (first, last))
        if after > before + most:
            told.append(f"{name} {before:,.0f} → {after:,.0f}")
    return told


def table(found: dict[int, list[dict[str, float]]], minutes: float) -> str:
    moments = sorted({WARM, *(minutes * part for part in (0.25, 0.5, 0.75)), minutes - 1})
    rows = ["| process | after | memory | descriptors | threads | greenlets |", "|---|---:|---:|---:|---:|---:|"]
    for number, noted in enumerate(found.values()):
        for moment in moments:
            row = min(noted, key=lambda one: abs(one["at"] - moment))
            counts = " | ".join(f"{row[name]:,.0f}" for name in ("descriptors", "threads", "greenlets"))
            rows.append(f"| {number} | {row['at']:.0f} min | {row['memory'] / 2**20:.1f} MiB | {counts} |")
    return "\n".join(rows)


def picture(found: dict[int, list[dict[str, float]]], minutes: float, file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    drawn, places = pyplot.subplots(4, 1, sharex=True, figsize=(9, 8), layout="constrained")
    for place, name in zip(places, ("load", "memory", "descriptors", "threads and greenlets"), strict=True):
        place.set_ylabel({"load": "messages a second", "memory": "MiB"}.get(name, name))
        place.grid(alpha=0.3)
    moments = [minutes * step / 600 for step in range(601)]
    places[0].plot(moments, [HIGHEST * (1 - math.cos(2 * math.pi * 60 * moment / PERIOD)) / 2 for moment in moments])
    for number, noted in enumerate(found.values()):
        at = [row["at"] for row in noted]
        places[1].plot(at, [row["memory"] / 2**20 for row in noted], label=f"process {number}")
        places[2].plot(at, [row["descriptors"] for row in noted])
        places[3].plot(at, [row["threads"] for row in noted], label=f"threads {number}")
        places[3].plot(at, [row["greenlets"] for row in noted], "--", label=f"greenlets {number}")
    for place in places:
        place.set_ylim(bottom=0)
    for place in (places[1], places[3]):
        place.legend(loc="lower right", ncols=2)
    places[3].set_xlabel("minutes")
    drawn.savefig(file)


def soak(minutes: float, draw: random.Random, drawing: Path | None) -> int:
    kafka = Kafka()
    kafka.start()
    folder = Path(tempfile.mkdtemp(prefix="gworkers-soak-"))
    count = Count()
    server: Running | None = None
    try:
        source, output, dead = (create_topic(kafka.servers, unique(name)) for name in ("soak-in", "soak-out", "soak-dead"))
        more: dict[str, Any] = {"decode": "json", "encode": "json", "order": "key", "pass": "message"}
        more |= {"dead_letter": dead, "retry": {"attempts": 3, "backoff": "50ms"}, "admin": {"bind": "127.0.0.1:0"}}
        config = configuration(kafka.servers, "app:handle", source, output, **more)
        config |= {"processes": 2, "concurrency": 64, "commit": {"interval": "1s"}, "state_dir": "state"}
        config["app"] = {"path": ".", "setup": "app:boot"}
        (folder / "app.py").write_text(APP)
        server = Running(folder, config)
        server.says("assigned: ")
        reader = threading.Thread(target=count.read, args=(kafka.servers, [output, dead]))
        reader.start()
        begun = time.time()
        sent = feed(kafka.servers, source, minutes, draw)
        try:
            until(lambda: not count.missing(sent), 120, "the last result")
        finally:
            count.over.set()
            reader.join()
        status = server.stop()
        found = {pid: rows for pid, rows in figures(folder, begun).items() if rows}
        print(f"{sent:,} messages, lost {count.missing(sent)}, out of order {count.disorder}, twice {count.twice}, ended with {status}\n")
        print(table(found, minutes))
        if drawing is not None:
            picture(found, minutes, drawing)
        more_of = [f"process {number}: {told}" for number, rows in enumerate(found.values()) for told in grown(rows, minutes)]
        print("\n".join(more_of) or "\nnothing has grown")
        return int(bool(more_of or count.missing(sent) or count.disorder or count.twice or status or len(found) != 2))
    finally:
        count.over.set()
        if server is not None:
            server.close()
        kafka.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/test soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="10 at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="a file to draw it into (SVG); needs matplotlib")
    options = parser.parse_args()
    if options.minutes < 10:
        parser.error("--minutes: 10 at least, of which the first 5 are not compared")
    return soak(options.minutes, random.Random(options.seed), options.picture)


if __name__ == "__main__":
    close_when_asked_to_end()
    sys.exit(main())
