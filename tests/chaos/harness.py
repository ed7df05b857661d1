"""What a round is made of: brokers, servers under test, a steady load.

A round sends numbered messages of 1,000 keys at a steady rate, has servers handle them for 0 to 50
ms each in the order of their keys, does its worst meanwhile, waits until everything is through, and
has it judged (tests.chaos.judge). Everything random is drawn from the round's seed.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import confluent_kafka

from tests.chaos.judge import Verdict, hanging, judge
from tests.chaos.programs import APP, SUICIDE
from tests.chaos.proxy import Proxy
from tests.support import broker
from tests.support.servers import Running, configuration, consume, create_topic, unique

KEYS = 1000
RATE = 250  # messages a second
SESSION = 3.0  # seconds, of the consumers' membership
#: The status with which a server asks its supervisor to start it anew.
RESTART = 75
#: The status of one whose place another has taken.
FENCED = 69
#: What it says before it asks to be started anew, stopped in the middle of a transaction's commit.
UNKNOWN = "the outcome of a transaction is unknown"
#: After so many milliseconds the brokers give up the transaction of a process that died.
TRANSACTION_TIMEOUT = 3000


class Load:
    """Sends messages at a steady rate until it is told to stop; their order within a key holds
    whatever the brokers do."""

    def __init__(
        self,
        servers: str,
        topic: str,
        seed: int,
        large: float = 0.0,
        slow: tuple[int, int] | None = None,
        failing: float = 0.0,
        hungry: float = 0.0,
        idempotent: bool = True,
    ) -> None:
        self._draw = random.Random(seed)
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": idempotent,
                "max.in.flight": 5 if idempotent else 1,
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
        self._hungry = hungry
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
                if self._hungry and self._draw.random() < self._hungry:
                    value["bytes"] = 32 * 2**20
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
    """Brokers for many rounds: one alone with a proxy before its second listener, and three when
    they are asked for."""

    def __init__(self, *, exactly_once: bool = False) -> None:
        self.exactly_once = exactly_once
        self.proxy = Proxy()
        self.single = broker.Kafka(proxied=self.proxy.port, transaction_abort_timed_out_transaction_cleanup_interval_ms="500")
        self.proxy.target = self.single.behind
        self.single.start()
        self._cluster: broker.Cluster | None = None
        self._quorum: broker.Cluster | None = None

    def quorum(self) -> broker.Cluster:
        """Three brokers of which any may go."""
        if self._quorum is None:
            self._quorum = broker.Cluster(quorum=True)
            self._quorum.start()
        return self._quorum

    def cluster(self) -> broker.Cluster:
        if self._cluster is None:
            self._cluster = broker.Cluster()
            self._cluster.start()
        return self._cluster

    def hanging(self) -> str:
        """What Kafka's own tool finds of transactions that nobody will end; empty when there are
        none."""
        clusters = [one for one in (self._cluster, self._quorum) if one is not None]
        brokers = [self.single, *(one for cluster in clusters for one in cluster.brokers)]
        return "".join(one.hanging_transactions() for one in brokers)

    def close(self) -> None:
        self.proxy.close()
        self.single.stop()
        for cluster in (self._cluster, self._quorum):
            if cluster is not None:
                cluster.stop()


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
        self.static = False  # whether named servers are static members with at-least-once, too
        self.not_judged: set[int] = set()  # what Kafka itself has lost, or has twice
        self.concurrency = 32
        self.transaction_timeout = TRANSACTION_TIMEOUT
        self.handler = "app:handle"

    def start(
        self,
        instance: str | None = None,
        suicide: str = "",
        *,
        env: dict[str, str] | None = None,
        consumer: dict[str, Any] | None = None,
        **more: Any,
    ) -> Running:
        """One more server of the group. instance: its name, where it keeps that of an earlier one;
        suicide: ``point:commits``; consumer: further options of its consumer."""
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
        if instance is not None and (self.verdict.exactly_once or self.static):
            config["kafka"]["group_instance_id"] = f"{self.group}-{instance}"
        config["kafka"]["consumer"] = {
            "session_timeout_ms": int(SESSION * 1000),
            "heartbeat_interval_ms": 500,
            "metadata_max_age_ms": 1000,
            **self.consumer,
            **(consumer or {}),
        }
        server = Running(self.folder, config, env={"SUICIDE": suicide, **(env or {})}, name=f"app-{len(self.running)}.yaml")
        self.running.append(server)
        return server

    def ready(self, server: Running) -> None:
        server.says("assigned: ", 60)

    def again(self, ended: Running, instance: str | None = None) -> Running:
        """As a supervisor does for a server that asks for it; another status is wrong."""
        if ended.wait(60) != RESTART or UNKNOWN not in ended.log:
            self.verdict.notes.append(f"a server ended with {ended.process.returncode}")
        server = self.start(instance)
        self.ready(server)
        return server

    def pair(self) -> list[Running]:
        """Two servers of the group, both with partitions."""
        servers = [self.start(), self.start()]
        for server in servers:
            self.ready(server)
        return servers

    def allow_twice_for(self, kills: int) -> None:
        """What runs twice with at-least-once: of each server that is killed what was running, and what
        was finished since the last commit (0.2 s, and the time a commit takes), at its fastest."""
        self.verdict.allowed_twice = kills * (self.concurrency + int(0.5 * self.concurrency / 0.017))

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

    def copies(self) -> dict[int, int]:
        """The ids that the input has more than once, and how often."""
        times: Counter[int] = Counter()
        for message in consume(self.direct, self.source, timeout=60):
            with suppress(ValueError, TypeError, KeyError):  # a fault may have put in what nobody can read
                times[json.loads(message.value())["id"]] += 1
        return {number: count for number, count in times.items() if count > 1}

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
        results = [value for value in self.results() if value["id"] not in self.not_judged]
        copies = self.copies()
        judge(self.verdict, results, wanted - self.not_judged, self.stopped, copies)
        if copies:
            self.verdict.remarks.append(f"the load's producer wrote {len(copies)} messages more than once")
        if self.verdict.exactly_once and hanging(self.direct, self.output):
            self.verdict.notes.append("a transaction hangs")
        return self.verdict

    def check_dead(self, wanted: set[int]) -> None:
        """Exactly ``wanted`` is in the dead letters, each once where it matters, and nothing of it
        in the output."""
        dead = [json.loads(message.value())["id"] for message in consume(self.direct, self.dead)]
        if set(dead) != wanted or (self.verdict.exactly_once and len(dead) != len(wanted)):
            self.verdict.notes.append(f"{len(wanted)} should be dead-lettered, {len(dead)} are, {len(set(dead))} of them different")
        both = wanted & {value["id"] for value in self.results()}
        if both:
            self.verdict.notes.append(f"{len(both)} are in the dead letters and in the output, {min(both)} for one")

    def close(self) -> None:
        """End what still runs; the servers' logs are kept when something was wrong."""
        for server in self.running:
            server.close()
        if self.verdict.good:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            self.verdict.notes.append(f"logs in {self.folder}")
