"""Where handlers run: in native threads, or in the worker's own greenlet.

Both executors have one verb for workers, ``run(block)``: it blocks the calling greenlet until no job of the block is left
to run. Each job has then ``rows`` or ``error`` set and stands in ``block.done``, unless it was reclaimed in time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from queue import SimpleQueue
from typing import Any, Protocol

import gevent
import gevent.hub
from gevent.threadpool import ThreadPool

from gworkers import log_context
from gworkers.config.units import format_duration
from gworkers.message import HandlerTimeout
from gworkers.pipeline.job import Job
from gworkers.pipeline.journal import Records
from gworkers.pipeline.routes import Route
from gworkers.pipeline.time_limits import Limit

#: How long one greenlet or callback may keep the hub before it lets the others have a turn, seconds.
HUB_TURN = 0.003

#: While blocks finish one after the other the hub looks for them this often, in seconds.
TICK = 0.001


class Block:
    """Jobs of one route on their way through one hop.

    ``todo`` is emptied from the left by whoever runs the block and may be emptied from the right by the hub
    (``reclaim``): both ends of a deque are safe to take from two threads. ``done`` grows as jobs finish.
    """

    __slots__ = ("abandoned", "busy", "done", "route", "seen", "slot", "started", "todo", "waiter")

    def __init__(self, route: Route, jobs: list[Job]) -> None:
        self.route = route
        self.todo = deque(jobs)
        self.done: list[Job] = []
        self.seen = 0  # how many of done the hub has dealt with
        self.started = 0.0  # time.perf_counter() when its first job began
        self.busy = 0.0  # seconds its handlers took together
        self.slot: log_context.Slot | None = None  # of the thread or greenlet that runs it
        self.waiter: Any = None  # the greenlet that waits for it, or runs it
        self.abandoned = False  # its thread has been given up: what comes of it counts no more

    @property
    def unfinished(self) -> list[Job]:
        """What is running and what has not begun."""
        slot = self.slot
        running = slot.job if slot is not None else None
        return [*([running] if running is not None and running not in self.done else []), *self.todo]

    def reclaim(self) -> list[Job]:
        """Take back what has not begun, in order: the job before it turned out to be slow."""
        jobs: list[Job] = []
        while True:
            try:
                jobs.append(self.todo.pop())
            except IndexError:
                jobs.reverse()
                return jobs

    def run(self, slot: log_context.Slot) -> None:
        """Run the jobs one after the other, on the thread or greenlet of ``slot``."""
        if self.route.timeout is not None:
            self._run_limited(slot, self.route.timeout)
            return
        handle, take, finished = self.route.handle, self.todo.popleft, self.done.append
        begun = self.started = time.perf_counter()
        self.slot = slot
        running, at = self._enter(slot)
        while True:
            try:
                job = take()
            except IndexError:
                break
            slot.job = job
            running[at] = job.offset
            handle(job)
            if _forked:
                _end_child(job)
            finished(job)
        running[at] = -1
        slot.job = self.slot = None
        self.busy = time.perf_counter() - begun

    def _enter(self, slot: log_context.Slot) -> tuple[Any, int]:
        """Note in the journal whose messages these are; where each of them is noted."""
        with contextlib.suppress(IndexError):  # nothing is left of it: the hub has taken all of it back
            slot.records.enter(slot.at, self.todo[0].partition)
        return slot.records.offsets, slot.at

    def _run_limited(self, slot: log_context.Slot, timeout: float) -> None:
        """``run`` for a route with a time limit: 0.5 µs a message more."""
        handle, take, finished = self.route.handle, self.todo.popleft, self.done.append
        begun = self.started = time.perf_counter()
        limit = slot.limit = slot.limit or Limit()
        self.slot = slot
        running, at = self._enter(slot)
        while True:
            try:
                job = take()
            except IndexError:
                break
            slot.job = job
            running[at] = job.offset
            try:
                slot.deadline = limit.begin() + timeout
                handle(job)
                ours = limit.end()
            except HandlerTimeout as error:  # raised between the handler and the end
                ours = limit.end()
                job.rows, job.error = None, error
            if _forked:
                _end_child(job)
            if not ours:
                break
            if isinstance(job.error, HandlerTimeout):
                job.error.args = (over_limit(timeout),)
            finished(job)
        running[at] = -1
        slot.job = slot.deadline = None
        if not self.abandoned:
            self.slot = None
            self.busy = time.perf_counter() - begun

    def abandon(self) -> None:
        """Speak for the running job in its thread's place: it has failed."""
        assert self.slot is not None
        assert self.slot.job is not None
        self.abandoned = True
        job = self.slot.job.again()
        job.error = HandlerTimeout(f"{over_limit(self.route.timeout or 0)}, and did not end when it was told to")
        self.slot = None
        self.busy = time.perf_counter() - self.started
        self.done.append(job)


class Batch(Block):
    """Jobs that are handed to the handler together: none of them is begun, or all are."""

    __slots__ = ("handed", "jobs", "whole")

    def __init__(self, route: Route, jobs: list[Job]) -> None:
        super().__init__(route, [])
        self.jobs = jobs
        self.handed = [job for job in jobs if job.rows is None and job.error is None]  # the others are through with the handler
        self.whole: list[Job] = []  # those that failed because the batch did

    @property
    def unfinished(self) -> list[Job]:
        return [] if self.done else self.jobs

    def run(self, slot: log_context.Slot) -> None:
        jobs, timeout, handle = self.jobs, self.route.timeout, self.route.handle_batch
        assert handle is not None
        begun = self.started = time.perf_counter()
        limit = slot.limit = slot.limit or Limit()
        self.slot = slot
        slot.records.enter(slot.at, jobs[0].partition)
        running, at = slot.records.offsets, slot.at
        slot.job = jobs[0]
        running[at + 1] = max(job.offset for job in jobs)
        running[at] = min(job.offset for job in jobs)
        ours = True
        if timeout is None:
            self.whole = handle(jobs)
        else:
            try:
                slot.deadline = limit.begin() + timeout
                self.whole = handle(jobs)
                ours = limit.end()
            except HandlerTimeout as error:  # raised between the handler and the end
                ours = limit.end()
                self.whole = self.handed
                for job in self.handed:
                    job.rows, job.error = None, error
        if _forked:
            _end_child(jobs[0])
        if ours:
            for job in self.whole:
                if timeout is not None and isinstance(job.error, HandlerTimeout):
                    job.error.args = (over_limit(timeout),)
            self.done.extend(jobs)
        running[at] = running[at + 1] = -1
        slot.job = slot.deadline = None
        if not self.abandoned:
            self.slot = None
            self.busy = time.perf_counter() - begun

    def abandon(self) -> None:
        self.abandoned = True
        error = HandlerTimeout(f"{over_limit(self.route.timeout or 0)}, and did not end when it was told to")
        self.whole = [job.again() for job in self.handed]
        anew = dict(zip(self.handed, self.whole, strict=True))
        self.jobs = jobs = [anew.get(job, job) for job in self.jobs]
        for job in self.whole:
            job.error = error
        self.slot = None
        self.busy = time.perf_counter() - self.started
        self.done.extend(jobs)


_forked = False  # True in a child process that a handler has forked


def watch_forks() -> None:
    """From now on a child that a handler forks, and that comes back from the handler, ends there: it is no second server."""
    os.register_at_fork(after_in_child=_mark_child)


def _mark_child() -> None:
    global _forked
    _forked = True


def _end_child(job: Job) -> None:
    code = job.error.code if isinstance(job.error, SystemExit) else int(job.error is not None)
    os._exit(code if isinstance(code, int) else int(code is not None))


def over_limit(timeout: float) -> str:
    return f"the handler took longer than its timeout of {format_duration(timeout)}"


class Executor(Protocol):
    stuck: set[Block]  # whose threads or greenlets have been given up and have not ended
    replaces_workers: bool  # handlers run in the workers' own greenlets, so a stuck one takes a worker with it

    def start(self) -> None: ...

    def run(self, block: Block) -> None: ...

    def interrupt(self, block: Block, limit: Limit) -> None:
        """Have HandlerTimeout raised in the handler that runs."""

    def abandon(self, block: Block) -> bool:
        """``block`` has been given up. True when its thread has been replaced and its worker goes on, False when the worker is stuck."""

    def stop(self) -> None: ...


class ThreadExecutor:
    """Handlers in the native threads of gevent's threadpool.

    ThreadPool.apply costs 120 to 200 µs a message. Here each thread runs one task for as long as the process lives:

    1. ``run`` puts the block on a native queue and leaves the hub to others;
    2. a thread takes it, runs its jobs and puts it on a deque;
    3. the first block on the deque wakes the hub, further ones find it awake already;
    4. the hub's callback switches straight to the greenlets that wait for the blocks.
    """

    replaces_workers = False

    def __init__(self, threads: int, records: Records) -> None:
        self._threads = threads
        self._records = records
        self._pool = ThreadPool(threads)
        self._inbox: SimpleQueue[Block | None] = SimpleQueue()
        self._finished: deque[Block] = deque()
        self._signalled = False
        hub = gevent.hub.get_hub()
        self._hub = hub
        self._wake = hub.loop.async_()
        self._tick = hub.loop.timer(TICK, TICK)
        self._ticking = False
        self.stuck: set[Block] = set()

    def start(self) -> None:
        watch_forks()
        self._wake.start(self._collect)
        for _ in range(self._threads):
            self._pool.spawn(self._serve)

    def run(self, block: Block) -> None:
        block.waiter = gevent.getcurrent()
        self._inbox.put(block)
        self._hub.switch()

    def interrupt(self, block: Block, limit: Limit) -> None:
        limit.interrupt()

    def abandon(self, block: Block) -> bool:
        self.stuck.add(block)
        self._pool.maxsize = max(self._pool.maxsize, self._threads + len(self.stuck))
        self._pool.spawn(self._serve)
        self._hub.loop.run_callback(block.waiter.switch)
        return True

    def stop(self) -> None:
        """Let threads that have nothing to run end; a handler that still runs keeps its thread."""
        for _ in range(self._threads):
            self._inbox.put(None)
        for watcher in (self._wake, self._tick):
            watcher.stop()
            watcher.close()

    def _serve(self) -> None:
        slot = log_context.claim_thread(self._records)
        get, finished = self._inbox.get, self._finished.append
        while (block := get()) is not None:
            block.run(slot)
            if block.abandoned:  # another thread has taken this one's place
                self.stuck.discard(block)
                break
            finished(block)
            if not self._signalled:
                self._signalled = True
                self._wake.send()
        log_context.release_thread()

    def _collect(self) -> None:
        """Called once when a block finishes after a pause, then each TICK until a tick finds nothing."""
        finished = self._finished
        if not self._ticking:
            self._ticking = True
            self._tick.start(self._collect)
        elif not finished:
            self._ticking = False
            self._tick.stop()
            self._signalled = False  # before the look below: a block that comes after it signals again
        turn_ends = time.perf_counter() + HUB_TURN
        while finished:
            finished.popleft().waiter.switch()
            if time.perf_counter() > turn_ends:
                return  # the next tick goes on


class GreenletExecutor:
    """Handlers in the worker's greenlet itself, in a process that gevent has patched: waiting yields to the others."""

    replaces_workers = True

    def __init__(self, records: Records) -> None:
        self._records = records
        self._last_turn = time.perf_counter()
        self.stuck: set[Block] = set()

    def start(self) -> None:
        watch_forks()

    def run(self, block: Block) -> None:
        slot = log_context.claim_greenlet(self._records)
        block.waiter = gevent.getcurrent()
        try:
            block.run(slot)
        finally:
            log_context.release_greenlet()
            self.stuck.discard(block)
        now = time.perf_counter()
        if now - self._last_turn > HUB_TURN:  # handlers that never wait would starve the hub
            gevent.sleep(0)
            self._last_turn = time.perf_counter()

    def interrupt(self, block: Block, limit: Limit) -> None:
        limit.interrupted()
        slot = block.slot
        job = slot.job if slot is not None else None

        def hit() -> None:
            if slot is not None and slot.job is job:
                block.waiter.throw(HandlerTimeout)

        gevent.hub.get_hub().loop.run_callback(hit)

    def abandon(self, block: Block) -> bool:
        self.stuck.add(block)
        return False

    def stop(self) -> None:
        pass
