"""Making kafka-python's clients: our options, the user's options, and patience while Kafka is not
there."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket

from gworkers.config.load import Loaded
from gworkers.errors import UnavailableError
from gworkers.kafka import embedded, green, options, versions, workarounds
from gworkers.kafka.errors import Kind, classify

log = logging.getLogger(__name__)

#: How long one attempt to reach Kafka may take before the next, in seconds.
CONNECT_ATTEMPT = 10.0


#: A transaction that follows another at once is told to come back (CONCURRENT_TRANSACTIONS) until
#: the markers of the one before are written, a few milliseconds; with kafka-python's 100 ms each
#: transaction would begin 100 ms late. And until the time-out has passed the open transaction of a
#: process that died holds back readers and whoever takes its partitions.
TRANSACTIONAL = {"retry_backoff_ms": 5, "transaction_timeout_ms": 10_000}


class Clients:
    """Makes consumers and producers for one process of one configuration.

    servers: where Kafka is, which the configuration may leave to us; process: the process's number,
    from 0.
    """

    def __init__(self, loaded: Loaded, servers: str, process: int = 0) -> None:
        self._loaded = loaded
        self._process = process
        self.servers = servers
        versions.check()
        self.embedded = loaded.config.kafka.bootstrap_servers == "embedded"

    def _common(self) -> dict[str, Any]:
        common: dict[str, Any] = {
            "bootstrap_servers": self.servers.split(","),
            "metrics_enabled": False,  # kafka-python's own metrics cost time for each record and have no reader here
            "metadata_max_age_ms": 30_000,  # new partitions and topics are taken up within half a minute
            "reconnect_backoff_max_ms": 2_000,
        }
        if self.embedded:
            common["api_version"] = embedded.API_VERSION
        return common

    def consumer(self, **more: Any) -> Any:
        """A KafkaConsumer of the group, which commits nothing by itself."""
        config = self._loaded.config
        part = max(2**16, config.buffer.bytes // 8)
        consumer = self._make(
            "KafkaConsumer",
            {
                **self._common(),
                "group_id": config.kafka.group,
                "auto_offset_reset": "earliest",  # a new group begins with what is there: nothing is lost by being late
                # With kafka-python's 50 MiB and 1 MiB what has been fetched and not handed out
                # takes more memory than the whole buffer.
                "fetch_max_bytes": min(4 * 2**20, part),
                "max_partition_fetch_bytes": min(2**18, part),
                "partition_assignment_strategy": [options.assignor("cooperative-sticky")],
                **options.given(self._loaded, "consumer"),
                "group_instance_id": self._instance(),
                "enable_auto_commit": False,
                # With it the group's offsets are told, too, only when no transaction can change
                # them any more (KIP-447).
                **({"isolation_level": "read_committed"} if config.delivery == "exactly-once" else {}),
                **more,
            },
        )
        workarounds.hand_out_what_was_parked(consumer)
        workarounds.finish_the_join(consumer)
        workarounds.claim_only_what_is_owned(consumer)
        return consumer

    def _instance(self) -> str | None:
        name = self._loaded.config.kafka.group_instance_id
        return name % {"host": socket.gethostname(), "process": self._process} if name is not None else None

    def reader(self, **more: Any) -> Any:
        """A KafkaConsumer of no group: it reads and leaves no trace."""
        return self.consumer(
            **{"group_id": None, "group_instance_id": None, "partition_assignment_strategy": [options.assignor("range")], **more}
        )

    def transactional_id(self) -> str:
        """The name under which this process's transactions are known to Kafka, the same after a
        restart."""
        config = self._loaded.config
        return f"{config.kafka.group}.{config.instance % {'host': socket.gethostname(), 'process': self._process}}"

    def producer(self, **more: Any) -> Any:
        """A KafkaProducer: idempotent, all replicas, no linger, batches that a block of results
        fits into."""
        workarounds.end_quietly(green.module().KafkaProducer)
        producer = self._make(
            "KafkaProducer",
            {
                **self._common(),
                "batch_size": 262_144,  # with the default of 16 KiB the Sender is woken for a quarter of all cost
                "max_block_ms": 5_000,
                "delivery_timeout_ms": 2**31 - 1,  # results wait for a broker that is away; the buffer bounds how many
                **(TRANSACTIONAL if "transactional_id" in more else {}),
                **options.given(self._loaded, "producer"),
                "acks": "all",
                **more,
            },
        )
        workarounds.survive_refusals(producer)
        if "transactional_id" in more:
            workarounds.blame_only_the_refused(producer)
            workarounds.lose_no_request(producer)
        return producer

    def admin(self) -> Any:
        """A KafkaAdminClient."""
        own = self._loaded.config.kafka.client.keys() & green.module().KafkaAdminClient.DEFAULT_CONFIG.keys()
        given = {name: value for name, value in options.given(self._loaded, "producer").items() if name in own}
        return self._make("KafkaAdminClient", {"bootstrap_servers": self.servers.split(","), **given})

    def _make(self, cls: str, config: dict[str, Any]) -> Any:
        """Try until it can be reached. Raises UnavailableError after kafka.connect_timeout, with
        what stood in the way."""
        limit = self._loaded.config.kafka.connect_timeout
        deadline = time.monotonic() + limit
        make: Callable[..., Any] = getattr(green.module(), cls)
        errors = green.module("kafka.errors")
        said = False
        while True:
            left = deadline - time.monotonic()
            why = _unreachable(self.servers, left)
            try:
                if why is not None:
                    raise errors.KafkaConnectionError(why)
                client = make(**config, bootstrap_timeout_ms=max(100, int(1000 * min(left, CONNECT_ATTEMPT))))
                if self.embedded and cls == "KafkaConsumer":
                    client.bootstrap(max(1000, int(left * 1000)))  # told its version, the constructor has not connected yet
                return client
            except (errors.KafkaConfigurationError, ValueError, AssertionError, TypeError, RuntimeError) as error:
                raise UnavailableError(f"kafka-python refuses its options: {error}; look at kafka.client, consumer and producer") from error
            except errors.KafkaError as error:
                why = why or diagnose(self.servers) or _told(error)
                if isinstance(error, errors.AuthorizationError) or classify(error) is Kind.NOT_LET_IN:
                    raise UnavailableError(f"Kafka at {self.servers} refuses to let us in: {_told(error)}") from error
            if time.monotonic() >= deadline:
                raise UnavailableError(f"Kafka at {self.servers} cannot be reached for {limit:g} s: {why}", passing=True)
            if not said:
                log.warning("Kafka at %s cannot be reached, trying until %g s are over: %s", self.servers, limit, why)
                said = True
            gevent.sleep(min(0.5, max(0.0, deadline - time.monotonic())))


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _unreachable(servers: str, patience: float) -> str | None:
    """Why no connection can be made to any of ``servers``; None when one can. It says more than
    kafka-python, and at once."""
    reasons = []
    for server in servers.split(","):
        try:
            _connect(server, max(0.1, min(3.0, patience))).close()
            return None
        except _NoConnectionError as error:
            reasons.append(f"{server.strip()} {error}")
    return ", ".join(reasons)


def diagnose(servers: str) -> str | None:
    """Why nobody who speaks Kafka answers at ``servers``, in words; None when somebody does. Blocks
    up to 3 s a server."""
    reasons = []
    for server in servers.split(","):
        reason = _knock(server)
        if reason is None:
            return None
        reasons.append(f"{server.strip()} {reason}")
    return ", ".join(reasons)


#: An ApiVersions request (v0, correlation id 1, no client id): the first thing a Kafka client says.
_API_VERSIONS = bytes.fromhex("0000000a 0012 0000 00000001 ffff".replace(" ", ""))


class _NoConnectionError(Exception):
    """Why a server cannot be connected to."""


def _connect(server: str, timeout: float) -> Any:
    host, _, port = server.strip().rpartition(":")
    try:
        return gevent.socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)
    except gevent.socket.gaierror:
        raise _NoConnectionError("is no known host name") from None
    except ConnectionRefusedError:
        raise _NoConnectionError("refuses connections: nothing listens there") from None
    except TimeoutError:
        raise _NoConnectionError("does not answer") from None
    except OSError as error:
        raise _NoConnectionError(f"cannot be reached: {error.strerror or error}") from None


def _knock(server: str) -> str | None:
    try:
        connection = _connect(server, 3)
    except _NoConnectionError as error:
        return str(error)
    try:
        connection.settimeout(3)
        connection.sendall(_API_VERSIONS)
        answer = connection.recv(8)
    except TimeoutError:
        return "accepts connections and does not answer as Kafka does"
    except OSError:
        answer = b""
    finally:
        connection.close()
    if answer.startswith((b"HTTP", b"<!DOC", b"<html")):
        return "answers as an HTTP server, not as Kafka"
    if answer[:1] == b"\x15":
        return "speaks TLS; set kafka.client.security_protocol: SSL or SASL_SSL"
    if not answer:
        return "closes the connection; does it want TLS or a password?"
    if len(answer) == 8 and int.from_bytes(answer[4:8], "big") == 1:
        return None
    return "answers something that is not Kafka"
