"""Where handlers run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import gevent
import pytest

from gworkers.config.route import Route as RouteConfig
from gworkers.handlers.block import Block
from gworkers.handlers.executor import ThreadExecutor
from gworkers.handlers.hooks import Hooks
from gworkers.handlers.job import Job
from gworkers.handlers.routes import Route
from gworkers.offsets.journal import NoJournal
from tests.support.jobs import job_of, partition_of


@pytest.fixture
def threads() -> Iterator[ThreadExecutor]:
    executor = ThreadExecutor(4, NoJournal(), Hooks(), lambda error: None)
    executor.start()
    yield executor
    executor.stop()


def block_of(handle: Callable[[Job], None], count: int = 1, timeout: str | None = None) -> Block:
    route = Route("r", RouteConfig.model_validate({"topics": ["in"], "handler": "a:b", "timeout": timeout}), handle)
    partition = partition_of(route)
    return Block(route, [job_of(partition, offset) for offset in range(count)])


def test_handlers_run_on_native_threads_and_the_hub_goes_on(threads: ThreadExecutor) -> None:
    go_on, where = threading.Event(), []

    def handle(job: Job) -> None:
        where.append(threading.get_ident())
        assert go_on.wait(10)

    block = block_of(handle)
    worker = gevent.spawn(threads.run, block)
    turns = 0
    while not where:
        turns += 1
        gevent.sleep(0.001)
    assert turns
    assert where[0] != threading.get_ident()
    go_on.set()
    worker.join(10)
    assert [job.offset for job in block.done] == [0]


def test_many_blocks_come_back_each_to_its_own_greenlet(threads: ThreadExecutor) -> None:
    def work(_: int) -> None:
        for _ in range(50):
            block = block_of(lambda job: None, 3)
            threads.run(block)
            assert len(block.done) == 3
            assert block.busy > 0

    workers = [gevent.spawn(work, number) for number in range(20)]
    gevent.joinall(workers, timeout=30, raise_error=True)
    assert all(worker.successful() for worker in workers)


def test_what_has_not_begun_can_be_taken_back_in_order(threads: ThreadExecutor) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handle(job: Job) -> None:
        begun.set()
        assert go_on.wait(10)

    block = block_of(handle, 5)
    worker = gevent.spawn(threads.run, block)
    while not begun.is_set():
        gevent.sleep(0.001)
    back = block.reclaim()
    go_on.set()
    worker.join(10)
    assert [job.offset for job in back] == [1, 2, 3, 4]
    assert [job.offset for job in block.done] == [0]


def test_a_thread_that_waits_for_another_gets_its_turn(threads: ThreadExecutor) -> None:
    """Four handlers that meet at a barrier: they can only end when all four run at once."""
    barrier = threading.Barrier(4)

    def handle(job: Job) -> None:
        barrier.wait(10)

    blocks = [block_of(handle) for _ in range(4)]
    gevent.joinall([gevent.spawn(threads.run, block) for block in blocks], timeout=20, raise_error=True)
    assert all(len(block.done) == 1 for block in blocks)


def test_the_hub_is_woken_again_after_a_pause(threads: ThreadExecutor) -> None:
    for _ in range(5):
        block = block_of(lambda job: time.sleep(0.02))
        worker = gevent.spawn(threads.run, block)
        worker.join(10)
        assert len(block.done) == 1
