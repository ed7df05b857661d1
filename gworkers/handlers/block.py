"""Jobs on their way through one hop: a Block, or a Batch that goes to the handler as one.

The executor has them run on a thread or in a greenlet; the hub looks at them meanwhile and takes
back what has not begun. Both ends of a deque are safe to take from two threads, so no lock is held.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from typing import Any

from gworkers.config.units import format_duration
from gworkers.handlers.job import Job
from gworkers.handlers.routes import Route
from gworkers.handlers.slot import Slot
from gworkers.handlers.time_limits import TimeLimit
from gworkers.message import HandlerTimeout


class Block:
    """Jobs of one route on their way through one hop.

    ``todo`` is emptied from the left by whoever runs the block and may be emptied from the right by
    the hub (``reclaim``): both ends of a deque are safe to take from two threads. ``done`` grows as
    jobs finish.
    """

    __slots__ = ("busy", "done", "given_up", "passed_on", "route", "slot", "started", "todo", "waiter")

    def __init__(self, route: Route, jobs: list[Job]) -> None:
        self.route = route
        self.todo = deque(jobs)
        self.done: list[Job] = []
        self.passed_on = 0  # how many of done the hub has passed on
        self.started = 0.0  # time.perf_counter() when its first job began
        self.busy = 0.0  # seconds its handlers took together
        self.slot: Slot | None = None  # of the thread or greenlet that runs it
        self.waiter: Any = None  # the greenlet that waits for it, or runs it
        self.given_up = False  # its thread has been given up: what comes of it counts no more

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

    def run(self, slot: Slot) -> None:
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

    def _enter(self, slot: Slot) -> tuple[Any, int]:
        """Note in the journal whose messages these are; where each of them is noted."""
        with contextlib.suppress(IndexError):  # nothing is left of it: the hub has taken all of it back
            slot.journal.enter(slot.at, self.todo[0].partition.label)
        return slot.journal.offsets, slot.at

    def _run_limited(self, slot: Slot, timeout: float) -> None:
        """``run`` for a route with a time limit: 0.5 µs a message more."""
        handle, take, finished = self.route.handle, self.todo.popleft, self.done.append
        begun = self.started = time.perf_counter()
        limit = slot.time_limit = slot.time_limit or TimeLimit()
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
        if not self.given_up:
            self.slot = None
            self.busy = time.perf_counter() - begun

    def give_up(self) -> None:
        """Speak for the running job in its thread's place: it has failed."""
        assert self.slot is not None
        assert self.slot.job is not None
        self.given_up = True
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

    def run(self, slot: Slot) -> None:
        jobs, timeout, handle = self.jobs, self.route.timeout, self.route.handle_batch
        assert handle is not None
        begun = self.started = time.perf_counter()
        limit = slot.time_limit = slot.time_limit or TimeLimit()
        self.slot = slot
        slot.journal.enter(slot.at, jobs[0].partition.label)
        running, at = slot.journal.offsets, slot.at
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
        if not self.given_up:
            self.slot = None
            self.busy = time.perf_counter() - begun

    def give_up(self) -> None:
        self.given_up = True
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
    """From now on a child that a handler forks, and that comes back from the handler, ends there:
    it is no second server."""
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals, after_in_child=_mark_child)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _hold_signals() -> None:
    """One that comes before the child has handlers of its own must not be lost in ours."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _mark_child() -> None:
    """A child ends at a signal as any process does: our handlers are for the server."""
    global _forked
    _forked = True
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_signals()


def _end_child(job: Job) -> None:
    code = job.error.code if isinstance(job.error, SystemExit) else int(job.error is not None)
    os._exit(code if isinstance(code, int) else int(code is not None))


def over_limit(timeout: float) -> str:
    return f"the handler took longer than its timeout of {format_duration(timeout)}"
