"""Requests about a transaction whose answer never came: they may still be on their way.

A request that was under way when its connection broke may reach the broker later, when the next
transaction is open. An EndTxn then commits half of it, a TxnOffsetCommit sets its offsets back: the
protocol before KIP-890's second version does not say which transaction a request is of, only which
epoch. So after a transaction in which a request was left without its answer the epoch is raised, in
place, by an InitProducerId, and whatever arrives later is refused (PRODUCER_FENCED).

A request whose answer does not come in time is given up, with its connection, and sent again. Within
one transaction that is safe: the broker answers a repeated EndTxn with what became of the first.

This file knows the inside of kafka-python; gworkers/kafka/versions.py says of which versions.
"""

from __future__ import annotations

import logging
from typing import Any

from gworkers.kafka import green

log = logging.getLogger(__name__)

#: After so long without an answer a request is sent again, in milliseconds, and after this part of the
#: time that a transaction may take: a commit that is sent again later finds it given up. kafka-python
#: waits request_timeout_ms, 30 s, and then gives the producer up.
ANSWER_MS = 5_000
PART_OF_TRANSACTION = 3

#: What a late one of these can do harm to.
OF_TRANSACTIONS = ("EndTxnRequest", "AddPartitionsToTxnRequest", "AddOffsetsToTxnRequest", "TxnOffsetCommitRequest")


class LateRequests:
    """Of one transactional KafkaProducer. possible: a request may arrive late; inits: so many
    InitProducerIds may, each of which ends whatever transaction is open and shuts out whoever has it.
    """

    def __init__(self, producer: Any, inits: int = 0) -> None:
        self._producer = producer
        self.possible = False
        self.inits = inits  # those of earlier producers of this process included
        self._answer_ms = min(ANSWER_MS, producer.config["transaction_timeout_ms"] // PART_OF_TRANSACTION)
        requests = green.module("kafka.protocol.producer")
        self._watched = tuple(getattr(requests, name) for name in (*OF_TRANSACTIONS, "InitProducerIdRequest"))
        self._init = requests.InitProducerIdRequest
        self._produce = requests.ProduceRequest
        self._errors = green.module("kafka.errors")
        self._future = green.module("kafka.future").Future
        client = producer._sender._client
        self._manager = client._manager
        self._send = client.send
        client.send = self._send_watched

    def _send_watched(self, node_id: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, self._produce):
            return self._send(node_id, request, **options).add_errback(lambda error: self._unanswered(request, error))
        if not isinstance(request, self._watched):
            return self._send(node_id, request, **options)
        answered = self._future()

        def failed(error: Any) -> None:
            self._unanswered(request, error)
            again = not isinstance(error, self._errors.UnsupportedVersionError)
            answered.failure(self._errors.KafkaConnectionError(str(error)) if again else error)

        self._manager.send(request, node_id=node_id, request_timeout_ms=self._answer_ms).add_callback(answered.success).add_errback(failed)
        return answered

    def _unanswered(self, request: Any, error: Any) -> None:
        log.debug("%s was not answered, and may arrive late: %s", type(request).__name__, error)
        self.possible = True
        self.inits += isinstance(request, self._init)

    def raise_epoch(self) -> None:
        """Between two transactions: shut out what may arrive late. Blocks. Raises kafka-python's
        errors."""
        manager = self._producer._transaction_manager
        manager._sequence_numbers.clear()
        manager._last_acked_offset.clear()
        self.possible = False
        if not ask_for_epoch(self._producer, "BUMPING_PRODUCER_EPOCH").wait(timeout_ms=self._producer.config["max_block_ms"]):
            self.possible = True
            raise self._errors.KafkaTimeoutError("the epoch could not be raised in time")
        log.debug("the epoch was raised, because a request of the transaction before may arrive late")

    def begin(self) -> None:
        """Begin a transaction that nothing late can reach. Blocks. Raises kafka-python's errors."""
        if self.possible:
            self.raise_epoch()
        self._producer.begin_transaction()


def ask_for_epoch(producer: Any, state: str) -> Any:
    """Have the coordinator raise the epoch of a producer's identity (KIP-360), by way of a state of
    kafka-python's. Returns what kafka-python waits for. Does not block."""
    transactions = green.module("kafka.producer.transaction_manager")
    manager = producer._transaction_manager
    with manager._lock:
        manager._transition_to(transactions.TransactionState[state])
        handler = transactions.InitProducerIdHandler(manager, manager.transaction_timeout_ms, is_epoch_bump=True)
        manager._enqueue_request(handler)
    producer._sender.wakeup()
    return handler.result
