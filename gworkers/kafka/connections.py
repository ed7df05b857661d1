"""The clients of one process: a member of the group, and a producer, which with exactly-once is a
transactional one."""

from __future__ import annotations

from functools import cached_property

from gworkers.kafka.clients import Clients
from gworkers.kafka.group import KafkaGroup
from gworkers.kafka.producing import KafkaProducerClient
from gworkers.kafka.transactional import KafkaTransactionalClient


class KafkaConnections:
    """Each is made when it is first asked for, which blocks until Kafka is reached. Raises
    UnavailableError."""

    def __init__(self, clients: Clients, patience: float) -> None:
        self._clients = clients
        self._patience = patience

    @cached_property
    def group(self) -> KafkaGroup:
        buffer = self._clients.config.buffer
        return KafkaGroup(
            self._clients.consumer(), self._clients.rights_of_consumer(), buffer.bytes, skip_oversized=buffer.oversized == "skip"
        )

    @cached_property
    def producer(self) -> KafkaProducerClient:
        return KafkaProducerClient(self._clients.producer(), self._clients.rights_of_producer())

    @cached_property
    def transactions(self) -> KafkaTransactionalClient:
        return KafkaTransactionalClient(self._clients, self._clients.transactional_id(), self._patience)
