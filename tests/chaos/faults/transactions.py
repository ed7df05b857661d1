"""Faults that make sense with exactly-once alone: at the points of a transaction, in its requests."""

from __future__ import annotations

import signal
import time

from tests.chaos import holding
from tests.chaos.faults.brokers import kill_for_a_while, leader_of
from tests.chaos.faults.registry import fault
from tests.chaos.harness import FENCED, RESTART, UNKNOWN, Round
from tests.chaos.holding import Holder
from tests.chaos.judge import Verdict
from tests.chaos.programs import KILL_POINTS, RELAY
from tests.support.servers import Running, until


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
        victim = leader_of(this.world.cluster(), "__transaction_state", f"{this.group}.{name}")
        if victim is not None:
            break
    assert victim is not None, "the broker that must live coordinates everything"
    this.ready(this.start(name))
    return kill_for_a_while(this, victim, 2.0, 5.0)


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
