"""The ledger over random lives of jobs: never negative, and zero when nothing is left."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gworkers.handlers.job import Job
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.scheduler import Scheduler
from tests.support import jobs
from tests.support.jobs import NobodyIdle


class Lives(RuleBasedStateMachine):
    """Jobs are admitted, taken, grow, are freed, released, given back or revoked, with the real
    scheduler beside the ledger."""

    @initialize(count=st.integers(1, 3), order=st.sampled_from(["none", "key", "partition"]))
    def begin(self, count: int, order: str) -> None:
        self.ledger = Ledger(1000, 100_000)
        self.scheduler = Scheduler(NobodyIdle())
        self.partitions = [jobs.partition_of(number=number, order=order) for number in range(count)]
        self.gone: list[Any] = []
        self.next = 0
        self.out: list[Job] = []
        self.freed: list[Job] = []

    def pick(self, data: Any, among: list[Job]) -> Job:
        return among.pop(data.draw(st.integers(0, len(among) - 1)))

    @rule(data=st.data(), sizes=st.lists(st.integers(0, 500), min_size=1, max_size=6))
    def admit(self, data: Any, sizes: list[int]) -> None:
        partition = data.draw(st.sampled_from(self.partitions))
        came = [jobs.job_of(partition, self.next + index, key=b"k%d" % (size % 3), size=size) for index, size in enumerate(sizes)]
        self.next += len(came)
        self.ledger.admit(partition, len(came), sum(sizes))
        self.scheduler.add(partition, came)

    @rule(most=st.integers(1, 4))
    def take(self, most: int) -> None:
        self.out += self.scheduler.take(lambda _: most)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), size=st.integers(0, 1000))
    def grow(self, data: Any, size: int) -> None:
        self.ledger.grow(data.draw(st.sampled_from(self.out)), size)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def free(self, data: Any) -> None:
        job = self.pick(data, self.out)
        self.scheduler.finish(job)
        self.ledger.free((job,))
        self.freed.append(job)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def settle(self, data: Any) -> None:
        job = self.pick(data, self.out)
        self.scheduler.finish(job)
        self.ledger.release((job,))

    @precondition(lambda self: self.freed)
    @rule(data=st.data(), back=st.booleans())
    def end_of_a_transaction(self, data: Any, back: bool) -> None:
        job = self.pick(data, self.freed)
        (self.ledger.give_back if back else self.ledger.release)((job,))

    @precondition(lambda self: len(self.out) > 1)
    @rule(data=st.data())
    def give_back_with_a_follower(self, data: Any) -> None:
        first, second = self.pick(data, self.out), self.pick(data, self.out)
        first.followers = (second,)
        self.ledger.give_back((first,))

    @rule(data=st.data())
    def revoke(self, data: Any) -> None:
        partition = self.partitions.pop(data.draw(st.integers(0, len(self.partitions) - 1)))
        self.ledger.give_back(self.scheduler.drop(partition))
        self.gone.append(partition)
        self.partitions.append(jobs.partition_of(partition.route, partition.number))

    @invariant()
    def figures_are_those_of_the_jobs(self) -> None:
        if not hasattr(self, "ledger"):
            return
        everywhere = [*self.partitions, *self.gone]
        assert self.ledger.messages == self.scheduler.waiting + len(self.out)
        assert self.ledger.bytes == sum(partition.buffered for partition in everywhere)
        for partition in everywhere:
            out = [job for job in self.out if job.partition is partition]
            freed = [job for job in self.freed if job.partition is partition]
            assert partition.in_flight == len(out)
            assert partition.buffered >= sum(job.size for job in (*out, *freed)) >= 0
            if not out and not freed and not partition.waiting:
                assert partition.buffered == 0

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for partition in self.partitions:
            self.ledger.give_back(self.scheduler.drop(partition))
        self.ledger.give_back(self.out)
        self.ledger.release(self.freed)
        assert (self.ledger.messages, self.ledger.bytes) == (0, 0)
        assert not any(partition.buffered or partition.in_flight for partition in (*self.partitions, *self.gone))


Lives.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestLives = Lives.TestCase


def test_whoever_makes_room_wakes_the_poller() -> None:
    import gevent

    ledger, partition = Ledger(10, 1000), jobs.partition_of()
    held = [jobs.job_of(partition, offset, size=10) for offset in range(10)]
    ledger.admit(partition, 10, 100)
    partition.in_flight = 10
    assert ledger.room == 0
    woken: list[bool] = []

    def wait() -> None:
        ledger.wait_for_room(30)
        woken.append(True)

    waiter = gevent.spawn(wait)
    gevent.sleep(0)
    ledger.release(held[:2])
    gevent.sleep(0)
    assert not woken, "a quarter must be free before reading goes on"
    ledger.release(held[2:3])
    waiter.join(5)
    assert woken
