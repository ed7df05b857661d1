"""Servers are killed, stopped, asked to stop; handlers are slow, fail, and return too much."""

from __future__ import annotations

import signal
import time

from tests.chaos.faults.registry import fault
from tests.chaos.harness import SESSION, Round
from tests.chaos.judge import Verdict
from tests.support.servers import Running, until

#: What a server says when its group has given it up.
LOST = "lost, because Kafka did not hear from this process in time"


@fault("SIGKILL")
def sigkill(this: Round, times: int = 3) -> Verdict:
    """Servers are killed under load and started again."""
    this.allow_twice_for(times)
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
    this.allow_twice_for(times)
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
