"""Making kafka-python's clients: our options, the user's options, and patience while Kafka is not
there."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import gevent
from gevent.event import AsyncResult

from gworkers.config.load import Loaded
from gworkers.config.section import named
from gworkers.errors import UnavailableError, one_line
from gworkers.kafka import embedded, green, options, probe, reasons, troubles, versions, workarounds
from gworkers.kafka.rights import Rights

log = logging.getLogger(__name__)

#: How long one attempt to reach Kafka may take before the next, in seconds.
CONNECT_ATTEMPT = 10.0
#: The same for the first, after which it is said what stands in the way.
FIRST_ATTEMPT = 2.0
#: How many of the brokers are tried at the addresses that they advertise.
ADVERTISED_TRIED = 3


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
        self.config = loaded.config
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
                "heartbeat_interval_ms": 1000,  # a member learns of a rebalance by its heartbeat: with 3 s a group is 3 s late
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
        workarounds.go_on_from_the_whole_commit(consumer)
        workarounds.forget_what_was_revoked(consumer)
        return consumer

    def _instance(self) -> str | None:
        name = self._loaded.config.kafka.group_instance_id
        return named(name, self._process) if name is not None else None

    def reader(self, **more: Any) -> Any:
        """A KafkaConsumer of no group: it reads and leaves no trace."""
        return self.consumer(
            **{"group_id": None, "group_instance_id": None, "partition_assignment_strategy": [options.assignor("range")], **more}
        )

    def transactional_id(self) -> str:
        """The name under which this process's transactions are known to Kafka, the same after a
        restart."""
        config = self._loaded.config
        return f"{config.kafka.group}.{named(config.instance, self._process)}"

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

    def rights_of_consumer(self) -> Rights:
        config = {**options.given(self._loaded, "consumer"), "group_id": self._loaded.config.kafka.group}
        return Rights.of(self.servers, config, "Read")

    def rights_of_producer(self, transactional_id: str = "") -> Rights:
        config = {**options.given(self._loaded, "producer"), "group_id": self._loaded.config.kafka.group}
        return Rights.of(self.servers, {**config, "transactional_id": transactional_id}, "Write")

    def admin(self) -> Any:
        """A KafkaAdminClient."""
        own = self._loaded.config.kafka.client.keys() & green.module().KafkaAdminClient.DEFAULT_CONFIG.keys()
        given = {name: value for name, value in options.given(self._loaded, "producer").items() if name in own}
        return self._make("KafkaAdminClient", {"bootstrap_servers": self.servers.split(","), **given})

    def _make(self, cls: str, config: dict[str, Any]) -> Any:
        """Try until it can be reached. Raises UnavailableError after kafka.connect_timeout, with
        what stood in the way, and at once where waiting does not help."""
        limit = self._loaded.config.kafka.connect_timeout
        deadline = time.monotonic() + limit
        troubles.keep()
        workarounds.read_to_the_end()
        said = False
        patience = FIRST_ATTEMPT
        while True:
            try:
                return self._attempt(cls, config, deadline, patience)
            except _NotReachedError as error:
                why = str(error)
                if error.final:
                    raise UnavailableError(f"Kafka at {self.servers} cannot be used: {why}") from None
            patience = CONNECT_ATTEMPT
            if time.monotonic() >= deadline:
                raise UnavailableError(f"Kafka at {self.servers} cannot be reached for {limit:g} s: {why}", passing=True)
            if not said:
                log.warning("Kafka at %s cannot be reached, trying until %g s are over: %s", self.servers, limit, why)
                said = True
            gevent.sleep(min(0.5, max(0.0, deadline - time.monotonic())))

    def _attempt(self, cls: str, config: dict[str, Any], deadline: float, patience: float) -> Any:
        """One client. Raises _NotReachedError."""
        left = max(0.1, deadline - time.monotonic())
        protocol = str(config.get("security_protocol") or "PLAINTEXT")
        if _proxied(config):
            why = None  # what can be reached from here says nothing
        elif protocol.endswith("SSL"):
            why = probe.unreachable(self._addresses, left)
        else:
            why = probe.diagnose(self._addresses, wants_login=protocol.startswith("SASL"))
        if why is not None:
            raise _NotReachedError(why, final="kafka.client." in why)
        troubles.forget()
        client = None
        errors = green.module("kafka.errors")
        try:
            client = getattr(green.module(), cls)(**config, bootstrap_timeout_ms=int(1000 * min(left, patience)))
            if self.embedded:
                if cls == "KafkaConsumer":
                    client.bootstrap(max(1000, int(left * 1000)))  # told its version, the constructor has not connected yet
            else:
                self._follow(client, min(left, CONNECT_ATTEMPT))
            return client
        except (errors.KafkaConfigurationError, ValueError, AssertionError, TypeError, RuntimeError) as error:
            _close(client)
            told = f"kafka-python refuses its options: {error}; look at kafka.client, consumer and producer"
            raise UnavailableError(told) from error
        except errors.KafkaError as error:
            _close(client)
            raise self._reason(error, config) from error
        except _NotReachedError:
            _close(client)
            raise

    def _follow(self, client: Any, patience: float) -> None:
        """Connect to where the brokers send their clients, which may be elsewhere (their
        advertised.listeners)."""
        manager = _manager_of(client)
        brokers = list(manager.cluster.brokers())
        found_out = []
        for broker in brokers[:ADVERTISED_TRIED]:
            address = f"{broker.host}:{broker.port}"
            if address in self._addresses:
                return
            try:
                _run(client, _connected, manager, broker.node_id, patience)
                return
            except Exception as error:
                found = reasons.explain(address, error, manager.config)
                why = found.text if found is not None else probe.refuses(address) or one_line(error)
                found_out.append(f"{address}, which {why}")
        if found_out:
            raise _NotReachedError(
                f"it answers, and sends its clients to {', and to '.join(found_out)}; "
                "the brokers' advertised.listeners have to be addresses that can be reached from here",
                final=False,
            )

    def _reason(self, error: Any, config: dict[str, Any]) -> _NotReachedError:
        """Why kafka-python could not reach Kafka, which can be connected to."""
        latest = troubles.latest()
        address, trouble = latest if latest is not None else (self._addresses[0], error)
        found = reasons.explain(address, trouble, config)
        if found is not None:
            return _NotReachedError(f"{address} {found.text}", final=found.final)
        login = reasons.no_login(self._addresses, config)
        if login is not None:
            return _NotReachedError(login, final=True)
        through = " through the proxy of kafka.client" if _proxied(config) else ""
        return _NotReachedError(f"{address}{through} {one_line(trouble)}" if latest is not None else one_line(error), final=False)

    @property
    def _addresses(self) -> list[str]:
        return [server.strip() for server in self.servers.split(",")]


class _NotReachedError(Exception):
    """Why an attempt failed. final: waiting does not help."""

    def __init__(self, text: str, *, final: bool) -> None:
        super().__init__(text)
        self.final = final


def _proxied(config: Mapping[str, Any]) -> bool:
    return bool(config.get("proxy_url") or config.get("socks5_proxy"))


def _manager_of(client: Any) -> Any:
    """kafka-python's connection manager of any client."""
    return client._manager if hasattr(client, "_manager") else client._sender._client._manager


def _run(client: Any, steps: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    """As the ``run`` of kafka-python's manager, and on a producer, too: there the Sender drives the
    loop, and turns for ever, holding the hub, while somebody else does. Blocks."""
    if not hasattr(client, "_sender"):
        _manager_of(client).run(steps, *arguments)
        return
    outcome: AsyncResult[None] = AsyncResult()

    async def on_the_loop() -> None:
        try:
            await steps(*arguments)
            outcome.set(None)
        except Exception as error:
            outcome.set_exception(error)

    _manager_of(client)._net.call_soon_threadsafe(on_the_loop)
    outcome.get()


async def _connected(manager: Any, node: Any, patience: float) -> None:
    """Have ``manager`` connected to a broker. Raises kafka-python's errors."""
    await manager.wait_for(manager.get_connection(node).init_future, int(1000 * patience))


def _close(client: Any) -> None:
    if client is not None:
        with contextlib.suppress(Exception):
            client.close(**({"autocommit": False} if hasattr(client, "poll") else {"timeout": 0} if hasattr(client, "send") else {}))
