"""Where handlers run: in native threads, or in the worker's own greenlet.

Both executors have one verb for workers, ``run(block)``: it blocks the calling greenlet until no
job of the block is left to run. Each job has then ``rows`` or ``error`` set and stands in
``block.done``, unless it was reclaimed in time.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from enum import Enum
from queue import SimpleQueue
from typing import Any, Protocol

import gevent
import gevent.hub
import gevent.monkey
from gevent.threadpool import ThreadPool

from gworkers.errors import FatalError
from gworkers.handlers.block import Block, watch_forks
from gworkers.handlers.hooks import Hooks, run_at_start, run_at_stop
from gworkers.handlers.slot import claim_greenlet, claim_thread, release_greenlet, release_thread
from gworkers.handlers.time_limits import TimeLimit
from gworkers.loop import Fatal
from gworkers.message import HandlerTimeout
from gworkers.offsets.journal import Journaling

log = logging.getLogger(__name__)

get_ident = gevent.monkey.get_original("_thread", "get_ident")

#: How long one greenlet or callback may keep the hub before it lets the others have a turn,
#: seconds.
HUB_TURN = 0.003

#: How long stop hooks of threads are waited for, in seconds.
HOOKS_TIMEOUT = 5.0

#: While blocks finish one after the other the hub looks for them this often, in seconds.
TICK = 0.001


class _Word(Enum):
    """What a thread is told in the place of a block."""

    END = 0
    BENCH = 1
    BACK = 2


class TooFewThreadsError(Exception):
    """Only ``started`` of the ``wanted`` threads could be started."""

    def __init__(self, started: int, wanted: int) -> None:
        super().__init__(f"only {started} of {wanted} threads could be started")
        self.started = started
        self.wanted = wanted


class Executor(Protocol):
    stuck: set[Block]  # whose threads or greenlets have been given up and have not ended
    replaces_workers: bool  # handlers run in the workers' own greenlets, so a stuck one takes a worker with it

    def start(self) -> None: ...

    def run(self, block: Block) -> None: ...

    def may_interrupt(self, limit: TimeLimit) -> bool:
        """Whether the handler stands where an exception does no harm."""

    def interrupt(self, block: Block, limit: TimeLimit) -> None:
        """Have HandlerTimeout raised in the handler that runs."""

    def leave(self) -> None:
        """The calling greenlet has no more blocks to run."""

    def replace(self, block: Block) -> bool:
        """``block`` has been given up. True when its thread has been replaced and its worker goes
        on, False when the worker is stuck."""

    def resize(self, count: int, *, keep: bool = False) -> None:
        """Have so many handlers run at once from now on, as far as it is the executor that bounds
        them. keep: threads that are too many stay, with what belongs to them, until they are needed
        again. Raises TooFewThreadsError."""

    def stop(self) -> None: ...


class ThreadExecutor:
    """Handlers in the native threads of gevent's threadpool.

    ThreadPool.apply costs 120 to 200 µs a message. Here each thread runs one task for as long as
    the process lives:

    1. ``run`` puts the block on a native queue and leaves the hub to others;
    2. a thread takes it, runs its jobs and puts it on a deque;
    3. the first block on the deque wakes the hub, further ones find it awake already;
    4. the hub's callback switches straight to the greenlets that wait for the blocks.

    A thread that is one too many ends, or waits at the bench until it is needed again.
    """

    replaces_workers = False
    #: A thread's slot: taken and given back on the thread itself.
    claim = staticmethod(claim_thread)
    release = staticmethod(release_thread)

    def __init__(self, threads: int, journal: Journaling, hooks: Hooks, fatal: Fatal) -> None:
        self._threads = threads
        self._hooks = hooks
        self._fatal = fatal
        self._hooked: set[int] = set()  # threads whose start hook has run, and whose stop hook has not
        self._journal = journal
        self._pool = ThreadPool(threads)
        self._inbox: SimpleQueue[Block | _Word] = SimpleQueue()
        self._bench: SimpleQueue[_Word] = SimpleQueue()
        self._benched = 0  # how many threads are there, or have been sent there
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
        self._begin(0)

    def _begin(self, running: int) -> None:
        for started in range(running, self._threads):
            try:
                self._pool.spawn(self._serve)
            except (RuntimeError, MemoryError, OSError) as error:
                wanted, self._threads = self._threads, started
                raise TooFewThreadsError(started, wanted) from error

    def resize(self, count: int, *, keep: bool = False) -> None:
        before, self._threads = self._threads, count
        for _ in range(before - count):
            self._inbox.put(_Word.BENCH if keep else _Word.END)  # for whoever takes it
            self._benched += keep
        back = min(self._benched, count - before)
        for _ in range(back):
            self._bench.put(_Word.BACK)
            self._benched -= 1
        self._pool.maxsize = max(self._pool.maxsize, count + self._benched + len(self.stuck))
        self._begin(before + max(0, back))

    def run(self, block: Block) -> None:
        block.waiter = gevent.getcurrent()
        self._inbox.put(block)
        self._hub.switch()

    def may_interrupt(self, limit: TimeLimit) -> bool:
        return limit.safe()

    def interrupt(self, block: Block, limit: TimeLimit) -> None:
        limit.interrupt()

    def leave(self) -> None:
        """Its blocks run in threads, which leave by themselves."""

    def replace(self, block: Block) -> bool:
        self.stuck.add(block)
        self._pool.maxsize = max(self._pool.maxsize, self._threads + self._benched + len(self.stuck))
        try:
            self._pool.spawn(self._serve)
        except (RuntimeError, MemoryError, OSError) as error:
            log.error("no thread can be started in its place, one handler less runs from now on: %s", error)
        self._hub.loop.run_callback(block.waiter.switch)
        return True

    def stop(self) -> None:
        """Let threads that have nothing to run end; a handler that still runs keeps its thread."""
        for _ in range(self._threads):
            self._inbox.put(_Word.END)
        for _ in range(self._benched):
            self._bench.put(_Word.END)
        _await_stop_hooks(self._hooked)
        for watcher in (self._wake, self._tick):
            watcher.stop()
            watcher.close()

    def _serve(self) -> None:
        if self._begin_thread():
            try:
                self._run_blocks()
            finally:
                run_at_stop(self._hooks.thread_stop, "thread_stop")
                self._hooked.discard(get_ident())

    def _begin_thread(self) -> bool:
        if self._hooks.thread_stop is not None:
            self._hooked.add(get_ident())
        try:
            run_at_start(self._hooks.thread_start, "thread_start")
        except FatalError as error:
            self._hooked.discard(get_ident())
            self._hub.loop.run_callback_threadsafe(self._fatal, error)
            return False
        return True

    def _run_blocks(self) -> None:
        slot = self.claim(self._journal)
        get, finished = self._inbox.get, self._finished.append
        while True:
            block = get()
            if isinstance(block, _Word):
                if block is _Word.BENCH and self._bench.get() is _Word.BACK:
                    continue
                break
            block.run(slot)
            if block.given_up:  # another thread has taken this one's place
                self.stuck.discard(block)
                break
            finished(block)
            if not self._signalled:
                self._signalled = True
                self._wake.send()
        self.release()

    def _collect(self) -> None:
        """Called once when a block finishes after a pause, then each TICK until a tick finds
        nothing."""
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
    """Handlers in the worker's greenlet itself, in a process that gevent has patched: waiting
    yields to the others."""

    replaces_workers = True

    def __init__(self, journal: Journaling, hooks: Hooks, fatal: Fatal) -> None:
        self._journal = journal
        self._hooks = hooks
        self._fatal = fatal
        self._hooked: set[Any] = set()  # greenlets whose start hook has run, and whose stop hook has not
        self._last_turn = time.perf_counter()
        self.stuck: set[Block] = set()

    def start(self) -> None:
        watch_forks()

    def run(self, block: Block) -> None:
        if (self._hooks.thread_start or self._hooks.thread_stop) and gevent.getcurrent() not in self._hooked:
            self._hooked.add(gevent.getcurrent())
            try:
                run_at_start(self._hooks.thread_start, "thread_start")
            except FatalError as error:
                self._fatal(error)
        slot = claim_greenlet(self._journal)
        block.waiter = gevent.getcurrent()
        try:
            block.run(slot)
        finally:
            release_greenlet()
            self.stuck.discard(block)
        now = time.perf_counter()
        if now - self._last_turn > HUB_TURN:  # handlers that never wait would starve the hub
            gevent.sleep(0)
            self._last_turn = time.perf_counter()

    def may_interrupt(self, limit: TimeLimit) -> bool:
        return True  # it is raised where the greenlet waits

    def interrupt(self, block: Block, limit: TimeLimit) -> None:
        interrupt_greenlet(block, limit, block.waiter)

    def replace(self, block: Block) -> bool:
        self.stuck.add(block)
        return False

    def resize(self, count: int, *, keep: bool = False) -> None:
        """The workers are as many as there are to be."""

    def leave(self) -> None:
        own = gevent.getcurrent()
        if own in self._hooked:
            run_at_stop(self._hooks.thread_stop, "thread_stop")
            self._hooked.discard(own)

    def stop(self) -> None:
        _await_stop_hooks(self._hooked)


def interrupt_greenlet(block: Block, limit: TimeLimit, greenlet: Any) -> None:
    """Have HandlerTimeout raised where the greenlet waits that runs the block's handler, unless it has
    gone on to another message by then."""
    limit.interrupted()
    slot = block.slot
    job = slot.job if slot is not None else None

    def hit() -> None:
        if slot is not None and slot.job is job:
            greenlet.throw(HandlerTimeout)

    gevent.hub.get_hub().loop.run_callback(hit)


def _await_stop_hooks(hooked: set[Any]) -> None:
    """Until none is left to run, for HOOKS_TIMEOUT at the most."""
    deadline = time.monotonic() + HOOKS_TIMEOUT
    while hooked and time.monotonic() < deadline:
        gevent.sleep(TICK)
