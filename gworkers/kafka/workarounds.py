"""What kafka-python does wrongly, worked around on our side: each with the test that shows it.

This file knows the inside of kafka-python; gworkers/kafka/versions.py says of which versions.
"""

from __future__ import annotations

import contextlib
from typing import Any

from gworkers.kafka import green
from gworkers.kafka.errors import Kind, classify


def survive_refusals(producer: Any) -> None:
    """One record that the broker refuses must not end the producer.

    kafka-python 3.0 takes any refusal that no retry can help (a record too large for its topic, an
    invalid one) as fatal for an idempotent producer, and everything sent afterwards fails with the
    same error. Its own comment says what is right: fail that batch alone. The refused batch has
    used up sequence numbers that the broker has never seen, and an idempotent producer has one
    batch of a partition on its way at a time, so the next batch takes these numbers; this is what
    Java's client did up to 2.4 and what kafka-python itself does when it splits a batch.

    Seen by: test_a_result_that_the_broker_refuses_for_good_is_dead_lettered.
    """
    manager = producer._transaction_manager
    if manager is None or manager.is_transactional():
        return
    classify = manager.classify_batch_error

    def classify_batch_error(error: Any, batch: Any, log_start_offset: int = -1) -> Any:
        found = classify(error, batch, log_start_offset=log_start_offset)
        kind = error if isinstance(error, type) else type(error)
        if found != manager.ERROR_CLASS_FATAL or kind in manager._FATAL_ERRORS:
            return found
        sequence = batch.records.base_sequence
        if sequence is not None and sequence >= 0:
            manager.set_sequence_number(batch.topic_partition, sequence)
        return manager.ERROR_CLASS_RETRIABLE  # which is, at this point: fail the batch and nothing else

    manager.classify_batch_error = classify_batch_error


def read_to_the_end() -> None:
    """What a broker says before it closes a connection must be heard.

    kafka-python 3.0 drops what it reads together with the end of the connection. A broker that
    refuses a login says why and closes, so that all one sees is "socket disconnected"; an
    acknowledgement is lost in the same way.

    Seen by: test_why_a_secured_broker_cannot_be_used_is_said_at_once (wrong password).
    """
    transport = green.module("kafka.net.transport")
    for cls in (transport.KafkaTCPTransport, transport.KafkaSSLTransport):
        receive = cls._sock_recv
        if getattr(receive, "to_the_end", False):
            continue

        def _sock_recv(self: Any, receive: Any = receive) -> tuple[bytes, Any]:
            error = self.__dict__.pop("gworkers_error", None)
            if error is not None:
                return b"", error
            data, error = receive(self)
            if data and error is not None:
                self.gworkers_error = error  # for the next call, which comes at once: the socket is readable at its end
                return data, None
            return data, error

        _sock_recv.to_the_end = True  # type: ignore[attr-defined]
        cls._sock_recv = _sock_recv


def end_quietly(producer_class: Any) -> None:
    """A producer that was given up must not write a stack trace to standard error when it is
    collected.

    kafka-python 3.0 closes a producer once more in its ``__del__``, and closing raises where its
    connections do not end in time.

    Seen by: test_a_broker_that_is_long_away_is_waited_for.
    """
    end = producer_class.__del__
    if getattr(end, "quiet", False):
        return

    def end_if_it_can(self: Any) -> None:
        with contextlib.suppress(Exception):
            end(self)

    end_if_it_can.quiet = True  # type: ignore[attr-defined]
    producer_class.__del__ = end_if_it_can


def blame_only_the_refused(producer: Any) -> None:
    """When a record is refused, the others of its transaction must not seem to be refused for the
    same reason.

    kafka-python 3.0 fails every batch that is not yet on its way with the error of the one that was
    refused.

    Seen by: test_a_result_that_the_broker_refuses_takes_no_other_with_it.
    """
    accumulator = producer._accumulator
    abort = accumulator.abort_undrained_batches

    def abort_undrained_batches(error: Any) -> None:
        if classify(error) in (Kind.RECORD_REFUSED, Kind.RECORD_TOO_LARGE):
            error = green.module("kafka.errors").TransactionAbortedError()
        abort(error)

    accumulator.abort_undrained_batches = abort_undrained_batches


def lose_no_request(producer: Any) -> None:
    """A request about a transaction must not be lost because a broker cannot be reached.

    kafka-python 3.0 asks whether a broker is ready and expects yes or no; the answer it gets is yes
    or an error, upon which it forgets the request that it was to send, and the transaction waits
    for its answer for ever.

    Seen by: the chaos rounds "transaction coordinator killed".
    """
    client = producer._sender._client
    await_ready = client.await_ready

    def ready_or_not(*args: Any, **kwargs: Any) -> bool:
        try:
            return bool(await_ready(*args, **kwargs))
        except green.module("kafka.errors").KafkaConnectionError:
            return False

    client.await_ready = ready_or_not


def hand_out_what_was_parked(consumer: Any) -> None:
    """A partition that was paused and resumed must be read on.

    kafka-python 3.0 parks what it has fetched of a paused partition, and takes it up again only
    while it has no batch in hand. A batch that has been handed out to its end stays in hand until
    another one comes, and where all that is left is parked, none ever comes.

    Seen by: test_a_stuck_lane_does_not_starve_other_partitions_of_the_buffer.
    """
    fetcher = consumer._fetcher
    fetched = fetcher.fetched_records

    def fetched_records(*args: Any, **kwargs: Any) -> Any:
        if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
            fetcher._next_partition_records = None
        return fetched(*args, **kwargs)

    fetcher.fetched_records = fetched_records


def finish_the_join(consumer: Any) -> None:
    """A join that has begun must be seen through.

    A ``poll()`` whose time is up in the middle of a join returns, and kafka-python 3.0 is to go on
    with the next one. But when the leader of the group joined because a topic has grown, it sees no
    more reason to join then, takes no notice of what it was assigned, sends no heartbeats, and is
    thrown out of the group without knowing.

    Seen by: the chaos rounds "partitions added".
    """
    coordinator = consumer._coordinator
    if coordinator is None:
        return
    need_rejoin = coordinator.need_rejoin
    coordinator.need_rejoin = lambda: coordinator._join_task is not None or need_rejoin()


def go_on_from_the_whole_commit(consumer: Any) -> None:
    """A committed offset says which leader wrote the record before it, and a log that has lost its end
    since is noticed by that (KIP-320).

    kafka-python 3.0 goes on from the bare number. Where the log has grown past it again, all that was
    written in between is passed over, without a word.

    Seen by: test_a_log_that_lost_its_end_is_read_from_where_it_differs.
    """
    coordinator = consumer._coordinator
    errors = green.module("kafka.errors")

    async def refresh(timeout_ms: Any = None) -> bool:
        missing = set(coordinator._subscription.missing_fetch_positions())
        try:
            offsets = await coordinator.fetch_committed_offsets_async(missing, timeout_ms=timeout_ms)
        except errors.KafkaTimeoutError:
            return False
        for partition, committed in offsets.items():
            coordinator._subscription.seek(partition, committed)
        return True

    coordinator.refresh_committed_offsets_if_needed_async = refresh


def forget_what_was_revoked(consumer: Any) -> None:
    """A partition that was revoked and comes back begins at what the group has committed.

    Assignors that give all partitions up at a rebalance (eager) may give one back to the member that
    had it. kafka-python 3.0 tells the listener that it was revoked, and goes on where it had read to:
    what was read before and is not committed is nobody's then. Java's client forgets it, too.

    Seen by: test_what_outlasts_a_rebalance_runs_again_whoever_gets_its_partition.
    """
    coordinator, subscription = consumer._coordinator, consumer._subscription
    eager = green.module("kafka.coordinator.assignors.abstract").RebalanceProtocol.EAGER
    assign = subscription.assign_from_subscribed

    def assign_from_subscribed(assignments: Any) -> None:
        if coordinator._rebalance_protocol == eager:
            assign([])
        assign(assignments)

    subscription.assign_from_subscribed = assign_from_subscribed


def claim_only_what_is_owned(consumer: Any) -> None:
    """Whoever joins the group must not say that it owns what it has lost.

    With the cooperative protocol a member tells what it owns, and what nobody else owns may be
    given to it at once. kafka-python 3.0 tells what it was assigned last, also after it has lost
    that. The leader then believes two owners and takes the partition from the one that works on it
    while it gives it to the other: for a moment both have it.

    Seen by: the chaos rounds "SIGSTOP" with exactly-once.
    """
    coordinator = consumer._coordinator
    if coordinator is None:
        return
    assignor = coordinator._assignors.get("cooperative-sticky")
    if assignor is None:
        return
    metadata = assignor.metadata

    def of_what_is_owned(topics: Any) -> Any:
        assignor.member_assignment = list(consumer._subscription.assigned_partitions())
        return metadata(topics)

    assignor.metadata = of_what_is_owned
