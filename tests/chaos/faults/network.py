"""Packets are delayed, lost in one direction, connections cut; addresses change."""

from __future__ import annotations

from tests.chaos.faults.registry import fault
from tests.chaos.harness import Round
from tests.chaos.judge import Verdict
from tests.chaos.proxy import Proxy


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


@fault("one-way loss", proxied=True, any_twice=True)
def one_way_loss(this: Round, times: int = 3) -> Verdict:
    """What the broker sends is lost for a while, or what is sent to it, and the other direction works;
    then the connections break."""
    proxy = this.world.proxy
    this.pair()
    with this.load():
        for _ in range(times):
            this.sleep(0.5, 1.5)
            proxy.lost = this.draw.choice(("answers", "requests"))
            this.sleep(0.5, 5.0)
            proxy.cut()
            proxy.lost = ""
            this.fault()
        this.sleep(0.5, 1.0)
    return this.finish()


@fault("addresses changed", proxied=True, any_twice=True)
def addresses_changed(this: Round) -> Verdict:
    """The broker comes back under another address, which only the bootstrap address tells; in every
    second round the bootstrap address itself goes for good, and the broker stays."""
    kafka, first, second, bootstrap = this.world.single, Proxy(), Proxy(), Proxy()
    for proxy in (first, second, bootstrap):
        proxy.target = kafka.behind
    this.servers = f"127.0.0.1:{bootstrap.port}"
    kafka.advertise(first.port)
    try:
        this.pair()
        with this.load():
            this.sleep(1.0, 2.0)
            if this.draw.random() < 0.5:
                bootstrap.close()
                first.cut()
            else:
                first.close()
                kafka.advertise(second.port)
            this.fault()
            this.sleep(2.0, 4.0)
        return this.finish()
    finally:
        kafka.advertise(this.world.proxy.port)
        for proxy in (first, second, bootstrap):
            proxy.close()
