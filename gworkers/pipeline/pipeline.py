"""The stages put together: wiring, life, and what is to be seen of it.

    consumer ─► scheduler ─► workers ─► runner ─► outcomes ─► delivery ─► producer
        ▲           ▲                                │ error      └─ settled: lane, offset, ledger
        └─ ledger   └──────────── retries ◄──────────┘

What each stage does stands at the head of its file. Everything runs on the hub's thread; handlers
alone run in the executor. A job ends where it is settled (gworkers.pipeline.delivery) or given back
(gworkers.pipeline.ledger).
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Protocol

import gevent

from gworkers.config.schema import Config
from gworkers.events import Counts, Events
from gworkers.handlers.executor import Executor
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.handlers.routes import Route
from gworkers.handlers.stacks import Standing, standing
from gworkers.kafka.protocols import Group, ProducerClient, TopicPartition, TransactionalClient
from gworkers.loop import Fatal
from gworkers.offsets.finished import Noting
from gworkers.pipeline.assignments import Assignments
from gworkers.pipeline.committer import Committer, OffsetBuilder
from gworkers.pipeline.consumer import Consumer
from gworkers.pipeline.delivery import AtLeastOnce, Delivery
from gworkers.pipeline.exactly_once import ExactlyOnce
from gworkers.pipeline.idle import Idle
from gworkers.pipeline.interventions import Interventions
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.moves import Moves
from gworkers.pipeline.outcomes import Outcomes
from gworkers.pipeline.pacing import Pacing
from gworkers.pipeline.pauses import Pauses
from gworkers.pipeline.quarantine import Quarantine, Suspicions
from gworkers.pipeline.rebalance import Rebalance
from gworkers.pipeline.retries import Retries
from gworkers.pipeline.runner import Runner
from gworkers.pipeline.scheduler import Scheduler
from gworkers.pipeline.snapshot import LimitSnapshot, OldestSnapshot, PartitionSnapshot, RouteSnapshot, Snapshot
from gworkers.pipeline.steering import Steering
from gworkers.pipeline.time_keeper import TimeKeeper
from gworkers.pipeline.worker import Workers

#: Seconds between two attempts at the last commit, and how long each may take.
LAST_COMMIT_INTERVAL = 0.05
LAST_COMMIT_TIMEOUT = 1.0


class Connections(Protocol):
    """A pipeline's clients, made when they are asked for: a member of the group, and the producer
    that its delivery needs."""

    @property
    def group(self) -> Group: ...

    @property
    def producer(self) -> ProducerClient: ...

    @property
    def transactions(self) -> TransactionalClient: ...


class Pipeline:
    """Built by the server from a configuration, its routes, and clients. workers: how many
    greenlets take blocks."""

    def __init__(
        self,
        config: Config,
        routes: list[Route],
        executor: Executor,
        workers: int,
        connections: Connections,
        suspects: Suspicions,
        notes: Noting,
        fatal: Fatal,
    ) -> None:
        self._started = self._connected_at = time.monotonic()
        self._quiet = False
        self.concurrency = config.first_concurrency  # as it is now
        self._workers_each = max(1, workers // config.first_concurrency)
        self.events = events = Events()
        self._counts = Counts(events)
        self._group = group = connections.group
        self._partitions: dict[TopicPartition, Partition] = {}
        self._ledger = ledger = Ledger(config.buffer.messages, config.buffer.bytes)
        self._scheduler = scheduler = Scheduler(idle := Idle())
        pacing = Pacing(routes, config.limits, scheduler, fatal)
        self._delivery = delivery = _delivery(config, connections, self._partitions, notes, scheduler, ledger, events, fatal)
        self._retries = retries = Retries(scheduler, fatal)
        self._outcomes = outcomes = Outcomes(config, delivery, scheduler, retries, ledger, events, fatal)
        self._routes, self._pacing = routes, pacing
        self._runner = runner = Runner(executor, scheduler, pacing, outcomes)
        self._quarantine = quarantine = Quarantine(suspects, config.poison.deaths, runner, pacing, outcomes, ledger, events, fatal)
        self.pauses = pauses = Pauses(self._partitions, scheduler)
        self._workers = Workers(workers, idle, scheduler, pacing, pauses, runner, quarantine, fatal)
        self.time_keeper = TimeKeeper(routes, runner, self._workers, scheduler, ledger, events, fatal, max_stuck=config.max_stuck_handlers)
        self._steering: Steering | None = None
        if (steered := config.steered) is not None:
            self._steering = Steering(steered, routes, runner, scheduler, lambda: self.time_keeper.cores, self._steer, fatal)
        assignments = Assignments(group, self._partitions, routes, (scheduler, retries, quarantine), delivery, ledger, notes, events)
        self._moves = moves = Moves(group, self._partitions, assignments, delivery)
        self.interventions = Interventions(self._partitions, runner, retries, outcomes, scheduler, self.time_keeper, moves)
        patient = config.delivery == "exactly-once"
        rebalance = Rebalance(group, assignments, delivery, grace=config.rebalance.grace, patient=patient)
        self._consumer = Consumer(group, config.kafka.group, assignments, rebalance, pauses, moves, scheduler, ledger, fatal)

    # -- life

    def start(self) -> None:
        """Start from the end to the beginning, so that whoever hands something on finds somebody to
        take it."""
        self._delivery.start()
        self._outcomes.start()
        self._retries.start()
        self._runner.executor.start()
        self._workers.start()
        self.time_keeper.start()
        self._quarantine.start()
        if self._steering is not None:
            self._steering.start()
        self._consumer.start()
        self.events.started.send()

    def drain(self) -> None:
        """Begin nothing new. ``unsettled`` falls to 0 as what runs is acknowledged."""
        if self._steering is not None:
            self._steering.stop()
        self._consumer.drain()
        self._workers.stop()

    def stop(self, timeout: float) -> bool:
        """Stop in the order of the way: commit what is settled, leave the group, close the
        producer. Blocks; True when all is committed."""
        self._workers.kill()
        self.time_keeper.stop()
        self._quarantine.stop()
        self._retries.stop()
        committed = self._commit_for_good(timeout)
        self._delivery.stop_committing()
        self._consumer.stop(timeout)
        self._outcomes.stop()
        self._delivery.stop(timeout)
        self._runner.executor.stop()
        return committed

    def _commit_for_good(self, timeout: float) -> bool:
        """While the group rebalances it takes no commits, so polling goes on until it has."""
        deadline = time.monotonic() + timeout
        while not self._delivery.commit(LAST_COMMIT_TIMEOUT):
            if time.monotonic() > deadline or self._consumer.dead or self._delivery.over:
                return False
            gevent.sleep(LAST_COMMIT_INTERVAL)
        return True

    def resize(self, concurrency: int) -> None:
        """Have so many handlers run at once from now on; what runs goes on. Raises
        TooFewThreadsError."""
        self._runner.executor.resize(concurrency)
        self._have_workers(concurrency)
        if self._steering is not None:
            self._steering.hold(concurrency)

    def find_concurrency(self) -> bool:
        """Go on to find it after it has been set. False when it is fixed."""
        if self._steering is not None:
            self._steering.release()
        return self._steering is not None

    def bound(self, most: int) -> None:
        """No more handlers than this can run at once here."""
        if self._steering is not None:
            self._steering.bound(most)

    def _steer(self, concurrency: int) -> None:
        self._runner.executor.resize(concurrency, keep=True)
        self._have_workers(concurrency)

    def _have_workers(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self._workers.resize(concurrency * self._workers_each)

    def quiet(self, quiet: bool) -> bool:
        """Begin nothing and stay a member of the group, or go on. False when it was so before."""
        if quiet == self._quiet:
            return False
        self._quiet = quiet
        if quiet:
            self._runner.hold()
        else:
            self._runner.resume()
        return True

    # -- what is to be seen

    @property
    def standing(self) -> list[Standing]:
        """Where each handler stands."""
        return list(standing(self._runner.blocks))

    @property
    def unsettled(self) -> int:
        """Messages that have been begun and not settled."""
        return self._delivery.uncommitted + sum(partition.in_flight for partition in self._partitions.values())

    @property
    def over(self) -> bool:
        """Whether nothing will be settled any more, so that there is nothing to wait for."""
        return self._delivery.over

    @property
    def running(self) -> list[Job]:
        """The jobs in the hands of the executor."""
        return self._runner.jobs

    def snapshot(self) -> Snapshot:
        """Everything that is shown of this pipeline, as it is now. Does not block; O(partitions)."""
        now = time.monotonic()
        counts, runner, consumer = self._counts, self._runner, self._consumer
        partitions = tuple(self._partition(tp, partition) for tp, partition in self._partitions.items())
        unread = [None if p.end is None or p.position is None else max(0, p.end - p.position) for p in partitions]
        backlog = None if None in unread else sum(count or 0 for count in unread)
        running = runner.running
        connected, trouble = self._group.connected, self._group.trouble
        if connected:
            self._connected_at = now
        return Snapshot(
            uptime=now - self._started,
            concurrency=self.concurrency,
            steering=self._steering.snapshot if self._steering is not None else None,
            partitions=partitions,
            routes=self._route_snapshots(),
            limits=tuple(LimitSnapshot(*one) for one in self._pacing.limits),
            polled=consumer.polled,
            skipped=consumer.skipped,
            done=self._delivery.done,
            sent=self._delivery.sent,
            retried=counts.retried,
            dead_lettered=counts.dead_lettered,
            passed_over=counts.passed_over,
            fenced=counts.fenced,
            stuck=counts.stuck,
            commits=counts.commits,
            commit_times=self._delivery.commits,
            joins=self._group.membership.joins,
            hub_delay=self.time_keeper.late.times,
            cores=self.time_keeper.cores,
            aborted=counts.aborted,
            busy=runner.busy,
            running=running,
            waiting=self._scheduler.waiting + len(self._quarantine) + max(0, runner.taken - running),
            retrying=len(self._retries),
            unsettled=self.unsettled,
            uncommitted=self._delivery.uncommitted,
            results_wait=self._delivery.waiting_for,
            buffered_messages=self._ledger.messages,
            buffered_bytes=self._ledger.bytes,
            backlog=backlog,
            lag=None if backlog is None else backlog + sum(len(partition.offsets) for partition in self._partitions.values()),
            last_poll_age=now - consumer.last_poll,
            last_message_age=now - consumer.last_message,
            connected=connected,
            away=now - self._connected_at,
            trouble=trouble.text if trouble is not None else None,
            refused=trouble is not None and trouble.refused,
            joined=self._group.membership.joined(),
            quiet=self._quiet,
            paused=tuple(map(str, self.pauses.selections)),
            oldest=self._oldest(),
        )

    def _route_snapshots(self) -> tuple[RouteSnapshot, ...]:
        running = Counter(block.route for block in self._runner.blocks if block.slot is not None)
        return tuple(
            RouteSnapshot(
                name=route.name,
                received=found.received,
                done=found.done,
                rate=found.rate,
                retried=found.retried,
                dead_lettered=found.dead_lettered,
                failed=dict(found.failed),
                running=running[route],
                handler=found.handler.times,
                queue=found.queue.times,
                end_to_end=found.end_to_end.times,
                held=found.held.times,
            )
            for route in self._routes
            if (found := route.figures)
        )

    def _why_paused(self, partition: Partition) -> str | None:
        """A word of PAUSED."""
        if self.pauses.has(partition):
            return "operator"
        if partition.held:
            return "oversized"
        if self._moves.has(partition):
            return "moving"
        if partition.closing:
            return "leaving"
        return "buffer" if partition.paused else None

    def _oldest(self) -> OldestSnapshot | None:
        """What has run for the longest time."""
        running = [(block.started, slot.job) for block in self._runner.blocks if (slot := block.slot) is not None and slot.job is not None]
        if not running:
            return None
        since, job = min(running, key=lambda one: one[0])
        topic, partition, offset = job.source
        return OldestSnapshot(job.partition.route.name, topic, partition, offset, time.perf_counter() - since)

    def _partition(self, tp: TopicPartition, partition: Partition) -> PartitionSnapshot:
        offsets, end = partition.offsets, self._group.end(tp)
        known = end is not None and offsets.next is not None
        lag = max(0, (end or 0) - (offsets.next or 0)) + len(offsets) if known else None
        return PartitionSnapshot(
            topic=partition.topic,
            partition=partition.number,
            route=partition.route.name,
            position=offsets.next,
            finished=offsets.position,
            ahead=offsets.ahead,
            end=end,
            lag=lag,
            waiting=partition.waiting,
            in_flight=partition.in_flight,
            buffered_bytes=partition.buffered,
            lag_seconds=partition.age(time.time()) if lag else 0.0 if lag is not None else None,
            paused=self._why_paused(partition),
            held=partition.held,
        )


def _delivery(
    config: Config,
    connections: Connections,
    partitions: dict[TopicPartition, Partition],
    notes: Noting,
    scheduler: Scheduler,
    ledger: Ledger,
    events: Events,
    fatal: Fatal,
) -> Delivery:
    group = connections.group
    if config.delivery == "exactly-once":
        return ExactlyOnce(connections.transactions, group, partitions, config, scheduler, ledger, events, fatal)
    builder = OffsetBuilder(group, events, with_map=config.commit.map)
    committer = Committer(group, partitions, builder, notes, config.commit.interval, fatal)
    return AtLeastOnce(connections.producer, group, committer, notes, scheduler, ledger, events, fatal)
