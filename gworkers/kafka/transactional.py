"""The transactional producer: its identity, and how another one takes it over.

Kafka knows a producer by its transactional.id, and by an epoch that each new one raises: who comes
with a lower epoch is shut out. A producer whose transaction failed is replaced by a new one that
says which epoch it takes over (KIP-360); when somebody else has raised it meanwhile, the broker
refuses, and nothing is taken from the other.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import gevent

from gworkers.errors import UnavailableError
from gworkers.kafka import green
from gworkers.kafka.clients import Clients
from gworkers.kafka.errors import Kind, classify
from gworkers.kafka.group import to_kafka
from gworkers.kafka.late_requests import LateRequests, ask_for_epoch
from gworkers.kafka.producing import KafkaProducerClient
from gworkers.kafka.protocols import Offsets

log = logging.getLogger(__name__)

#: Brokers from here on check the consumer's generation with the offsets of a transaction (KIP-447).
OLDEST_BROKER = (2, 5)


class FencedError(UnavailableError):
    """Another process has taken over the identity."""


class KafkaTransactionalClient:
    """One producer at a time. Raises UnavailableError with a sentence; its ``passing`` says whether
    it is worth another try."""

    def __init__(self, clients: Clients, transactional_id: str, patience: float) -> None:
        self._clients = clients
        self._id = transactional_id
        self._patience = patience
        self._identity: Any = None  # of the last producer that had one: its id and epoch
        self.producer = self._make()
        self.timeout: float = self._kafka.config["transaction_timeout_ms"] / 1000
        try:
            self._check_version()
            self._init(None)
        except BaseException:
            self._close()
            raise

    @property
    def _kafka(self) -> Any:
        """kafka-python's producer."""
        return self.producer.kafka

    def begin(self) -> None:
        """Open a transaction. Raises kafka-python's errors, as the two below do. Blocks when a request
        of the one before may arrive late."""
        self._late.begin()

    def send_offsets(self, offsets: Offsets, generation: Any) -> None:
        """Add offsets to the transaction, for a member of the group (KIP-447). Blocks."""
        self._kafka.send_offsets_to_transaction(to_kafka(offsets), generation)

    def commit(self) -> None:
        """End the transaction. Blocks."""
        self._kafka.commit_transaction()

    def renew(self, age: float) -> KafkaProducerClient:
        """A new producer in place of the old one. ``age``: since when its transaction was open, in
        seconds: when Kafka has given up a transaction because of its age, the epoch has been raised
        by nobody else. So it is when an InitProducerId of this process may have arrived late. Blocks.
        """
        identity = self._kafka._transaction_manager.producer_id_and_epoch
        if identity.is_valid:
            self._identity = identity
        self._close()
        self.producer = self._make(self._late.inits)
        try:
            self._init(self._identity)
        except FencedError:
            if age < self.timeout:
                if not self._late.inits:
                    raise
                self._late.inits -= 1
            self._close()
            self.producer = self._make(self._late.inits)
            self._init(None)
        return self.producer

    def no_right(self, error: BaseException) -> str | None:
        return self.producer.no_right(error)

    def _close(self) -> None:
        """End the producer without waiting for what it has on its way. That it does not end in time
        is no reason to keep it."""
        try:
            self.producer.close(0)
        except Exception as error:
            log.debug("a producer was left to itself: %s", error)

    def _make(self, late_inits: int = 0) -> KafkaProducerClient:
        producer = self._clients.producer(transactional_id=self._id)
        self._late = LateRequests(producer, late_inits)
        return KafkaProducerClient(producer, self._clients.rights_of_producer(self._id))

    def _check_version(self) -> None:
        version = self._kafka.config["api_version"]
        if version < OLDEST_BROKER:
            raise UnavailableError(
                f"Kafka at {self._clients.servers} is of version {'.'.join(map(str, version))}, and delivery: exactly-once needs "
                f"{'.'.join(map(str, OLDEST_BROKER))} or later; upgrade it, or write delivery: at-least-once"
            )

    def _init(self, resume: Any) -> None:
        errors = green.module("kafka.errors")
        deadline = time.monotonic() + self._patience
        if resume is not None:
            self._take_over(resume)
        while True:
            try:
                self._kafka.init_transactions()
                return
            except errors.KafkaTimeoutError as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"Kafka at {self._clients.servers} has no coordinator for transactions for {self._patience:g} s; do its "
                        "transaction.state.log.replication.factor and transaction.state.log.min.isr ask for more brokers than there are?",
                        passing=True,
                    ) from error
                gevent.sleep(0.1)
            except errors.KafkaError as error:
                raise self._sentence(error) from error

    def _take_over(self, identity: Any) -> None:
        self._kafka._transaction_manager.set_producer_id_and_epoch(identity)
        self._kafka._init_transactions_result = ask_for_epoch(self._kafka, "INITIALIZING")

    def fenced(self) -> FencedError:
        return FencedError(
            f"another process has taken over the transactions of this one ({self._id}), and this one is out; give each process an "
            "instance of its own, with %(host)s or a variable (where each has one, a request of an earlier process has arrived late)"
        )

    def _sentence(self, error: Exception) -> UnavailableError:
        text = str(error)  # where kafka-python wraps the broker's answer, its text alone says which it was
        if classify(error) is Kind.PRODUCER_FENCED or "PRODUCER_FENCED" in text:
            return self.fenced()
        if "INVALID_TRANSACTION_TIMEOUT" in text or "InvalidTransactionTimeout" in text:
            timeout = self._kafka.config["transaction_timeout_ms"]
            return UnavailableError(
                f"kafka.producer.transaction_timeout_ms is {timeout}, and the broker allows less; write at most its "
                "transaction.max.timeout.ms"
            )
        if isinstance(error, green.module("kafka.errors").UnsupportedVersionError):
            return UnavailableError(
                f"Kafka at {self._clients.servers} knows no transactions, which delivery: exactly-once needs; write at-least-once"
            )
        no_right = self.no_right(error)
        if no_right is not None:
            return UnavailableError(no_right)
        return UnavailableError(f"transactions cannot be begun at {self._clients.servers}: {text or type(error).__name__}")
