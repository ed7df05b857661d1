"""Apache Kafka for tests: fetched by Maven once a checkout, started on free ports in a folder of
its own, stopped by its id."""

from __future__ import annotations

import base64
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
POM = Path(__file__).with_name("pom.xml")
LIBS = ROOT / ".cache" / "kafka"


class NoKafka(Exception):
    """Apache Kafka cannot be had here; the text says why."""


def free_port() -> int:
    """One that nobody has, and none of those that the kernel gives to clients, of which one more could
    have it before whoever it is for listens there."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def fetch() -> Path:
    """Kafka's jars. Raises NoKafka when there is no Java or no Maven, or they cannot be fetched."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise NoKafka(f"{program} is not installed")
    LIBS.mkdir(parents=True, exist_ok=True)
    mark = LIBS / "whole"
    wanted = POM.read_text()
    with open(LIBS / "lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text() != wanted:
            command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={LIBS}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise NoKafka(f"Maven cannot fetch it: {(done.stdout + done.stderr).strip().splitlines()[-1:]}")
            mark.write_text(wanted)
    return LIBS


PROPERTIES = """
process.roles={roles}
node.id={node}
controller.quorum.bootstrap.servers={controllers}
listeners={listeners}
advertised.listeners={advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/data
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable={auto_create}
log.segment.delete.delay.ms=100
"""


@dataclass(frozen=True)
class Controller:
    """One of several: its node, the port it listens on, the id of its directory."""

    node: int
    port: int
    directory: str

    def __str__(self) -> str:
        return f"{self.node}@127.0.0.1:{self.port}:{self.directory}"


def uuid() -> str:
    """As Kafka writes them: 16 bytes in base64, which do not begin like an option."""
    return base64.urlsafe_b64encode(bytes([0x40]) + os.urandom(15)).decode().rstrip("=")


class Kafka:
    """One broker. servers: host:port; behind: the port of its second listener, which it advertises
    as ``proxied`` (for a proxy).

    joining: another broker, whose cluster this one is to be a further broker of; quorum: the
    controllers of its cluster, this broker among them; node: its number there. advertised: the host
    that it sends clients to. listeners_more: further ones, each with its name, port and security
    protocol.
    """

    def __init__(
        self,
        auto_create: bool = True,
        *,
        joining: Kafka | None = None,
        quorum: Sequence[Controller] = (),
        node: int = 1,
        proxied: int = 1,
        advertised: str = "127.0.0.1",
        listeners_more: Sequence[tuple[str, int, str]] = (),
        **properties: str,
    ) -> None:
        self.libs = fetch()
        self.folder = Path(tempfile.mkdtemp(prefix="gworkers-kafka-"))
        self.port, self.behind = free_port(), free_port()
        own = next((one.port for one in quorum if one.node == node), None)
        self._controller: int = joining._controller if joining is not None else own or free_port()
        self.servers = f"127.0.0.1:{self.port}"
        listeners = f"PLAINTEXT://127.0.0.1:{self.port},PROXIED://127.0.0.1:{self.behind}"
        further = "".join(f",{name}://127.0.0.1:{port}" for name, port, _ in listeners_more)
        listeners += further
        text = PROPERTIES.format(
            node=node,
            roles="broker" if joining is not None else "broker,controller",
            listeners=listeners if joining is not None else f"{listeners},CONTROLLER://127.0.0.1:{self._controller}",
            advertised=f"PLAINTEXT://{advertised}:{self.port},PROXIED://127.0.0.1:{proxied}{further}",
            protocols="".join(f",{name}:{protocol}" for name, _, protocol in listeners_more),
            controllers=",".join(f"127.0.0.1:{one.port}" for one in quorum) or f"127.0.0.1:{self._controller}",
            folder=self.folder,
            auto_create=str(auto_create).lower(),
        )
        text += "".join(f"{name.replace('_', '.') if '.' not in name else name}={value}\n" for name, value in properties.items())
        (self.folder / "server.properties").write_text(text)
        self._log = open(self.folder / "log", "ab")
        self.process: subprocess.Popen[bytes] | None = None
        tool = [*self._java(), "kafka.tools.StorageTool"]
        self.cluster: str = joining.cluster if joining is not None else quorum[0].directory if quorum else uuid()
        voters = ["--initial-controllers", ",".join(map(str, quorum))] if quorum else ["--standalone"] if joining is None else []
        subprocess.run([*tool, "format", *voters, "-t", self.cluster, "-c", self._config()], check=True, stdout=self._log, stderr=self._log)

    def _config(self) -> str:
        return str(self.folder / "server.properties")

    def _java(self) -> list[str]:
        options = ["-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={self._quiet()}"]
        return ["java", *options, "-cp", f"{self.libs}/*"]

    def _quiet(self) -> Path:
        file = self.folder / "log4j2.properties"
        if not file.exists():
            file.write_text(
                "rootLogger.level=WARN\nrootLogger.appenderRef.c.ref=c\nappender.c.type=Console\nappender.c.name=c\n"
                "appender.c.layout.type=PatternLayout\nappender.c.layout.pattern=%d %p %c %m%n\n"
            )
        return file

    def start(self, timeout: float = 60) -> None:
        """Start it and wait until it answers."""
        self.begin()
        self.answers(timeout)

    def begin(self) -> None:
        self.process = subprocess.Popen(
            [*self._java(), "kafka.Kafka", self._config()], stdout=self._log, stderr=self._log, start_new_session=True
        )

    def answers(self, timeout: float = 60) -> None:
        """Wait until it does."""
        assert self.process is not None
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(bytes.fromhex("0000000a0012000000000001ffff"))
                    connection.settimeout(5)
                    if connection.recv(4):
                        return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"Kafka does not start; its log: {(self.folder / 'log').read_text()[-2000:]}")

    def hanging_transactions(self) -> str:
        """What ``kafka-transactions.sh find-hanging`` says of this broker; empty when it finds
        none."""
        node = next(line for line in (self.folder / "server.properties").read_text().splitlines() if line.startswith("node.id="))
        number = node.partition("=")[2]
        lines = self._transactions("find-hanging", "--broker-id", number, "--max-transaction-timeout", "0").splitlines()
        return "\n".join(lines[1:]) if lines and lines[0].startswith("Topic") else "\n".join(lines)

    def transactions(self) -> str:
        """What ``kafka-transactions.sh list`` says: each transactional id with its coordinator, its
        producer id and its state."""
        return self._transactions("list")

    def _transactions(self, *arguments: str) -> str:
        command = [*self._java(), "org.apache.kafka.tools.TransactionsCommand", "--bootstrap-server", self.servers, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return "\n".join(line for line in done.stdout.splitlines() if line.strip())

    def advertise(self, port: int) -> None:
        """Start it again, with another port of 127.0.0.1 that it sends clients of its second listener
        to."""
        file = self.folder / "server.properties"
        file.write_text(re.sub(r"(?m)^(advertised\.listeners=.*PROXIED://127\.0\.0\.1:)\d+", rf"\g<1>{port}", file.read_text()))
        self.terminate()
        self.start()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM, and wait until it has ended as it should."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)

    def stop(self) -> None:
        """Stop it and remove its folder."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


#: What brokers of a cluster of three are told.
REPLICATED: dict[str, Any] = {
    "default_replication_factor": "3",
    "offsets_topic_replication_factor": "3",
    "transaction_state_log_replication_factor": "3",
    "transaction_state_log_min_isr": "2",
    "min_insync_replicas": "2",
    "replica_lag_time_max_ms": "3000",
    "broker_session_timeout_ms": "3000",
}


class Cluster:
    """Three brokers. The first is the controller as well and is not to be killed; with ``quorum`` each
    of them is one, and any may go. servers: all three."""

    def __init__(self, *, quorum: bool = False) -> None:
        if quorum:
            controllers = [Controller(node, free_port(), uuid()) for node in (1, 2, 3)]
            self.brokers = [Kafka(quorum=controllers, node=one.node, **REPLICATED) for one in controllers]
        else:
            self.brokers = [Kafka(**REPLICATED)]
            self.brokers += [Kafka(joining=self.brokers[0], node=node, **REPLICATED) for node in (2, 3)]
        self.servers = ",".join(broker.servers for broker in self.brokers)

    def start(self) -> None:
        for one in self.brokers:  # of a quorum none answers alone
            one.begin()
        for one in self.brokers:
            one.answers()

    def stop(self) -> None:
        for one in self.brokers:
            one.stop()


class MirrorMaker:
    """MirrorMaker 2 from one broker to another, with the offsets of all groups, in a process of its
    own."""

    def __init__(self, source: Kafka, target: Kafka, topic: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gworkers-mirror-"))
        self._log = open(self._folder / "log", "ab")
        single = ("replication", "offset-syncs.topic.replication", "checkpoints.topic.replication", "heartbeats.topic.replication")
        storage = ("config.storage.replication", "offset.storage.replication", "status.storage.replication")
        lines = [
            "clusters = a, b",
            f"a.bootstrap.servers = {source.servers}",
            f"b.bootstrap.servers = {target.servers}",
            "a->b.enabled = true",
            f"a->b.topics = {topic}",
            "a->b.groups = .*",
            "replication.policy.class = org.apache.kafka.connect.mirror.IdentityReplicationPolicy",
            "sync.group.offsets.enabled = true",
            "sync.group.offsets.interval.seconds = 1",
            "emit.checkpoints.interval.seconds = 1",
            "refresh.groups.interval.seconds = 1",
            "refresh.topics.interval.seconds = 1",
            "offset.lag.max = 10",
            "b->a.enabled = false",
            "dedicated.mode.enable.internal.rest = false",
            *(f"{name}.factor = 1" for name in (*single, *storage)),
        ]
        (self._folder / "mm2.properties").write_text("\n".join(lines) + "\n")
        command = [*source._java(), "org.apache.kafka.connect.mirror.MirrorMaker", str(self._folder / "mm2.properties")]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Mock:
    """The embedded broker, where Kafka cannot be had."""

    def __init__(self) -> None:
        from gworkers.kafka import embedded

        self._running = embedded.start([])
        self.servers = self._running.servers

    def stop(self) -> None:
        self._running.stop()


def close_when_asked_to_end() -> None:
    """A program that is asked to end by SIGTERM closes what it has started, as at Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def java_is_wanted() -> bool:
    """In CI the real broker is a must."""
    return os.environ.get("CI", "").lower() in ("1", "true")
