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
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.chaos.proxy import Proxy
from tests.support import broker
from tests.support.servers import Running, configuration, consume, create_topic, unique, until

KEYS = 1000
RATE = 250  # messages a second
SESSION = 3.0  # seconds, of the consumers' membership

APP = """
import json, os, time
def handle(value):
    begun = time.time()
    if value.get("large"):
        return {"id": value["id"], "text": "x" * 2_000_000}
    time.sleep(value["ms"] / 1000)
    return {"id": value["id"], "key": value["key"], "pid": os.getpid(), "begun": begun}
"""


@dataclass
class Verdict:
    kind: str
    seed: int
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
        twice = self.allowed_twice is None or self.twice <= self.allowed_twice
        return not self.lost and not self.disorder and self.zombie <= self.allowed_zombie and not self.notes and twice


class Load:
    """Sends messages at a steady rate until it is told to stop; their order within a key holds whatever the brokers do."""

    def __init__(self, servers: str, topic: str, seed: int, large: float = 0.0, slow: tuple[int, int] | None = None) -> None:
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
        self._stop = threading.Event()
        self.sent = 0
        self.large: set[int] = set()
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

    def __init__(self) -> None:
        self.proxy = Proxy()
        self.single = broker.Kafka(proxied=self.proxy.port)
        self.proxy.target = self.single.behind
        self.single.start()
        self._cluster: broker.Cluster | None = None

    def cluster(self) -> broker.Cluster:
        if self._cluster is None:
            self._cluster = broker.Cluster()
            self._cluster.start()
        return self._cluster

    def close(self) -> None:
        self.proxy.close()
        self.single.stop()
        if self._cluster is not None:
            self._cluster.stop()


class Round:
    """One round; a fault gets it and does what it likes to its servers and brokers."""

    def __init__(self, world: World, kind: str, seed: int, *, servers: str, copies: int = 1, partitions: int = 4) -> None:
        self.world = world
        self.verdict = Verdict(kind, seed)
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

    def start(self) -> Running:
        """One more server of the group."""
        (self.folder / "app.py").write_text(APP)
        config = configuration(
            self.servers,
            "app:handle",
            self.source,
            self.output,
            order="key",
            decode="json",
            encode="json",
            dead_letter=self.dead,
            concurrency=self.concurrency,
            retry={"attempts": 3, "backoff": "50ms"},
        )
        config["kafka"]["group"] = self.group
        config["kafka"]["consumer"] = {
            "session_timeout_ms": int(SESSION * 1000),
            "heartbeat_interval_ms": 500,
            "metadata_max_age_ms": 1000,
            **self.consumer,
        }
        server = Running(self.folder, config, name=f"app-{len(self.running)}.yaml")
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
        for message in consume(self.direct, self.output, timeout=60):
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

    def _judge(self, wanted: set[int]) -> None:
        verdict = self.verdict
        results = self.results()
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
    """The only broker dies and comes back."""
    this = Round(world, "broker killed", seed, servers=world.single.servers)
    this.verdict.allowed_twice = None
    try:
        this.pair()
        with this.load():
            this.sleep(1.0, 2.0)
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
        dead = [json.loads(message.value())["id"] for message in consume(this.direct, this.dead)]
        if sorted(dead) != sorted(load.large):
            verdict.notes.append(f"{len(load.large)} should be dead-lettered, {len(dead)} are")
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
}
