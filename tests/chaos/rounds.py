"""Rounds of load and faults on real brokers, and the verifier that reads what came out.

A round sends numbered messages of 1,000 keys at a steady rate, has servers handle them for 0 to 50 ms each in the order of their keys,
does its worst meanwhile, waits until everything is through, and counts:

- lost: messages whose result never came;
- disorder: results of a key whose first occurrence comes after a later message's of the same key;
- twice: results beyond the first of a message;
- zombie: results that a server sent after it had been stopped for longer than its session, of messages it had begun before;
- pause: the longest time in which no result arrived, in seconds.

Everything random is drawn from the round's seed.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import ElectionType
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.chaos.proxy import Proxy
from tests.support import broker
from tests.support.servers import Running, configuration, consume, create_topic, unique, until

KEYS = 1000
RATE = 250  # messages a second
SESSION = 3.0  # seconds, of the consumers' membership

APP = """
import collections, json, os, time
tries = collections.Counter()
def handle(value):
    begun = time.time()
    if tries[value["id"]] < value.get("fails", 0):
        tries[value["id"]] += 1
        raise ValueError("as it was asked to")
    if value.get("large"):
        return {"id": value["id"], "text": "x" * 2_000_000}
    time.sleep(value["ms"] / 1000)
    return {"id": value["id"], "key": value["key"], "pid": os.getpid(), "begun": begun}
"""


#: Put before APP: the process kills itself at its n-th commit of a transaction, at one of the points of KILL_POINTS.
SUICIDE = """
import os, random, signal, threading, time
from gworkers.kafka import green

def install(point, left):
    producer = green.module().KafkaProducer
    begin, offsets, commit = producer.begin_transaction, producer.send_offsets_to_transaction, producer.commit_transaction
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    def soon(most):
        def wait():
            time.sleep(random.random() * most)
            die()
        threading.Thread(target=wait, daemon=True).start()
    def due():
        install.left -= 1
        return install.left < 0
    install.left = left
    def begin_transaction(self):
        begin(self)
        if point == "open" and due():
            soon(0.1)
    def send_offsets_to_transaction(self, *arguments):
        if point == "before the offsets" and due():
            die()
        if point == "with the offsets" and due():
            soon(0.004)
        offsets(self, *arguments)
        if point == "before the commit" and due():
            die()
    def commit_transaction(self):
        if point == "with the commit" and due():
            soon(0.006)
        commit(self)
        if point == "after the commit" and due():
            die()
    producer.begin_transaction = begin_transaction
    producer.send_offsets_to_transaction = send_offsets_to_transaction
    producer.commit_transaction = commit_transaction

if os.environ.get("SUICIDE"):
    install(os.environ["SUICIDE"].split(":")[0], int(os.environ["SUICIDE"].split(":")[1]))
"""
KILL_POINTS = ("open", "before the offsets", "with the offsets", "before the commit", "with the commit", "after the commit")
#: After so many milliseconds the brokers give up the transaction of a process that died.
TRANSACTION_TIMEOUT = 3000


@dataclass
class Verdict:
    kind: str
    seed: int
    exactly_once: bool = False
    faults: int = 0
    messages: int = 0
    lost: int = 0
    disorder: int = 0
    twice: int = 0
    zombie: int = 0
    pause: float = 0.0
    allowed_twice: int | None = 0  # None: as many as the fault may cause
    allowed_zombie: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        if self.exactly_once:
            return not (self.lost or self.disorder or self.twice or self.zombie or self.notes)
        twice = self.allowed_twice is None or self.twice <= self.allowed_twice
        return not self.lost and not self.disorder and self.zombie <= self.allowed_zombie and not self.notes and twice


class Load:
    """Sends messages at a steady rate until it is told to stop; their order within a key holds whatever the brokers do."""

    def __init__(
        self, servers: str, topic: str, seed: int, large: float = 0.0, slow: tuple[int, int] | None = None, failing: float = 0.0
    ) -> None:
        self._draw = random.Random(seed)
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "topic.metadata.refresh.interval.ms": 1000,
                "delivery.timeout.ms": 300_000,
                "log_level": 0,
            }
        )
        self._topic = topic
        self._large = large
        self._slow = slow
        self._failing = failing
        self._stop = threading.Event()
        self.sent = 0
        self.large: set[int] = set()
        self.failing: set[int] = set()  # those that fail for good
        self.refused: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._stop.is_set():
            for _ in range(max(0, int((time.monotonic() - begun) * RATE) - self.sent)):
                key = f"key-{self._draw.randrange(KEYS)}"
                value: dict[str, Any] = {"id": self.sent, "key": key, "ms": round(50 * self._draw.random() ** 2, 1)}
                if self._slow is not None and self.sent == self._slow[0]:
                    value["ms"] = self._slow[1]
                if self._draw.random() < self._large:
                    value["large"] = True
                    self.large.add(self.sent)
                if self._draw.random() < self._failing:
                    value["fails"] = self._draw.choice((1, 2, 1_000_000))
                    if value["fails"] > 2:
                        self.failing.add(self.sent)
                self._producer.produce(self._topic, json.dumps(value).encode(), key.encode(), on_delivery=self._delivered)
                self.sent += 1
            self._producer.poll(0)
            self._stop.wait(0.01)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self.refused.append(str(error))

    def stop(self) -> int:
        """How many messages were sent, all of them acknowledged."""
        self._stop.set()
        self._thread.join()
        assert self._producer.flush(120) == 0, "the load could not be sent"
        assert not self.refused, f"of the load {len(self.refused)} messages were refused: {self.refused[0]}"
        return self.sent


class World:
    """Brokers for many rounds: one alone with a proxy before its second listener, and three when they are asked for."""

    def __init__(self, *, exactly_once: bool = False) -> None:
        self.exactly_once = exactly_once
        self.proxy = Proxy()
        self.single = broker.Kafka(proxied=self.proxy.port, transaction_abort_timed_out_transaction_cleanup_interval_ms="500")
        self.proxy.target = self.single.behind
        self.single.start()
        self._cluster: broker.Cluster | None = None

    def cluster(self) -> broker.Cluster:
        if self._cluster is None:
            self._cluster = broker.Cluster()
            self._cluster.start()
        return self._cluster

    def hanging(self) -> str:
        """What Kafka's own tool finds of transactions that nobody will end; empty when there are none."""
        brokers = [self.single, *(self._cluster.brokers if self._cluster is not None else ())]
        return "".join(one.hanging_transactions() for one in brokers)

    def close(self) -> None:
        self.proxy.close()
        self.single.stop()
        if self._cluster is not None:
            self._cluster.stop()


class Round:
    """One round; a fault gets it and does what it likes to its servers and brokers."""

    def __init__(self, world: World, kind: str, seed: int, *, servers: str, copies: int = 1, partitions: int = 4) -> None:
        self.world = world
        self.verdict = Verdict(kind, seed, world.exactly_once)
        self.draw = random.Random(seed)
        self.direct = servers  # for the load and the verifier
        self.servers = servers  # for the servers under test
        self.folder = Path(tempfile.mkdtemp(prefix="gworkers-chaos-"))
        self.source = create_topic(servers, unique("chaos-in"), partitions, copies)
        self.output = create_topic(servers, unique("chaos-out"), 4, copies, message_timestamp_type="LogAppendTime")
        self.dead = create_topic(servers, unique("chaos-dead"), 1, copies)
        self.group = unique("chaos")
        self.running: list[Running] = []
        self.stopped: list[tuple[int, float, float]] = []  # pid, when it was stopped, when it went on: SIGSTOP and SIGCONT
        self.consumer: dict[str, Any] = {}
        self.concurrency = 32
        self.transaction_timeout = TRANSACTION_TIMEOUT
        self.handler = "app:handle"

    def start(self, instance: str | None = None, suicide: str = "", **more: Any) -> Running:
        """One more server of the group. instance: its name, where it keeps that of an earlier one; suicide: ``point:commits``."""
        (self.folder / "app.py").write_text(SUICIDE + APP)
        if self.verdict.exactly_once:
            name = instance or f"i{len(self.running)}"
            more = {"delivery": "exactly-once", "instance": name, "transaction": {"interval": "50ms"}, **more}
        config = configuration(
            self.servers,
            self.handler,
            self.source,
            self.output,
            order="key",
            decode="json",
            encode="json",
            dead_letter=self.dead,
            concurrency=self.concurrency,
            retry={"attempts": 3, "backoff": "50ms"},
            **more,
        )
        config["kafka"]["group"] = self.group
        if self.verdict.exactly_once:
            config["kafka"]["producer"] = {"transaction_timeout_ms": self.transaction_timeout}
            if instance is not None:
                config["kafka"]["group_instance_id"] = f"{self.group}-{instance}"
        config["kafka"]["consumer"] = {
            "session_timeout_ms": int(SESSION * 1000),
            "heartbeat_interval_ms": 500,
            "metadata_max_age_ms": 1000,
            **self.consumer,
        }
        server = Running(self.folder, config, env={"SUICIDE": suicide}, name=f"app-{len(self.running)}.yaml")
        self.running.append(server)
        return server

    def ready(self, server: Running) -> None:
        server.says("assigned: ", 60)

    def pair(self) -> list[Running]:
        """Two servers of the group, both with partitions."""
        servers = [self.start(), self.start()]
        for server in servers:
            self.ready(server)
        return servers

    @contextmanager
    def load(self, **options: Any) -> Any:
        load = Load(self.direct, self.source, self.verdict.seed, **options)
        try:
            yield load
        finally:
            self.verdict.messages = load.stop()

    def sleep(self, low: float, high: float) -> None:
        """Let it run for a while: load, not a condition, is what is wanted here."""
        time.sleep(self.draw.uniform(low, high))

    def fault(self) -> None:
        self.verdict.faults += 1

    def results(self) -> list[dict[str, Any]]:
        found = []
        for message in consume(self.direct, self.output, timeout=60):  # read_committed
            value = json.loads(message.value())
            found.append(value | {"at": message.timestamp()[1] / 1000, "where": (message.partition(), message.offset())})
        return found

    def finish(self, expected: set[int] | None = None, timeout: float = 120) -> Verdict:
        """Wait until everything is through, stop the servers, and read what came out."""
        wanted = set(range(self.verdict.messages)) if expected is None else expected
        deadline = time.monotonic() + timeout
        found: set[int] = set()
        while time.monotonic() < deadline and not wanted <= found:
            found = {value["id"] for value in self.results()}
            time.sleep(0.3)
        alive = [server for server in self.running if server.process.poll() is None]
        for server in alive:
            server.signal(signal.SIGTERM)
        for server in alive:
            status = server.wait(60)
            if status and "assigned: " in server.log:  # one that was asked to stop while it was starting has nothing to settle
                self.verdict.notes.append(f"a server ended with {status}")
        self._judge(wanted)
        return self.verdict

    def check_dead(self, wanted: set[int]) -> None:
        """Exactly ``wanted`` is in the dead letters, each once where it matters, and nothing of it in the output."""
        dead = [json.loads(message.value())["id"] for message in consume(self.direct, self.dead)]
        if set(dead) != wanted or (self.verdict.exactly_once and len(dead) != len(wanted)):
            self.verdict.notes.append(f"{len(wanted)} should be dead-lettered, {len(dead)} are, {len(set(dead))} of them different")
        both = wanted & {value["id"] for value in self.results()}
        if both:
            self.verdict.notes.append(f"{len(both)} are in the dead letters and in the output, {min(both)} for one")

    def _judge(self, wanted: set[int]) -> None:
        verdict = self.verdict
        results = self.results()
        if verdict.exactly_once:
            try:
                until(lambda: not self._open(), 30, "the end of all transactions")
            except AssertionError:
                verdict.notes.append("a transaction hangs")
        first: dict[int, dict[str, Any]] = {}
        for value in results:
            if value["id"] in first:
                verdict.twice += 1
            else:
                first[value["id"]] = value
        verdict.lost = len(wanted - set(first))
        last: dict[str, int] = {}
        for value in sorted(first.values(), key=lambda value: value["where"]):
            if value["id"] < last.get(value["key"], -1):
                verdict.disorder += 1
            last[value["key"]] = max(value["id"], last.get(value["key"], -1))
        for pid, stopped, went_on in self.stopped:
            late = [v for v in results if v["pid"] == pid and v["begun"] < stopped and v["at"] > went_on]
            verdict.zombie += len(late)
        times = sorted(value["at"] for value in results)
        verdict.pause = max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    def _open(self) -> bool:
        """Whether a reader of committed messages is held back somewhere by a transaction that has not ended."""
        ends = []
        for isolation in ("read_committed", "read_uncommitted"):
            consumer = confluent_kafka.Consumer(
                {"bootstrap.servers": self.direct, "group.id": "none", "isolation.level": isolation, "log_level": 0}
            )
            tps = [confluent_kafka.TopicPartition(self.output, number) for number in range(4)]
            try:
                ends.append([consumer.get_watermark_offsets(tp, timeout=10)[1] for tp in tps])
            finally:
                consumer.close()
        return ends[0] < ends[1]

    def close(self) -> None:
        """End what still runs; the servers' logs are kept when something was wrong."""
        for server in self.running:
            server.close()
        if self.verdict.good:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            self.verdict.notes.append(f"logs in {self.folder}")


# ---------------------------------------------------------------------------------------------------------- faults


def sigkill(world: World, seed: int, times: int = 3) -> Verdict:
    """Servers are killed under load and started again."""
    this = Round(world, "SIGKILL", seed, servers=world.single.servers)
    # What was finished since the last commit (0.2 s, and the time a commit takes), what was running, in one server at its fastest.
    this.verdict.allowed_twice = times * (this.concurrency + int(0.5 * this.concurrency / 0.017))
    try:
        servers = this.pair()
        with this.load():
            for _ in range(times):
                this.sleep(0.5, 2.0)
                victim = servers.pop(this.draw.randrange(len(servers)))
                victim.signal(signal.SIGKILL)
                victim.wait()
                this.fault()
                servers.append(this.start())
                this.ready(servers[-1])
            this.sleep(0.5, 1.0)
        return this.finish()
    finally:
        this.close()


def sigterm(world: World, seed: int, times: int = 3) -> Verdict:
    """Servers are asked to stop under load, as in a rolling restart."""
    this = Round(world, "SIGTERM", seed, servers=world.single.servers)
    try:
        servers = this.pair()
        with this.load():
            for _ in range(times):
                this.sleep(0.5, 2.0)
                leaving = servers.pop(this.draw.randrange(len(servers)))
                if leaving.stop() != 0:
                    this.verdict.notes.append("it ended with another status than 0")
                this.fault()
                servers.append(this.start())
                this.ready(servers[-1])
            this.sleep(0.5, 1.0)
        return this.finish()
    finally:
        this.close()


def sigstop(world: World, seed: int, times: int = 1) -> Verdict:
    """A server is stopped for longer than its session and wakes up as a zombie."""
    this = Round(world, "SIGSTOP", seed, servers=world.single.servers)
    # One request may be between kafka-python and the socket when the process is stopped, where nothing can hold it back.
    this.verdict.allowed_zombie = times * this.concurrency
    this.verdict.allowed_twice = times * (this.concurrency + int(0.5 * this.concurrency / 0.017))
    try:
        servers = this.pair()
        with this.load():
            for _ in range(times):
                this.sleep(1.0, 2.0)
                zombie = this.draw.choice(servers)
                stopped = time.time()
                zombie.signal(signal.SIGSTOP)
                time.sleep(SESSION + this.draw.uniform(1.5, 3.0))
                went_on = time.time()
                zombie.signal(signal.SIGCONT)
                this.stopped.append((zombie.process.pid, stopped, went_on))
                this.fault()
                zombie.says("lost, because Kafka did not hear from this process in time", 60)
            this.sleep(1.0, 2.0)
        return this.finish()
    finally:
        this.close()


def broker_killed(world: World, seed: int) -> Verdict:
    """The only broker dies and comes back. With exactly-once it is stopped in place of killed: Apache Kafka 4.3.0, killed and started again
    with no other broker beside it, ends transactions without writing their markers (docs/reliability.md has what was seen)."""
    this = Round(world, "broker killed", seed, servers=world.single.servers)
    this.verdict.allowed_twice = None
    try:
        this.pair()
        with this.load():
            this.sleep(1.0, 2.0)
            if world.exactly_once:
                world.single.terminate()
            else:
                world.single.kill()
            this.fault()
            this.sleep(0.5, 4.0)
            world.single.start()
            this.sleep(1.0, 2.0)
        return this.finish()
    finally:
        this.close()


def leader_moved(world: World, seed: int) -> Verdict:
    """Of three brokers one that leads partitions dies, its partitions move, and it comes back."""
    cluster = world.cluster()
    this = Round(world, "leader moved", seed, servers=cluster.servers, copies=3)
    this.verdict.allowed_twice = None
    victim = cluster.brokers[this.draw.choice((1, 2))]
    try:
        this.pair()
        with this.load():
            this.sleep(1.0, 2.0)
            victim.kill()
            this.fault()
            this.sleep(3.0, 6.0)
            victim.start()
            this.sleep(1.0, 2.0)
        return this.finish()
    finally:
        this.close()


def bad_network(world: World, seed: int, times: int = 3) -> Verdict:
    """Between the servers and the broker packets are delayed, connections cut and left half open."""
    this = Round(world, "bad network", seed, servers=world.single.servers)
    this.servers = f"127.0.0.1:{world.proxy.port}"
    this.verdict.allowed_twice = None
    proxy = world.proxy
    try:
        this.pair()
        with this.load():
            for _ in range(times):
                this.sleep(0.5, 1.5)
                fault = this.draw.choice(("delay", "cut", "freeze"))
                if fault == "delay":
                    proxy.delay = this.draw.uniform(0.01, 0.2)
                    this.sleep(1.0, 2.0)
                    proxy.delay = 0.0
                elif fault == "cut":
                    proxy.cut()
                else:
                    proxy.frozen = True
                    this.sleep(1.0, 5.0)
                    proxy.cut()
                    proxy.frozen = False
                this.fault()
            this.sleep(0.5, 1.0)
        return this.finish()
    finally:
        proxy.delay, proxy.frozen = 0.0, False
        this.close()


def storm(world: World, seed: int, seconds: float = 12) -> Verdict:
    """Members join and leave each second."""
    this = Round(world, "rebalance storm", seed, servers=world.single.servers, partitions=8)
    try:
        servers = this.pair()
        with this.load():
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                this.sleep(0.7, 1.3)
                if len(servers) > 1 and this.draw.random() < 0.5:
                    leaving = servers.pop(this.draw.randrange(len(servers)))
                    leaving.signal(signal.SIGTERM)
                elif len(servers) < 4:
                    servers.append(this.start())
                this.fault()
            this.sleep(0.5, 1.0)
        return this.finish()
    finally:
        this.close()


def slow_handler(world: World, seed: int) -> Verdict:
    """One handler takes longer than max.poll.interval; nobody may be thrown out of the group for it."""
    this = Round(world, "slow handler", seed, servers=world.single.servers)
    this.consumer = {"max_poll_interval_ms": 4000}
    try:
        server = this.start()
        this.ready(server)
        with this.load(slow=(100, 9000)):
            this.fault()
            this.sleep(5.0, 6.0)
        verdict = this.finish()
        if "lost" in server.log or server.log.count("assigned: ") != 1:
            verdict.notes.append("it was thrown out of the group")
        return verdict
    finally:
        this.close()


def too_large(world: World, seed: int) -> Verdict:
    """One message in twenty has a result that is too large to be sent: it must be dead-lettered, and nothing else."""
    this = Round(world, "too large", seed, servers=world.single.servers)
    try:
        this.ready(this.start())
        with this.load(large=0.05) as load:
            this.fault()
            this.sleep(3.0, 4.0)
        verdict = this.finish(set(range(this.verdict.messages)) - load.large)
        this.check_dead(load.large)
        return verdict
    finally:
        this.close()


def topic_deleted(world: World, seed: int) -> Verdict:
    """The input topic is deleted under the server and made anew: what is sent then goes through, and the server lives."""
    this = Round(world, "topic deleted", seed, servers=world.single.servers)
    this.verdict.allowed_twice = None
    admin = AdminClient({"bootstrap.servers": this.direct})
    try:
        server = this.start()
        this.ready(server)
        with this.load():
            this.sleep(1.0, 2.0)
        before = this.verdict.messages
        until(lambda: len({value["id"] for value in this.results()}) == before, 60, "the messages before the deletion")
        admin.delete_topics([this.source])[this.source].result(10)
        this.fault()
        until(lambda: this.source not in admin.list_topics(timeout=5).topics, 30, "the deletion")
        this.sleep(0.5, 3.0)
        until(lambda: _made(this), 30, "the topic again")
        ids = range(before, before + 500)
        producer = confluent_kafka.Producer({"bootstrap.servers": this.direct, "partitioner": "murmur2_random"})
        for number in ids:
            key = f"key-{number % KEYS}"
            producer.produce(this.source, json.dumps({"id": number, "key": key, "ms": 1}).encode(), key.encode())
        assert producer.flush(30) == 0
        this.verdict.messages = before + len(ids)
        if server.process.poll() is not None:
            this.verdict.notes.append("the server ended")
        return this.finish()
    finally:
        this.close()


def _made(this: Round) -> bool:
    try:
        create_topic(this.direct, this.source)
    except confluent_kafka.KafkaException as error:
        return bool(error.args[0].code() == confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS)
    return True


def partitions_added(world: World, seed: int) -> Verdict:
    """The input topic grows under load. Keys move to other partitions then, so their order across that moment is nobody's to keep."""
    this = Round(world, "partitions added", seed, servers=world.single.servers)
    admin = AdminClient({"bootstrap.servers": this.direct})
    try:
        this.pair()
        with this.load():
            this.sleep(1.0, 2.0)
            admin.create_partitions([NewPartitions(this.source, 8)])[this.source].result(10)
            this.fault()
            this.sleep(3.0, 5.0)
        verdict = this.finish()
        verdict.disorder = 0
        return verdict
    finally:
        this.close()


def failing_handlers(world: World, seed: int, times: int = 2) -> Verdict:
    """One message in five fails once, twice or for good, while connections are cut and servers killed."""
    this = Round(world, "failing handlers", seed, servers=world.single.servers)
    this.servers = f"127.0.0.1:{world.proxy.port}"
    this.verdict.allowed_twice = None
    try:
        servers = this.pair()
        with this.load(failing=0.2) as load:
            for _ in range(times):
                this.sleep(0.5, 1.5)
                world.proxy.cut()
                this.fault()
                this.sleep(0.5, 1.5)
                victim = servers.pop(this.draw.randrange(len(servers)))
                victim.signal(signal.SIGKILL)
                victim.wait()
                this.fault()
                servers.append(this.start())
                this.ready(servers[-1])
        verdict = this.finish(set(range(this.verdict.messages)) - load.failing)
        this.check_dead(load.failing)
        return verdict
    finally:
        this.close()


def killed_at_commit(world: World, seed: int, kills: int = 12) -> Verdict:
    """Two or three servers kill themselves at chosen points of a transaction, over and over; most come back under their name."""
    this = Round(world, "killed at a commit", seed, servers=world.single.servers)
    points = list(KILL_POINTS)
    slots: dict[str, Running] = {}

    def next_life(name: str) -> Running:
        point = points[this.verdict.faults % len(points)]
        return this.start(name, f"{point}:{this.draw.randrange(12)}")

    try:
        with this.load():
            for number in range(this.draw.choice((2, 3))):
                slots[f"a{number}"] = next_life(f"a{number}")
            deadline = time.monotonic() + 15 * kills
            while this.verdict.faults < kills:
                assert time.monotonic() < deadline, "the servers do not die"
                time.sleep(0.05)
                for name, server in list(slots.items()):
                    if server.process.poll() is None:
                        continue
                    if server.process.returncode != -signal.SIGKILL:
                        this.verdict.notes.append(f"a server ended with {server.process.returncode}")
                    this.fault()
                    del slots[name]
                    again = name if this.draw.random() < 0.8 else f"b{this.verdict.faults}"
                    slots[again] = next_life(again)
        for name, server in slots.items():
            server.process.kill()
            server.process.wait()
            this.start(name)
        return this.finish()
    finally:
        this.close()


def transaction_timed_out(world: World, seed: int, times: int = 2) -> Verdict:
    """A server is stopped for longer than its transactions may take, and not as long as its session."""
    this = Round(world, "transaction timed out", seed, servers=world.single.servers)
    this.transaction_timeout = 1000
    this.consumer = {"session_timeout_ms": 10_000}
    try:
        server = this.start()
        this.ready(server)
        with this.load():
            for _ in range(times):
                this.sleep(1.0, 2.0)
                server.signal(signal.SIGSTOP)
                time.sleep(this.draw.uniform(2.0, 4.0))
                server.signal(signal.SIGCONT)
                this.fault()
            this.sleep(1.0, 2.0)
        return this.finish()
    finally:
        this.close()


def coordinator_killed(world: World, seed: int) -> Verdict:
    """Of three brokers the one that coordinates a server's transactions dies and comes back."""
    cluster = world.cluster()
    this = Round(world, "transaction coordinator killed", seed, servers=cluster.servers, copies=3)
    try:
        for number in range(100):
            name = f"c{number}"
            victim = _coordinator(cluster, f"{this.group}.{name}")
            if victim is not None:
                break
        assert victim is not None, "the broker that must live coordinates everything"
        this.ready(this.start(name))
        with this.load():
            this.sleep(1.0, 2.0)
            victim.kill()
            this.fault()
            this.sleep(2.0, 5.0)
            victim.start()
            this.sleep(1.0, 2.0)
        return this.finish()
    finally:
        this.close()


def _coordinator(cluster: broker.Cluster, transactional_id: str) -> broker.Kafka | None:
    """The broker that leads this id's part of the log of transactions; None when it is the one that must live."""
    number = 0
    for character in transactional_id.encode():
        number = (31 * number + character) & 0xFFFFFFFF
    client = AdminClient({"bootstrap.servers": cluster.servers})
    partitions = client.list_topics("__transaction_state", timeout=10).topics["__transaction_state"].partitions
    if partitions and all(found.leader == 1 for found in partitions.values()):  # an earlier round has moved them there
        tps = [confluent_kafka.TopicPartition("__transaction_state", found) for found in partitions]
        client.elect_leaders(ElectionType.PREFERRED, tps).result(10)
        time.sleep(0.5)
    if not partitions:  # made when the first one asks
        producer = confluent_kafka.Producer({"bootstrap.servers": cluster.servers, "transactional.id": "first"})
        producer.init_transactions(30)
        return _coordinator(cluster, transactional_id)
    leader = partitions[(number & 0x7FFFFFFF) % len(partitions)].leader
    return cluster.brokers[leader - 1] if leader in (2, 3) else None


def one_after_the_other(world: World, seed: int, times: int = 3) -> Verdict:
    """The output of a group is the input of another one, and servers of both are killed."""
    this = Round(world, "two in a row", seed, servers=world.single.servers)
    last = Round(world, "two in a row", seed, servers=world.single.servers)
    last.source = this.output
    relay = "import json\nfrom app import handle as work\n\ndef handle(value):\n    work({'id': 0, 'ms': 5, 'key': ''})\n    return value\n"

    def start(which: Round, name: str, suicide: str = "") -> Running:
        (last.folder / "relay.py").write_text(relay)
        server = which.start(name, suicide)
        which.ready(server)
        return server

    last.handler = "relay:handle"
    try:
        start(this, "a"), start(last, "a")
        with this.load():
            for _ in range(times):
                for which in this.draw.sample((this, last), 2):
                    this.sleep(0.3, 1.0)
                    victim = which.running[-1]
                    victim.signal(signal.SIGKILL)
                    victim.wait()
                    this.fault()
                    start(which, "a")
        last.verdict.messages, last.verdict.faults = this.verdict.messages, this.verdict.faults
        this.finish()
        verdict = last.finish()
        verdict.notes += this.verdict.notes
        if not this.verdict.good:
            verdict.notes.append(f"the first one: {this.verdict}")
        return verdict
    finally:
        this.close()
        last.close()


#: Faults that only make sense with exactly-once, beside all the others.
ONLY_EXACTLY_ONCE = ("killed_at_commit", "transaction_timed_out", "coordinator_killed", "one_after_the_other")

FAULTS: dict[str, Callable[[World, int], Verdict]] = {
    "sigkill": sigkill,
    "sigterm": sigterm,
    "sigstop": sigstop,
    "broker_killed": broker_killed,
    "leader_moved": leader_moved,
    "bad_network": bad_network,
    "storm": storm,
    "slow_handler": slow_handler,
    "too_large": too_large,
    "topic_deleted": topic_deleted,
    "partitions_added": partitions_added,
    "failing_handlers": failing_handlers,
    "killed_at_commit": killed_at_commit,
    "transaction_timed_out": transaction_timed_out,
    "coordinator_killed": coordinator_killed,
    "one_after_the_other": one_after_the_other,
}
