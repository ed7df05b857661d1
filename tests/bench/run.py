"""The benchmark: ratios measured in one run, on one broker, printed as a table. ``bin/bench`` runs
it.

Throughput is seen from outside: how fast the output topic grows between a tenth and all of the
messages, so that start-up and joining a group do not count. Each figure is the best of
``--rounds``.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka

from gworkers.handlers.block import Block
from gworkers.handlers.job import Job
from gworkers.handlers.slot import Slot
from gworkers.offsets.journal import Journal, NoJournal
from gworkers.pipeline.idle import Idle
from gworkers.pipeline.scheduler import Scheduler
from tests.support import broker
from tests.support.jobs import job_of, partition_of
from tests.support.servers import ENVIRONMENT, ROOT, Running, configuration, create_topic, produce, unique, until

NOOP = "def handle(value):\n    return value\n"
WAIT = "import time\n\ndef handle(value):\n    time.sleep(0.005)\n    return value\n"
BATCHED = "def handle(values):\n    return values\n"
COOPERATIVE = WAIT  # patched, time.sleep yields


#: How many messages wait for another attempt while another route is measured.
WAITING = 100_000


@dataclass
class Result:
    rate: float
    memory: int | None = None


def growth(servers: str, topic: str, count: int, begun: Callable[[], None], limit: float = 120) -> float:
    """Messages a second with which ``topic`` grows from a tenth of ``count`` to all of it."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": unique("watch")})
    tps = [confluent_kafka.TopicPartition(topic, number) for number in range(4)]

    def size() -> int:
        return sum(consumer.get_watermark_offsets(tp, timeout=10)[1] for tp in tps)

    def there() -> bool:
        try:
            return size() == 0
        except confluent_kafka.KafkaException:  # a topic made a moment ago may have no leader yet
            return False

    try:
        until(there, what=f"an empty {topic}")
        begun()
        first: tuple[float, int] | None = None
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            now, have = time.monotonic(), size()
            if first is None and have >= count / 10:
                first = now, have
            if have >= count:
                assert first is not None
                return (have - first[1]) / max(now - first[0], 1e-9)
            time.sleep(0.03)
        raise RuntimeError(f"{topic} has {size()} of {count} messages after {limit} s")
    finally:
        consumer.close()


def fill(servers: str, count: int, keys: int = 1000, partitions: int = 4) -> str:
    topic = create_topic(servers, unique("bench-in"), partitions)
    produce(servers, topic, ((f"key-{n % keys}".encode(), b"x" * 100) for n in range(count)))
    return topic


def contender(servers: str, name: str, source: str, count: int) -> Result:
    output = create_topic(servers, unique("bench-out"))
    processes: list[subprocess.Popen[bytes]] = []

    def begin() -> None:
        command = [sys.executable, "-m", "tests.bench.contenders", name, servers, source, output]
        processes.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))

    try:
        return Result(growth(servers, output, count, begin))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def ours(servers: str, source: str, count: int, app: str = NOOP, concurrency: int = 64, **more: object) -> Result:
    output = create_topic(servers, unique("bench-out"))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(app)
        commit = {"interval": "1s", **more.pop("commit", {})}  # type: ignore[dict-item]
        config = configuration(servers, "app:handle", source, output, concurrency=concurrency, commit=commit, **more)
        running: list[Running] = []
        try:
            rate = growth(servers, output, count, lambda: running.append(Running(Path(folder), config)))
            return Result(rate, running[0].memory())
        finally:
            for server in running:
                server.process.send_signal(signal.SIGTERM)
                status = server.process.wait(30)
                if status:
                    print(server.log, file=sys.stderr)
                server.close()


def scheduler_rate(keys: int = 100_000, rounds: int = 5) -> float:
    """Messages a second through add, take and finish, with ``keys`` busy lanes and as many messages
    behind them all the while."""
    scheduler, partition = Scheduler(Idle()), partition_of(order="key")
    names = [b"key-%d" % number for number in range(keys)]

    def jobs() -> list[Job]:
        return [job_of(partition, key=name) for name in names]

    scheduler.add(partition, jobs())
    running = scheduler.take(lambda _: keys)
    scheduler.add(partition, jobs())
    fresh = [jobs() for _ in range(rounds)]
    begun = time.perf_counter()
    for block in fresh:
        for start in range(0, keys, 1000):
            scheduler.add(partition, block[start : start + 1000])
        for job in running:
            scheduler.finish(job)
        running = []
        while taken := scheduler.take(lambda _: 64):
            running += taken
    return rounds * keys / (time.perf_counter() - begun)


def latency(servers: str, seconds: float = 8.0, rate: int = 1000, **more: object) -> tuple[float, float]:
    """From sending a message to reading its committed result, in milliseconds at a steady rate: the
    median and 99 %."""
    source, output = create_topic(servers, unique("bench-in")), create_topic(servers, unique("bench-out"))
    consumer = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": unique("watch"), "isolation.level": "read_committed"})
    consumer.assign([confluent_kafka.TopicPartition(output, number, 0) for number in range(4)])
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, "linger.ms": 0})
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(WAIT)
        server = Running(Path(folder), configuration(servers, "app:handle", source, output, concurrency=64, **more))
        try:
            server.says("assigned: ")
            begun, sent, ends = time.monotonic(), 0, 0.0
            while not ends or (len(found) < sent and time.monotonic() < ends):
                now = time.monotonic()
                if now - begun > seconds and not ends:
                    ends = now + 10
                for _ in range(0 if ends else int((now - begun) * rate) - sent):
                    producer.produce(source, str(time.time()).encode(), b"key-%d" % (sent % 1000))
                    sent += 1
                producer.poll(0)
                for message in consumer.consume(500, 0.001):
                    if message.error() is None:
                        found.append(1000 * (time.time() - float(message.value() or b"nan")))
            assert len(found) == sent, f"{len(found)} of {sent} results came"
        finally:
            server.process.kill()
            server.close()
            consumer.close()
    found = sorted(found[len(found) // 4 :])  # without the first quarter, in which it warms up
    return found[len(found) // 2], found[int(len(found) * 0.99)]


def intervals(servers: str, many: str, some: str, count: int) -> None:
    """The table of throughput and latency by the interval of transactions."""
    print("\n| `transaction.interval` | msgs/s, no-op | msgs/s, 5 ms | latency at 1,000 msgs/s, 5 ms: median | 99 % |")
    print("|---|---:|---:|---:|---:|")
    for interval in (20, 50, 100, 500):
        more: dict[str, Any] = {"delivery": "exactly-once", "instance": unique("bench"), "transaction": {"interval": f"{interval}ms"}}
        noop, wait = ours(servers, many, count, **more), ours(servers, some, count // 3, WAIT, **more)
        median, slow = latency(servers, **more)
        mark = "✓" if median < 2 * interval else "✗"
        print(f"| {interval} ms | {noop.rate:,.0f} | {wait.rate:,.0f} | {median:.0f} ms {mark} | {slow:.0f} ms |", flush=True)
    median, slow = latency(servers)
    print(f"| at-least-once | | | {median:.0f} ms | {slow:.0f} ms |")


def waiting_retries(servers: str, waiting: int, count: int) -> tuple[Result, int]:
    """Throughput of a route while ``waiting`` messages of another one wait for their next attempt,
    and the bytes they have cost.

    What the busy route reads is committed in one transaction when all the others wait, so that
    nothing else is measured.
    """
    failing, source, output = (create_topic(servers, unique(word)) for word in ("bench-wait", "bench-in", "bench-out"))
    app = NOOP + "\ndef fail(value):\n    raise ValueError('not today')\n"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(app)
        config = configuration(
            servers,
            "app:handle",
            source,
            output,
            commit={"interval": "1s"},
            buffer={"messages": 400_000, "bytes": "256MiB"},
            admin={"bind": "127.0.0.1:0"},
        )
        config["kafka"]["consumer"] = {"isolation_level": "read_committed"}
        config["routes"]["fail"] = {"topics": [failing], "handler": "app:fail", "retry": {"backoff": "1h", "max_backoff": "1h"}}
        producer = confluent_kafka.Producer({"bootstrap.servers": servers, "transactional.id": unique("bench"), "linger.ms": 20})
        producer.init_transactions()
        producer.begin_transaction()
        for number in range(count):
            while True:
                try:
                    producer.produce(source, b"x" * 100, b"key-%d" % (number % 1000))
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()
        server = Running(Path(folder), config)
        try:
            place = f"http://{server.says(r'admin at ([0-9.:]+)')[1]}/metrics"

            def metric(name: str) -> float:
                with urllib.request.urlopen(place, timeout=5) as answer:
                    found = re.search(rf"^gworkers_{name} (\S+)", answer.read().decode(), re.MULTILINE)
                return float(found[1]) if found else 0.0

            until(lambda: metric("assigned_partitions") == 8, what="the assignment")
            before = server.memory()
            produce(servers, failing, ((f"key-{n % 1000}".encode(), b"x" * 100) for n in range(waiting)))
            until(lambda: metric("waiting_retries") == waiting, 120, f"{waiting} waiting retries")
            cost = server.memory() - before
            return Result(growth(servers, output, count, producer.commit_transaction), server.memory()), cost
        finally:
            server.process.kill()
            server.close()


def journal_cost(rounds: int = 200, blocks: int = 100) -> float:
    """Seconds a message that noting what runs costs: blocks of 64 run with a journal and without
    one, in turns; the medians' difference."""
    partition = partition_of()
    jobs = [job_of(partition, offset) for offset in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), 4)
        slots = [Slot(journal), Slot(NoJournal())]
        took: list[list[float]] = [[], []]
        for _ in range(rounds):
            for slot, times in zip(slots, took, strict=True):
                made = [Block(partition.route, jobs) for _ in range(blocks)]
                begun = time.perf_counter()
                for block in made:
                    block.run(slot)
                times.append((time.perf_counter() - begun) / (64 * blocks))
        return statistics.median(took[0]) - statistics.median(took[1])


def against(servers: str, other: Path, count: int, rounds: int) -> None:
    """This checkout and another one in turns on one broker: medians of ``rounds``, and ratios."""
    many, some = fill(servers, count), fill(servers, count // 6)
    once: dict[str, Any] = {"delivery": "exactly-once", "instance": unique("bench")}
    rows: dict[str, Callable[[], Result]] = {
        "no-op, 64": lambda: ours(servers, many, count),
        "no-op, 64, order: key": lambda: ours(servers, many, count, order="key"),
        "5 ms, 64": lambda: ours(servers, some, count // 6, WAIT),
        "exactly-once, no-op, 64": lambda: ours(servers, many, count, **once),
    }
    print("| | the other, msgs/s | this one, msgs/s | ratio |\n|---|---:|---:|---:|")
    for name, row in rows.items():
        found: dict[Path, list[float]] = {other: [], ROOT: []}
        for _ in range(rounds):
            for checkout, rates in found.items():
                ENVIRONMENT["PYTHONPATH"] = str(checkout)
                rates.append(row().rate)
        before, after = statistics.median(found[other]), statistics.median(found[ROOT])
        print(f"| {name} | {before:,.0f} | {after:,.0f} | {after / before:.2f} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--count", type=int, default=120_000)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with another checkout, in turns")
    options = parser.parse_args()
    kafka = broker.Kafka(group_min_session_timeout_ms="1000")
    kafka.start()
    servers = kafka.servers
    count = options.count
    try:
        if options.against is not None:
            against(servers, options.against.resolve(), count, options.rounds)
            return 0
        many, some = fill(servers, count), fill(servers, count // 3)
        alone = fill(servers, count // 3, partitions=1)
        rows: dict[str, Callable[[], Result]] = {
            "bare kafka-python loop, no-op": lambda: contender(servers, "bare", many, count),
            "the pattern taken literally, no-op, 64": lambda: contender(servers, "literal", some, count // 3),
            "gworkers, no-op, 64": lambda: ours(servers, many, count),
            "gworkers, no-op, 64, order: key": lambda: ours(servers, many, count, order="key"),
            "gworkers, 5 ms, 64": lambda: ours(servers, some, count // 3, WAIT),
            "gworkers, 5 ms, 64, order: key": lambda: ours(servers, some, count // 3, WAIT, order="key"),
            "gworkers, 5 ms, 64, one partition": lambda: ours(servers, alone, count // 3, WAIT),
            "gworkers, no-op, 64, commit.map: off": lambda: ours(servers, many, count, commit={"map": False}),
            "gworkers, greenlet executor, no-op, 64": lambda: ours(servers, many, count, executor="greenlet"),
            "gworkers, greenlet executor, 5 ms, 64": lambda: ours(servers, some, count // 3, WAIT, executor="greenlet"),
        }
        state = tempfile.mkdtemp(prefix="bench-state-")
        everything: dict[str, Any] = {
            "timeout": "30s",
            "retry": {"attempts": 5, "backoff": "1s"},
            "dead_letter": "bench.dead",
            "dead_letters": {"stop_above": "100 in 1m"},
            "state_dir": state,
            "max_age": {"after": "30d", "then": "drop"},
        }
        rows |= {
            "gworkers, no-op, 64, a journal": lambda: ours(servers, many, count, state_dir=state),
            "gworkers, no-op, 64, everything on": lambda: ours(servers, many, count, **everything),
            "gworkers, 5 ms, 64, everything on": lambda: ours(servers, some, count // 3, WAIT, **everything),
            "gworkers, no-op, 64, batches of 100": lambda: ours(
                servers, many, count, BATCHED, batch={"max_messages": 100, "max_wait": "20ms"}
            ),
        }
        once: dict[str, Any] = {"delivery": "exactly-once", "instance": unique("bench")}
        rows |= {
            "gworkers, exactly-once, no-op, 64": lambda: ours(servers, many, count, **once),
            "gworkers, exactly-once, 5 ms, 64": lambda: ours(servers, some, count // 3, WAIT, **once),
            "gworkers, exactly-once, 5 ms, 64, order: key": lambda: ours(servers, some, count // 3, WAIT, order="key", **once),
        }
        best: dict[str, Result] = {}
        for _ in range(options.rounds):
            for name, measure in rows.items():
                if options.only in name:
                    result = measure()
                    if name not in best or result.rate > best[name].rate:
                        best[name] = result
        report(best)
        if options.only in "intervals":
            intervals(servers, many, some, count)
        if options.only in "waiting retries":
            without, _ = waiting_retries(servers, 0, count)
            with_, cost = waiting_retries(servers, WAITING, count)
            print(f"\n{WAITING:,} messages that wait for a retry cost {cost / 1e6:.0f} MB (wanted: under 60 MB);", end=" ")
            print(f"the speed of another route beside them: {with_.rate / without.rate:.2f} of what it is without")
        if options.only in "journal":
            print(f"\nThe journal costs {1e9 * journal_cost():.0f} ns a message")
        if not options.only:
            print(f"\nThe scheduler alone, 100,000 keys waiting: {scheduler_rate():,.0f} messages/s (wanted: over 500,000)")
    finally:
        kafka.stop()
    return 0


def report(best: dict[str, Result]) -> None:
    cores = os.cpu_count()
    print(f"\n100-byte messages, 1,000 keys, 4 partitions, Apache Kafka on the same {cores} cores, best of the rounds\n")
    print("| | msgs/s | memory |\n|---|---:|---:|")
    for name, result in best.items():
        memory = f"{result.memory / 1e6:.0f} MB" if result.memory else ""
        print(f"| {name} | {result.rate:,.0f} | {memory} |")

    def ratio(text: str, above: str, below: str | float, wanted: float | None) -> None:
        if above in best and (isinstance(below, float) or below in best):
            value = best[above].rate / (below if isinstance(below, float) else best[below].rate)
            mark = "" if wanted is None else f"{wanted} {'✓' if value >= wanted else '✗'}"
            print(f"| {text} | {value:.2f} | {mark} |")

    print("\n| ratio | measured | wanted |\n|---|---:|---:|")
    noop = "gworkers, no-op, 64"
    ratio("no-op / bare loop", noop, "bare kafka-python loop, no-op", 1.2)
    ratio("no-op / literal pattern", noop, "the pattern taken literally, no-op, 64", 2.5)
    ratio("5 ms / (concurrency / time)", "gworkers, 5 ms, 64", 64 / 0.005, 0.8)
    ratio("5 ms, order: key / order: none", "gworkers, 5 ms, 64, order: key", "gworkers, 5 ms, 64", 0.9)
    ratio("no-op, order: key / order: none", "gworkers, no-op, 64, order: key", noop, None)
    ratio("5 ms, one partition / four", "gworkers, 5 ms, 64, one partition", "gworkers, 5 ms, 64", 0.9)
    ratio("no-op, commit.map on / off", noop, "gworkers, no-op, 64, commit.map: off", 0.95)
    ratio("no-op, journal on / off", "gworkers, no-op, 64, a journal", noop, 0.98)
    ratio("no-op, everything on / off", "gworkers, no-op, 64, everything on", noop, 0.9)
    ratio("5 ms, everything on / off", "gworkers, 5 ms, 64, everything on", "gworkers, 5 ms, 64", 0.9)
    ratio("no-op, exactly-once / at-least-once", "gworkers, exactly-once, no-op, 64", noop, 0.6)
    ratio("5 ms, exactly-once / at-least-once", "gworkers, exactly-once, 5 ms, 64", "gworkers, 5 ms, 64", 0.9)
    ratio(
        "5 ms, order: key, exactly-once / at-least-once",
        "gworkers, exactly-once, 5 ms, 64, order: key",
        "gworkers, 5 ms, 64, order: key",
        0.9,
    )


if __name__ == "__main__":
    broker.close_when_asked_to_end()
    sys.exit(main())
