"""What a fault is: a function of a round that says with ``@fault`` what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.harness import Round, World
from tests.chaos.judge import Verdict


class NotHere(Exception):
    """This machine does not let it be tried; the text says why."""


@dataclass(frozen=True)
class Fault:
    """kind: its name in tables; brokers: one or three; proxied: servers reach the broker through a
    proxy that can be told to misbehave; any_twice: at-least-once may repeat as many as it causes;
    transactions: it makes sense with exactly-once alone; short: a short run tries it, too; quorum: of
    the three brokers each is a controller."""

    kind: str
    run: Callable[[Round], Verdict]
    brokers: int = 1
    partitions: int = 4
    proxied: bool = False
    any_twice: bool = False
    transactions: bool = False
    short: bool = True
    quorum: bool = False

    def __call__(self, world: World, seed: int) -> Verdict:
        """One round."""
        cluster = world.quorum if self.quorum else world.cluster
        servers = world.single.servers if self.brokers == 1 else cluster().servers
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
    quorum: bool = False,
) -> Callable[[Callable[[Round], Verdict]], Callable[[Round], Verdict]]:
    """Makes a function a fault; see Fault."""

    def register(run: Callable[[Round], Verdict]) -> Callable[[Round], Verdict]:
        FAULTS[run.__name__] = Fault(kind, run, brokers, partitions, proxied, any_twice, transactions, short, quorum)
        return run

    return register
