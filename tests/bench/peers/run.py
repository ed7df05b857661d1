"""gworkers beside its peers, each as its own documentation recommends (programs.py, parallel_consumer
and workers beside this file). ``bin/bench peers`` runs it; ``--write`` makes docs/peers.md of what has
been measured so far.

Rounds are interleaved: each peer has its turn in each of them. A figure is the median of a peer's
rounds; a run whose results are not all there has none. The rate is by the broker's append times, from
the first tenth of the results to the last one; the latency is from the intended time of sending to the
append time of the result. Everything is on one machine, Kafka beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import confluent_kafka

from tests.bench.peers.programs import Settings
from tests.support import broker
from tests.support.servers import ENVIRONMENT, ROOT, Running, committed, configuration, create_topic, unique

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs.py"
BUILT = ROOT / ".cache" / "peers"
FOUND = BUILT / "results.json"
PAGE = ROOT / "docs" / "peers.md"
PARTITIONS = 4
#: Seconds without one more result after which a run is over.
STANDS_STILL = 30.0
#: Seconds for a peer to commit all of it, and for which messages are sent at a rate.
COMMITS_WITHIN = 8.0
LATENCY_SECONDS = 10.0
#: Messages before a rate is measured: everything has begun by then.
WARM = 200


@dataclass(frozen=True)
class Row:
    """One comparison. keys: how many, or zipf; ordered: key order is asked of those who have it; rate:
    messages a second, for a latency; ideal: results a second that can be had."""

    name: str
    handler: str
    concurrency: int
    count: int
    keys: str = "1000"
    partitions: int = PARTITIONS
    size: int = 100
    compression: str = "none"
    ordered: bool = False
    rate: int = 0
    ideal: float | None = None

    @property
    def waits(self) -> bool:
        return self.handler.startswith("sleep")


ROWS = (
    Row("no-op, 64", "none", 64, 600_000),
    Row("5 ms, 64", "sleep:5", 64, 60_000, ideal=12_800),
    Row("5 ms, 64, one partition", "sleep:5", 64, 60_000, partitions=1, ideal=12_800),
    Row("5 ms, 64, order by key, 1,000 keys", "sleep:5", 64, 60_000, ordered=True, ideal=12_800),
    Row("5 ms, 64, order by key, keys by Zipf", "sleep:5", 64, 20_000, keys="zipf", ordered=True, ideal=1_497),
    Row("20 ms, 512", "sleep:20", 512, 100_000, ideal=25_600),
    Row("sha256 × 200, 8", "sha256:200", 8, 60_000),
    Row("no-op, 64, order by key", "none", 64, 600_000, ordered=True),
    Row("no-op, 64, 10 KB", "none", 64, 60_000, size=10_000),
    Row("no-op, 64, zstd", "none", 64, 600_000, compression="zstd"),
    Row("catch-up, no-op, 64", "none", 64, 1_000_000),
    Row("100 a second", "none", 64, 0, rate=100),
    Row("1,000 a second", "none", 64, 0, rate=1000),
    Row("5,000 a second", "none", 64, 0, rate=5000),
)


@dataclass(frozen=True)
class Peer:
    """needs: packages of its environment; sequential: handles one message after the other; order: what
    it keeps results in; loses: what a crash costs beside what comes twice."""

    name: str
    needs: tuple[str, ...] = ()
    sequential: bool = False
    order: str = "none"
    loses: str = "nothing"
    groups: bool = True

    def has(self, row: Row) -> bool:
        if row.ordered:
            return self.order == "key"
        return not (self.sequential and row.waits) and (self.name != "gworkers, greenlets" or row.waits)


PEERS = (
    Peer("gworkers", order="key"),
    Peer("gworkers, greenlets", order="key"),
    Peer("kafka-python", ("kafka-python[zstd]==3.0.9",), sequential=True, order="partition"),
    Peer("kafka-python + threads", ("kafka-python[zstd]==3.0.9",), order="partition"),
    Peer("confluent-kafka + threads", ("confluent-kafka==2.16.1",)),
    Peer("confluent-kafka share consumer", ("confluent-kafka==2.16.1",), groups=False),
    Peer("quixstreams", ("quixstreams==3.28.1",), sequential=True, order="partition"),
    Peer("aiokafka", ("aiokafka[zstd]==0.14.0",), order="none"),
    Peer("FastStream", ("faststream[kafka]==0.7.8", "cramjam"), loses="what runs"),
    Peer("Arroyo", ("sentry-arroyo==2.48.0",), order="partition"),
    Peer("Parallel Consumer", order="key"),
    Peer("rust-rdkafka, workers", loses="what runs below a commit"),
)


@dataclass
class Figures:
    """rate: results a second; cpu: microseconds of processors a message; memory: bytes, the most it
    had; wrong: keys whose results are out of order; late: part of all that was not committed in
    time; times: latencies in milliseconds, p50, p99, p99.9."""

    rate: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    twice: int = 0
    wrong: int = 0
    late: float = 0.0
    times: tuple[float, ...] = ()
    failed: str = ""


# -- building


def built(peer: Peer) -> list[str] | None:
    """The command that runs it, without its settings; None for ourselves."""
    if peer.name.startswith("gworkers"):
        return None
    if peer.name == "Parallel Consumer":
        return _java()
    if peer.name.startswith("rust"):
        return _rust()
    folder = BUILT / "".join(part if part.isalnum() else "-" for part in "-".join(peer.needs))
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        print(f"making an environment for {peer.name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *peer.needs], check=True)
        (folder / "whole").touch()
    return [str(python), str(PROGRAMS), peer.name]


def _java() -> list[str]:
    folder, source = BUILT / "parallel-consumer", HERE / "parallel_consumer"
    if not (folder / "classes").is_dir():
        command = ["mvn", "-q", "-B", "-f", str(source / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'lib'}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["javac", "-d", str(folder / "classes"), "-cp", f"{folder}/lib/*", str(source / "Peer.java")], check=True)
    return ["java", "-Xmx1g", "-cp", f"{folder}/classes:{folder}/lib/*", "Peer"]


def _rust() -> list[str]:
    environment = {**os.environ, "CARGO_TARGET_DIR": str(BUILT / "workers")}
    subprocess.run(["cargo", "build", "--release", "--locked", "-q"], cwd=HERE / "workers", env=environment, check=True)
    return [str(BUILT / "workers" / "release" / "workers")]


# -- one run


@contextmanager
def running(peer: Peer, command: list[str] | None, row: Row, servers: str, source: str, output: str, group: str) -> Iterator[int]:
    """Its process id. command: of ``built``."""
    with tempfile.TemporaryDirectory(prefix="gworkers-peer-") as folder:
        if command is None:
            with _ours(peer, row, servers, source, output, group, Path(folder)) as pid:
                yield pid
            return
        if peer.needs:
            settings = Settings(servers, source, output, group, row.handler, row.concurrency, row.compression)
            given = [json.dumps(asdict(settings))]
        else:
            order = "KEY" if row.ordered else "UNORDERED"
            given = [servers, source, output, group, row.handler, str(row.concurrency), row.compression, order]
        with open(Path(folder) / "log", "wb") as log:
            process = subprocess.Popen([*command, *given], cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process.pid
            if process.poll() is not None:
                raise RuntimeError(f"it ended with {process.returncode}: {(Path(folder) / 'log').read_text()[-500:]}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _ours(peer: Peer, row: Row, servers: str, source: str, output: str, group: str, folder: Path) -> Iterator[int]:
    shutil.copy(PROGRAMS, folder)
    (folder / "app.py").write_text(f"from programs import handler\n\nhandle = handler({row.handler!r})\n")
    more: dict[str, Any] = {"order": "key" if row.ordered else "none", "concurrency": row.concurrency, "commit": {"interval": "1s"}}
    if peer.name.endswith("greenlets"):
        more["executor"] = "greenlet"
    config = configuration(servers, "app:handle", source, output, **more)
    config["kafka"]["group"] = group
    if row.compression != "none":
        config["kafka"]["producer"] = {"compression_type": row.compression}
    server = Running(folder, config, env=ENVIRONMENT)
    try:
        yield server.process.pid
        if server.process.poll() is not None:
            raise RuntimeError(f"it ended with {server.process.returncode}: {server.log[-500:]}")
    finally:
        server.close()


def measured(peer: Peer, command: list[str] | None, row: Row, servers: str, source: str) -> Figures:
    """source: filled; of a latency an empty one."""
    group = unique("peer")
    source = source or create_topic(servers, unique("peer-in"), row.partitions)
    output = create_topic(servers, unique("peer-out"), row.partitions, message_timestamp_type="LogAppendTime")
    count = row.count or int(row.rate * LATENCY_SECONDS)
    try:
        with running(peer, command, row, servers, source, output, group) as pid:
            sent: list[float] = []
            if row.rate:
                sent = _paced(servers, source, output, row.rate, count)
            _grown(servers, output, row.partitions, count + (WARM if row.rate else 0))
            figures = Figures(cpu=1e6 * _cpu(pid) / count, memory=_memory(pid))
            late = _late(servers, group, source, row.partitions) if peer.groups else 0.0
        _read(figures, servers, output, row, count, sent)
        figures.late = late
        return figures
    except (RuntimeError, AssertionError) as error:
        return Figures(failed=str(error)[:300])


def _paced(servers: str, source: str, output: str, rate: int, count: int) -> list[float]:
    """Send at this rate, whatever becomes of it; when each was to be sent."""
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, "linger.ms": 0})
    for n in range(WARM):
        producer.produce(source, b"warm %d" % n, b"%d" % n)
    producer.flush()
    _grown(servers, output, PARTITIONS, WARM)
    begin = time.time() + 0.5
    sent = [begin + n / rate for n in range(count)]
    for n, at in enumerate(sent):
        while (wait := at - time.time()) > 0:
            producer.poll(wait)
        producer.produce(source, b"%d" % n, b"%d" % (n % 1000))
    producer.flush()
    return sent


def _grown(servers: str, topic: str, partitions: int, count: int) -> None:
    """Until the topic has as many. Raises RuntimeError when it stands still before."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": unique("watch")})
    before, since = -1, time.monotonic()
    try:
        while True:
            size = _size(consumer, topic, partitions)
            if size >= count:
                return
            if size != before:
                before, since = size, time.monotonic()
            if time.monotonic() - since > STANDS_STILL:
                raise RuntimeError(f"it stands still at {size:,} of {count:,} results")
            time.sleep(0.05)
    finally:
        consumer.close()


def _size(consumer: confluent_kafka.Consumer, topic: str, partitions: int) -> int:
    """Its messages; of one that was made a moment ago and has no leader yet none."""
    tps = [confluent_kafka.TopicPartition(topic, number) for number in range(partitions)]
    with suppress(confluent_kafka.KafkaException):
        return sum(consumer.get_watermark_offsets(tp, timeout=10)[1] for tp in tps)
    return 0


def _late(servers: str, group: str, source: str, partitions: int) -> float:
    """Which part of what it has read it has not committed, some seconds later."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": unique("watch")})
    ends = _size(consumer, source, partitions)
    consumer.close()
    have, deadline = 0, time.monotonic() + COMMITS_WITHIN
    while time.monotonic() < deadline:
        have = sum(max(0, offset) for offset in committed(servers, group, source, partitions).values())
        if have >= ends:
            break
        time.sleep(0.2)
    return 1 - have / ends


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        with suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _cpu(pid: int) -> float:
    total = 0.0
    for one in _tree(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _memory(pid: int) -> int:
    total = 0
    for one in _tree(pid):
        with suppress(OSError):
            lines = dict(line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
            total += 1024 * int(lines.get("VmHWM", "0 kB").split()[0])
    return total


def _read(figures: Figures, servers: str, output: str, row: Row, count: int, sent: list[float]) -> None:
    """Look at all results. Raises RuntimeError when some are missing."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": unique("read"), "enable.partition.eof": True})
    consumer.assign([confluent_kafka.TopicPartition(output, number, 0) for number in range(row.partitions)])
    seen = bytearray(count)
    at: list[float] = []
    last: dict[bytes | None, int] = {}
    wrong: set[bytes | None] = set()
    delays: list[float] = []
    ended = 0
    while ended < row.partitions:
        for message in consumer.consume(10_000, timeout=10):
            if message.error() is not None:
                ended += 1
                continue
            value = message.value() or b""
            if value.startswith(b"warm"):
                continue
            n = int(value[:8])
            figures.twice += seen[n]
            seen[n] = 1
            stamp = message.timestamp()[1] / 1000
            at.append(stamp)
            if sent:
                delays.append(stamp - sent[n])
            key = message.key()
            if last.get(key, -1) > n:
                wrong.add(key)
            last[key] = n
    consumer.close()
    if not all(seen):
        raise RuntimeError(f"{count - sum(seen):,} of {count:,} results are missing")
    figures.wrong = len(wrong)
    at.sort()
    tenth = len(at) // 10
    figures.rate = (len(at) - tenth) / max(at[-1] - at[tenth], 0.001)
    if delays:
        delays.sort()
        figures.times = tuple(round(1000 * delays[min(len(delays) - 1, int(part * len(delays)))], 1) for part in (0.5, 0.99, 0.999))


# -- all of them


def fill(servers: str, row: Row) -> str:
    """A topic with the row's messages: their number in eight digits, then what fills them up; random
    bytes where they are to be compressed."""
    topic = create_topic(servers, unique("peer-in"), row.partitions)
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": servers, "linger.ms": 50, "batch.size": 1_000_000, "compression.type": row.compression,
         "queue.buffering.max.messages": 1_000_000}
    )  # fmt: skip
    draw = random.Random(1)
    if row.keys == "zipf":
        names = [b"key-%d" % n for n in range(1000)]
        keys: Iterator[bytes] = iter(draw.choices(names, [1 / (n + 1) for n in range(1000)], k=row.count))
    else:
        keys = itertools.cycle([b"key-%d" % n for n in range(int(row.keys))])
    filling = [draw.randbytes(row.size - 58).hex().encode()[: row.size - 58] + b"x" * 50 for _ in range(50)]
    for n, key in zip(range(row.count), keys, strict=False):
        while True:
            try:
                producer.produce(topic, b"%08d" % n + filling[n % 50], key)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    return topic


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/bench peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", action="append", default=[], help="rows whose name contains this")
    parser.add_argument("--peer", action="append", default=[], help="peers whose name contains this")
    parser.add_argument("--write", action="store_true", help="write docs/peers.md of all that has been measured")
    parser.add_argument("--build", action="store_true", help="only build them")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if not options.peer or any(part in peer.name for part in options.peer)]
    rows = [row for row in ROWS if not options.row or any(part in row.name for part in options.row)]
    BUILT.mkdir(parents=True, exist_ok=True)
    commands = {peer: built(peer) for peer in peers}
    if options.build:
        return 0
    found: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    if options.rounds:
        kafka = broker.Kafka(share_coordinator_state_topic_replication_factor="1", share_coordinator_state_topic_min_isr="1")
        kafka.start()
        try:
            for row in rows:
                source = fill(kafka.servers, row) if row.count else ""
                for _ in range(options.rounds):
                    for peer in (one for one in peers if one.has(row)):
                        figures = measured(peer, commands[peer], row, kafka.servers, source)
                        found.setdefault(row.name, {}).setdefault(peer.name, []).append(asdict(figures))
                        FOUND.write_text(json.dumps(found))
                        told = (
                            figures.failed or f"{figures.rate:,.0f}/s {figures.times} {figures.cpu:.0f} µs {figures.memory / 2**20:.0f} MiB"
                        )
                        print(f"{row.name}: {peer.name}: {told}", flush=True)
        finally:
            kafka.stop()
    if options.write:
        from tests.bench.peers.page import write

        write(found)
    return 0
