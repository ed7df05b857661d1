"""The scheduler against a simple model of what order means."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.pipeline.scheduler import Scheduler
from tests.support import jobs
from tests.support.jobs import NobodyIdle


def partition_of(order: str, number: int = 0) -> Partition:
    if "batch" not in order:
        return jobs.partition_of(number=number, order=order)
    kept = "key" if "key" in order else "partition"
    batch = {"max_messages": 3, "max_wait": "1s", "by": "key" if kept == "key" else "partition"}
    return jobs.partition_of(number=number, order=kept, batch=batch)


def job_of(partition: Partition, offset: int, key: bytes | None = None) -> Job:
    return jobs.job_of(partition, offset, key=key)


def test_a_slow_key_does_not_hold_back_others() -> None:
    scheduler, partition = Scheduler(NobodyIdle()), partition_of("key")
    scheduler.add(partition, [job_of(partition, offset, b"slow" if offset < 5 else b"k%d" % offset) for offset in range(10)])
    taken = scheduler.take(lambda _: 64)
    assert [job.offset for job in taken] == [0, 5, 6, 7, 8, 9]
    assert scheduler.ready == 0
    assert scheduler.finish(taken[0])
    assert [job.offset for job in scheduler.take(lambda _: 64)] == [1]


def test_messages_without_a_key_keep_no_order() -> None:
    scheduler, partition = Scheduler(NobodyIdle()), partition_of("key")
    scheduler.add(partition, [job_of(partition, offset) for offset in range(5)])
    assert len(scheduler.take(lambda _: 64)) == 5


def test_a_key_without_waiting_work_costs_nothing() -> None:
    scheduler, partition = Scheduler(NobodyIdle()), partition_of("key")
    scheduler.add(partition, [job_of(partition, offset, b"k%d" % offset) for offset in range(1000)])
    for job in scheduler.take(lambda _: 2000):
        scheduler.finish(job)
    assert not partition.lanes
    assert not partition.ready
    assert not scheduler._turns


@pytest.mark.parametrize("order", ["none", "key", "partition"])
def test_a_flooded_partition_does_not_starve_another(order: str) -> None:
    scheduler = Scheduler(NobodyIdle())
    flooded, quiet = partition_of(order), partition_of(order, 1)
    scheduler.add(flooded, [job_of(flooded, offset, b"k%d" % offset) for offset in range(10_000)])
    scheduler.add(quiet, [job_of(quiet, 0, b"a")])
    blocks = [scheduler.take(lambda _: 10) for _ in range(2)]
    assert [job.partition for job in blocks[1]] == [quiet]


def test_what_is_put_back_comes_first_and_in_order() -> None:
    scheduler, partition = Scheduler(NobodyIdle()), partition_of("none")
    scheduler.add(partition, [job_of(partition, offset) for offset in range(6)])
    taken = scheduler.take(lambda _: 4)
    scheduler.put_back(taken[1:])
    assert [job.offset for job in scheduler.take(lambda _: 64)] == [1, 2, 3, 4, 5]
    assert partition.in_flight == 6


class History(RuleBasedStateMachine):
    """Random histories of arrivals, blocks, completions, returns and revocations, against what must
    hold."""

    @initialize(orders=st.lists(st.sampled_from(["none", "key", "partition", "batch key", "batch partition"]), min_size=1, max_size=4))
    def begin(self, orders: list[str]) -> None:
        self.scheduler = Scheduler(NobodyIdle())
        self.orders = orders
        self.partitions = [partition_of(order, number) for number, order in enumerate(orders)]
        self.next = [0] * len(orders)
        self.arrived: dict[Partition, list[Job]] = defaultdict(list)
        self.out: list[Job] = []
        self.begun: set[Job] = set()
        self.finished: set[Job] = set()

    @rule(data=st.data(), keys=st.lists(st.sampled_from([None, b"a", b"b", b"c"]), max_size=12))
    def arrive(self, data: Any, keys: list[bytes | None]) -> None:
        index = data.draw(st.integers(0, len(self.partitions) - 1))
        partition = self.partitions[index]
        came = [job_of(partition, self.next[index] + i, key) for i, key in enumerate(keys)]
        self.next[index] += len(keys)
        self.arrived[partition] += came
        self.scheduler.add(partition, came)

    @rule(most=st.integers(0, 5), shut=st.sets(st.integers(0, 3), max_size=2))
    def take(self, most: int, shut: set[int]) -> None:
        open_ = [p for p in self.partitions if p.ready and not p.aside and p.number not in shut]
        block = self.scheduler.take(lambda partition: 0 if partition.number in shut else most)
        assert bool(block) == bool(most and open_)
        assert len({job.partition for job in block}) <= 1
        batch = block[:1] and "batch" in self.orders[block[0].partition.number]
        assert not batch or len(block) <= min(most, 3)
        for index, job in enumerate(block):
            assert not job.partition.closing
            self.may_run(job, block[:index] if batch else [])
            self.out.append(job)

    @rule(number=st.integers(0, 3), waited=st.booleans())
    def formed(self, number: int, waited: bool) -> None:
        if number < len(self.partitions):
            left = self.scheduler.formed(self.partitions[number], math.inf if waited else -1.0)
            assert left is None or not waited

    @rule(data=st.data())
    def hold(self, data: Any) -> None:
        """The later ones of a batch go behind an earlier one that is tried again, as soon as the batch
        has come back: before any of them is finished."""
        lanes: dict[Any, list[Job]] = defaultdict(list)
        for job in sorted(self.out, key=lambda job: job.offset):
            if "batch" in self.orders[job.partition.number] and not job.partition.closing:
                lanes[(job.partition, job.lane)].append(job)
        done = {(job.partition, job.lane, job.offset) for job in self.finished}
        choices = [
            taken
            for (partition, lane), taken in lanes.items()
            if len(taken) > 1 and not any(other[:2] == (partition, lane) and other[2] > taken[0].offset for other in done)
        ]
        if choices:
            taken = data.draw(st.sampled_from(choices))
            rest = taken[data.draw(st.integers(1, len(taken) - 1)) :]
            self.scheduler.put_behind(rest)
            for job in rest:
                self.out.remove(job)
                self.begun.discard(job)

    @rule(number=st.integers(0, 3))
    def resume(self, number: int) -> None:
        if number < len(self.partitions):
            self.scheduler.resume(self.partitions[number])

    def may_run(self, job: Job, before: list[Job]) -> None:
        order = self.orders[job.partition.number].removeprefix("batch ")
        for other in self.arrived[job.partition]:
            same = other.key == job.key and (job.key is not None or order != "key") if order.startswith("key") else order == "partition"
            if same and other.offset < job.offset and other not in before:
                assert other in self.finished, f"{job} begins before {other} is finished"
            if same and other.offset > job.offset:
                assert other not in self.begun, f"{job} begins after {other}"
        self.begun.add(job)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        index = data.draw(st.integers(0, len(self.out) - 1))
        job = self.out.pop(index)
        before = self.scheduler.ready
        assert self.scheduler.finish(job) == (self.scheduler.ready > before)
        job.partition.in_flight -= 1
        self.finished.add(job)

    @precondition(lambda self: any(not job.partition.closing for job in self.out))
    @rule(data=st.data())
    def put_back(self, data: Any) -> None:
        later = [(job.partition, job.lane, job.offset) for job in self.begun if job.lane is not None]
        choices = [
            job  # of a batch: the later ones have been held behind it, as they are before it is tried again
            for job in self.out
            if not job.partition.closing and not any(other[:2] == (job.partition, job.lane) and other[2] > job.offset for other in later)
        ]
        if not choices:
            return
        job = data.draw(st.sampled_from(choices))
        self.out.remove(job)
        self.begun.discard(job)
        self.scheduler.put_back([job])

    @rule(data=st.data())
    def revoke(self, data: Any) -> None:
        index = data.draw(st.integers(0, len(self.partitions) - 1))
        partition = self.partitions[index]
        dropped = self.scheduler.drop(partition)
        partition.in_flight -= len(dropped)
        waiting = [job for job in self.arrived[partition] if job not in self.finished and job not in self.out]
        assert sorted(job.offset for job in dropped) == [job.offset for job in waiting]
        self.partitions[index] = partition_of(self.orders[index], index)
        self.next[index] = 0

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        turns = [p for p in self.partitions if p.ready and not p.aside]
        assert set(self.scheduler._turns) == set(turns)
        assert len(self.scheduler._turns) == len(turns)
        assert self.scheduler.ready == sum(len(p.ready) for p in turns)
        assert self.scheduler.waiting == sum(p.waiting for p in self.partitions)
        for partition in self.partitions:
            out = [job for job in self.out if job.partition is partition]
            assert partition.in_flight == len(out)
            assert partition.waiting == len(self.arrived[partition]) - len(out) - len(self.finished & set(self.arrived[partition]))
            assert partition.waiting == 0 or partition.ready or partition.forming or out, "jobs wait that nothing will ever wake"


History.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestHistory = History.TestCase
