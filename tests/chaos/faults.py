"""The faults, each a function of a round that says with ``@fault`` what it needs."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import confluent_kafka
from confluent_kafka import ElectionType
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.chaos import holding
from tests.chaos.harness import KEYS, RESTART, SESSION, UNKNOWN, Round, World
from tests.chaos.holding import Holder
from tests.chaos.judge import Verdict
from tests.chaos.programs import KILL_POINTS, RELAY
from tests.support import broker
from tests.support.servers import Running, create_topic, until

#: The status of one whose place another has taken.
FENCED = 69
#: What a server says when its group has given it up.
LOST = "lost, because Kafka did not hear from this process in time"


@dataclass(frozen=True)
class Fault:
    """kind: its name in tables; brokers: one or three; proxied: servers reach the broker through a
    proxy that can be told to misbehave; any_twice: at-least-once may repeat as many as it causes;
    transactions: it makes sense with exactly-once alone; short: a short run tries it, too."""

    kind: str
    run: Callable[[Round], Verdict]
    brokers: int = 1
    partitions: int = 4
    proxied: bool = False
    any_twice: bool = False
    transactions: bool = False
    short: bool = True

    def __call__(self, world: World, seed: int) -> Verdict:
        """One round."""
        servers = world.single.servers if self.brokers == 1 else world.cluster().servers
        this = Round(world, self.kind, seed, servers=servers, copies=self.brokers, partitions=self.partitions)
        if self.proxied:
            this.servers = f"127.0.0.1:{world.proxy.port}"
        if self.any_twice:
            this.verdict.allowed_twice = None
        try:
            return self.run(this)
        finally:
            world.proxy.behave()
            this.close()


#: By the name of their function.
FAULTS: dict[str, Fault] = {}


def fault(
    kind: str,
    *,
    brokers: int = 1,
    partitions: int = 4,
    proxied: bool = False,
    any_twice: bool = False,
    transactions: bool = False,
    short: bool = True,
) -> Callable[[Callable[[Round], Verdict]], Callable[[Round], Verdict]]:
    """Makes a function a fault; see Fault."""

    def register(run: Callable[[Round], Verdict]) -> Callable[[Round], Verdict]:
        FAULTS[run.__name__] = Fault(kind, run, brokers, partitions, proxied, any_twice, transactions, short)
        return run

    return register


@fault("SIGKILL")
def sigkill(this: Round, times: int = 3) -> Verdict:
    """Servers are killed under load and started again."""
    # What was finished since the last commit (0.2 s, and the time a commit takes), what was
    # running, in one server at its fastest.
    this.verdict.allowed_twice = times * (this.concurrency + int(0.5 * this.concurrency / 0.017))
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


@fault("SIGTERM")
def sigterm(this: Round, times: int = 3) -> Verdict:
    """Servers are asked to stop under load, as in a rolling restart."""
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


@fault("SIGSTOP")
def sigstop(this: Round, times: int = 1) -> Verdict:
    """A server is stopped for longer than its session and wakes up as a zombie."""
    # One request may be between kafka-python and the socket when the process is stopped, where
    # nothing can hold it back.
    this.verdict.allowed_zombie = times * this.concurrency
    this.verdict.allowed_twice = times * (this.concurrency + int(0.5 * this.concurrency / 0.017))
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
            _given_up(zombie)
            if zombie.process.poll() is not None:  # it was stopped in the middle of a transaction's commit
                this.again(zombie)
        this.sleep(1.0, 2.0)
    return this.finish()


def _given_up(zombie: Running) -> None:
    until(lambda: LOST in zombie.log or zombie.process.poll() is not None, 60, LOST)


@fault("broker killed", any_twice=True)
def broker_killed(this: Round) -> Verdict:
    """The only broker dies and comes back. With exactly-once it is stopped in place of killed:
    Apache Kafka 4.3.0, killed and started again with no other broker beside it, ends transactions
    without writing their markers (docs/reliability.md has what was seen)."""
    this.pair()
    with this.load():
        this.sleep(1.0, 2.0)
        if this.world.exactly_once:
            this.world.single.terminate()
        else:
            this.world.single.kill()
        this.fault()
        this.sleep(0.5, 4.0)
        this.world.single.start()
        this.sleep(1.0, 2.0)
    return this.finish()


@fault("leader moved", brokers=3, any_twice=True)
def leader_moved(this: Round) -> Verdict:
    """Of three brokers one that leads partitions dies, its partitions move, and it comes back."""
    victim = this.world.cluster().brokers[this.draw.choice((1, 2))]
    this.pair()
    with this.load():
        this.sleep(1.0, 2.0)
        victim.kill()
        this.fault()
        this.sleep(3.0, 6.0)
        victim.start()
        this.sleep(1.0, 2.0)
    return this.finish()


@fault("bad network", proxied=True, any_twice=True)
def bad_network(this: Round, times: int = 3) -> Verdict:
    """Between the servers and the broker packets are delayed, connections cut and left half open."""
    proxy = this.world.proxy
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


@fault("rebalance storm", partitions=8)
def storm(this: Round, seconds: float = 12) -> Verdict:
    """Members join and leave each second."""
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


@fault("slow handler")
def slow_handler(this: Round) -> Verdict:
    """One handler takes longer than max.poll.interval; nobody may be thrown out of the group for
    it."""
    this.consumer = {"max_poll_interval_ms": 4000}
    server = this.start()
    this.ready(server)
    with this.load(slow=(100, 9000)):
        this.fault()
        this.sleep(5.0, 6.0)
    verdict = this.finish()
    if "lost" in server.log or server.log.count("assigned: ") != 1:
        verdict.notes.append("it was thrown out of the group")
    return verdict


@fault("too large")
def too_large(this: Round) -> Verdict:
    """One message in twenty has a result that is too large to be sent: it must be dead-lettered,
    and nothing else."""
    this.ready(this.start())
    with this.load(large=0.05) as load:
        this.fault()
        this.sleep(3.0, 4.0)
    verdict = this.finish(set(range(this.verdict.messages)) - load.large)
    this.check_dead(load.large)
    return verdict


@fault("topic deleted", any_twice=True)
def topic_deleted(this: Round) -> Verdict:
    """The input topic is deleted under the server and made anew: what is sent then goes through,
    and the server lives."""
    admin = AdminClient({"bootstrap.servers": this.direct})
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


def _made(this: Round) -> bool:
    try:
        create_topic(this.direct, this.source)
    except confluent_kafka.KafkaException as error:
        return bool(error.args[0].code() == confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS)
    return True


@fault("partitions added")
def partitions_added(this: Round) -> Verdict:
    """The input topic grows under load. Keys move to other partitions then, so their order across
    that moment is nobody's to keep."""
    admin = AdminClient({"bootstrap.servers": this.direct})
    this.pair()
    with this.load():
        this.sleep(1.0, 2.0)
        admin.create_partitions([NewPartitions(this.source, 8)])[this.source].result(10)
        this.fault()
        this.sleep(3.0, 5.0)
    verdict = this.finish()
    verdict.disorder = 0
    return verdict


@fault("failing handlers", proxied=True, any_twice=True)
def failing_handlers(this: Round, times: int = 2) -> Verdict:
    """One message in five fails once, twice or for good, while connections are cut and servers
    killed."""
    servers = this.pair()
    with this.load(failing=0.2) as load:
        for _ in range(times):
            this.sleep(0.5, 1.5)
            this.world.proxy.cut()
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


@fault("killed at a commit", transactions=True)
def killed_at_commit(this: Round, kills: int = 12) -> Verdict:
    """Two or three servers kill themselves at chosen points of a transaction, over and over; most
    come back under their name."""
    points = list(KILL_POINTS)
    slots: dict[str, Running] = {}

    def next_life(name: str) -> Running:
        point = points[this.verdict.faults % len(points)]
        return this.start(name, f"{point}:{this.draw.randrange(12)}")

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


@fault("transaction timed out", transactions=True)
def transaction_timed_out(this: Round, times: int = 2) -> Verdict:
    """A server is stopped for longer than its transactions may take, and not as long as its
    session."""
    this.transaction_timeout = 1000
    this.consumer = {"session_timeout_ms": 10_000}
    server = this.start("t0")
    this.ready(server)
    with this.load():
        for _ in range(times):
            this.sleep(1.0, 2.0)
            server.signal(signal.SIGSTOP)
            time.sleep(this.draw.uniform(2.0, 4.0))
            server.signal(signal.SIGCONT)
            this.fault()
            this.sleep(1.0, 2.0)
            if UNKNOWN in server.log:
                server = this.again(server, "t0")
    return this.finish()


@fault("transaction coordinator killed", brokers=3, transactions=True)
def coordinator_killed(this: Round) -> Verdict:
    """Of three brokers the one that coordinates a server's transactions dies and comes back."""
    for number in range(100):
        name = f"c{number}"
        victim = _coordinator(this.world.cluster(), f"{this.group}.{name}")
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


def _coordinator(cluster: broker.Cluster, transactional_id: str) -> broker.Kafka | None:
    """The broker that leads this id's part of the log of transactions; None when it is the one that
    must live."""
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


@fault("two in a row", transactions=True)
def one_after_the_other(this: Round, times: int = 3) -> Verdict:
    """The output of a group is the input of another one, and servers of both are killed."""
    last = Round(this.world, "two in a row", this.verdict.seed, servers=this.direct)
    last.source = this.output

    def start(which: Round, name: str, suicide: str = "") -> Running:
        (last.folder / "relay.py").write_text(RELAY)
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
        last.close()


def _late(this: Round, kind: int, seconds: float) -> Verdict:
    """Every third request of one kind is held up, its connection cut, and the request delivered while
    the next transaction is open."""
    holder = Holder(kind, draw=this.draw)
    this.ready(this.start())
    this.world.proxy.holder = holder
    with this.load():
        time.sleep(seconds)
        this.world.proxy.holder = None
        this.verdict.faults = holder.settle()
    return this.finish()


@fault("late EndTxn", proxied=True, transactions=True)
def late_end_txn(this: Round) -> Verdict:
    return _late(this, holding.END_TXN, 6)


@fault("late AddPartitionsToTxn", proxied=True, transactions=True, short=False)
def late_add_partitions(this: Round) -> Verdict:
    return _late(this, holding.ADD_PARTITIONS, 6)


@fault("late AddOffsetsToTxn", proxied=True, transactions=True, short=False)
def late_add_offsets(this: Round) -> Verdict:
    return _late(this, holding.ADD_OFFSETS, 6)


@fault("late TxnOffsetCommit", proxied=True, transactions=True)
def late_offset_commit(this: Round) -> Verdict:
    return _late(this, holding.TXN_OFFSET_COMMIT, 6)


@fault("late Produce", proxied=True, transactions=True, short=False)
def late_produce(this: Round) -> Verdict:
    return _late(this, holding.PRODUCE, 6)


@fault("late InitProducerId", proxied=True, transactions=True, short=False)
def late_init(this: Round, times: int = 5) -> Verdict:
    """Of every second start, and of what raises the epoch. One of an earlier process cannot be told
    from another process's."""
    holder = Holder(holding.INIT_PRODUCER_ID, every=2, draw=this.draw)
    with this.load():
        for _ in range(times):
            this.world.proxy.holder = holder
            server = this.start("l0")
            this.ready(server)
            this.sleep(1.0, 2.0)
            if server.stop() not in (0, RESTART, FENCED):
                this.verdict.notes.append(f"a server ended with {server.process.returncode}")
        this.world.proxy.holder = None
        this.verdict.faults = holder.settle()
        this.ready(this.start("l0"))
    return this.finish()


@fault("late after a restart", proxied=True, transactions=True, short=False)
def late_after_restart(this: Round, times: int = 4) -> Verdict:
    """A request is held, its server killed, and the request delivered when the next one works."""
    kinds = [holding.END_TXN, holding.TXN_OFFSET_COMMIT, holding.ADD_PARTITIONS, holding.PRODUCE]
    server = this.start("r0")
    this.ready(server)
    with this.load():
        for number in range(times):
            holder = Holder(kinds[number % len(kinds)], every=1, itself=True, draw=this.draw)
            this.sleep(0.3, 1.0)
            this.world.proxy.holder = holder
            until(lambda: holder.held, 30, "a request to hold")  # noqa: B023
            this.world.proxy.holder = None
            server.signal(signal.SIGKILL)
            server.wait()
            server = this.start("r0")
            this.ready(server)
            this.sleep(0.3, 1.0)
            this.verdict.faults += holder.settle()
    return this.finish()


@fault("held without a cut", proxied=True, transactions=True, short=False)
def held_without_cut(this: Round) -> Verdict:
    """An EndTxn gets no answer, and nobody says why."""
    holder = Holder(holding.END_TXN, every=20, cut=False, draw=this.draw)
    this.ready(this.start())
    with this.load():
        this.world.proxy.holder = holder
        this.sleep(12.0, 14.0)
        this.world.proxy.holder = None
        this.verdict.faults = holder.settle()
    verdict = this.finish()
    if verdict.pause > 8:
        verdict.notes.append("it stood still for longer than a request may take")
    return verdict
