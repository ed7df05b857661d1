"""A gevent loop with virtual time: one thread, no sockets, and every choice drawn from a seed.

A schedule has a hub and a loop of its own. The loop runs the callbacks that are ready, one after the
other, and when none is left it moves the clock to the next timer: a wait of a minute takes no time.
Each callback and each timer belongs to the ``Owner`` that was running when it was made, which stands
for an operating system's process: one that is killed never runs again, one that is stopped runs on
where it was when it is continued. So a kill -9 or a SIGSTOP can hit between any two steps.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gevent
import gevent.hub
from gevent._hub_local import set_hub
from gevent.exceptions import LoopExit

#: What a step takes, in seconds.
STEP = 1e-6
#: A schedule of more steps goes round and round.
MOST_STEPS = 1_000_000


class Owner:
    """A simulated process, as far as the loop knows it."""

    __slots__ = ("dead", "name", "parked", "stopped")

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.stopped = False
        self.parked: list[Any] = []  # what would have run while it was stopped


class Callback:
    """What ``run_callback`` returns; gevent asks it for these four."""

    __slots__ = ("args", "callback", "owner")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], owner: Owner | None) -> None:
        self.callback: Callable[..., Any] | None = callback
        self.args: tuple[Any, ...] | None = args
        self.owner = owner

    def stop(self) -> None:
        self.callback = self.args = None

    close = stop

    def __bool__(self) -> bool:
        return self.args is not None

    @property
    def pending(self) -> bool:
        return self.callback is not None


class Timer:
    """A watcher of time, and with no time at all one that ``send`` sets off (``async_``)."""

    __slots__ = ("_after", "_repeat", "args", "callback", "loop", "owner", "turn")

    def __init__(self, loop: Loop, after: float, repeat: float) -> None:
        self.loop = loop
        self._after = after
        self._repeat = repeat
        self.callback: Callable[..., Any] | None = None
        self.args: tuple[Any, ...] = ()
        self.owner: Owner | None = None
        self.turn = 0  # counts starts and stops: an entry of an earlier one in the heap is void

    def start(self, callback: Callable[..., Any], *args: Any, update: bool | None = None) -> None:
        self.callback, self.args = callback, args
        self.owner = self.loop.current
        self.turn += 1
        if self._after >= 0:
            self.loop.at(self.loop.now + self._after, self)

    def again(self, callback: Callable[..., Any], *args: Any, update: bool | None = None) -> None:
        self._after = self._repeat or self._after
        self.start(callback, *args)

    def stop(self) -> None:
        self.callback = None
        self.turn += 1

    close = stop

    def send(self) -> None:
        if self.callback is not None:
            self.loop.ready.append(Callback(self.callback, self.args, self.owner))

    @property
    def active(self) -> bool:
        return self.callback is not None

    pending = False

    def __enter__(self) -> Timer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fire(self) -> None:
        callback, args = self.callback, self.args
        if self._repeat:
            self.loop.at(self.loop.now + self._repeat, self)
        else:
            self.callback = None
        if callback is not None:
            callback(*args)


class _Hub(gevent.hub.Hub):  # type: ignore[misc]
    """What a greenlet raises and nobody catches ends the schedule."""

    def handle_error(self, context: Any, type: Any, value: Any, tb: Any) -> None:
        self.loop.broken(value)


class Loop:
    """See the head of this file. shuffled: ready callbacks run in an order that is drawn, not in the
    order in which they became ready. after_each: called after each step."""

    default = True
    approx_timer_resolution = 0.0

    def __init__(self, draw: random.Random, *, shuffled: bool, until: float) -> None:
        self._draw = draw
        self._shuffled = shuffled
        self._until = until
        self.now = 0.0
        self.steps = 0
        self.current: Owner | None = None
        self.ready: list[Callback] = []
        self.after_each: Callable[[], None] = lambda: None
        self.over = False
        self.error: BaseException | None = None
        self.error_handler: Any = None
        self._timers: list[tuple[float, float, int, Timer, int]] = []
        self._count = 0
        self._greenlets: set[Any] = set()

    # -- what gevent asks for

    def run_callback(self, callback: Callable[..., Any], *args: Any) -> Callback:
        found = Callback(callback, args, self.current)
        self.ready.append(found)
        who = getattr(callback, "__self__", None)
        if isinstance(who, gevent.Greenlet):
            self._greenlets.add(who)
        return found

    run_callback_threadsafe = run_callback

    def timer(self, after: float, repeat: float = 0.0, ref: bool = True, priority: Any = None) -> Timer:
        return Timer(self, max(0.0, after), repeat)

    def async_(self, ref: bool = True, priority: Any = None) -> Timer:
        return Timer(self, -1.0, 0.0)

    def fork(self, ref: bool = True, priority: Any = None) -> Timer:
        return Timer(self, -1.0, 0.0)

    def clock(self, start: float) -> float:
        """The time, of a clock that stood at ``start`` when the schedule began."""
        return start + self.now

    def update_now(self) -> None:
        pass

    def destroy(self) -> None:
        pass

    def handle_error(self, context: Any, kind: Any, value: Any, trace: Any) -> None:
        """gevent's hub asks for it when something raises where nobody hears of it."""

    # -- what runs

    def at(self, when: float, timer: Timer) -> None:
        self._count += 1
        heapq.heappush(self._timers, (when, self._draw.random(), self._count, timer, timer.turn))

    def later(self, seconds: float, owner: Owner | None, callback: Callable[..., Any], *args: Any) -> None:
        """Call it ``seconds`` from now, as a step of ``owner``."""
        timer = Timer(self, seconds, 0.0)
        before, self.current = self.current, owner
        timer.start(callback, *args)
        self.current = before

    def run(self) -> None:
        ready, timers = self.ready, self._timers
        while not self.over:
            if ready:
                which = int(self._draw.random() * len(ready)) if self._shuffled and len(ready) > 1 else 0
                found = ready.pop(which)
                callback, args = found.callback, found.args
                if callback is not None and args is not None and self._may(found):
                    found.callback = None
                    self._step(found.owner, callback, args)
                    found.args = None
            elif timers:
                when, _, _, timer, turn = heapq.heappop(timers)
                if turn != timer.turn or timer.callback is None:
                    continue
                if when > self._until:
                    break
                self.now = max(self.now, when)
                if self._may(timer):
                    self._step(timer.owner, timer.fire, ())
            else:
                break
        self._end()

    def _may(self, what: Callback | Timer) -> bool:
        owner = what.owner
        if owner is None or not (owner.dead or owner.stopped):
            return True
        if not owner.dead:
            owner.parked.append((what, what.turn) if isinstance(what, Timer) else (what, 0))
        return False

    def _step(self, owner: Owner | None, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.steps += 1
        self.now += STEP
        self.current = owner
        try:
            callback(*args)
            self.after_each()
        except BaseException as error:
            self.broken(error)
        self.current = None
        if self.steps > MOST_STEPS:
            self.broken(RuntimeError(f"{MOST_STEPS} steps, and no end"))

    def broken(self, error: BaseException) -> None:
        """End the schedule with an error."""
        if not self.over:
            self.error, self.over = error, True

    def go_on(self, owner: Owner) -> None:
        """A stopped process is continued: what it has missed runs now."""
        owner.stopped = False
        parked, owner.parked = owner.parked, []
        for what, turn in parked:
            if isinstance(what, Timer):
                if turn == what.turn and what.callback is not None:
                    self.ready.append(Callback(what.fire, (), owner))
            elif what.callback is not None:
                self.ready.append(what)

    def _end(self) -> None:
        """End every greenlet, so that none is ended at some later time by the garbage collector."""
        self.over = True
        for greenlet in self._greenlets:
            if not greenlet.dead:
                with contextlib.suppress(BaseException):
                    greenlet.throw(gevent.GreenletExit)
        self.ready.clear()
        self._timers.clear()


#: When a schedule begins, as ``time.time()`` tells it.
EPOCH = 1_800_000_000.0

#: An attribute of an object, and what it is to be for a while.
Change = tuple[Any, str, Any]


@contextlib.contextmanager
def changed(changes: Sequence[Change]) -> Iterator[None]:
    """While this holds, attributes of modules and classes are others."""
    before = [(one, name, vars(one)[name]) for one, name, _ in changes]
    for one, name, value in changes:
        setattr(one, name, value)
    try:
        yield
    finally:
        for one, name, value in before:
            setattr(one, name, value)


@contextlib.contextmanager
def virtual(draw: random.Random, *, shuffled: bool, until: float) -> Iterator[Loop]:
    """A loop whose clock is the ``time`` module's, and whose hub is this thread's."""
    loop = Loop(draw, shuffled=shuffled, until=until)
    starts = {"monotonic": 1000.0, "time": EPOCH, "perf_counter": 1000.0}
    hub_before = gevent.hub.get_hub()
    set_hub(_Hub(loop=loop))
    try:
        with changed([(time, name, partial(loop.clock, start)) for name, start in starts.items()]):
            yield loop
    finally:
        set_hub(hub_before)


def run(loop: Loop) -> None:
    """Run until nothing is left to do, the time is up, or a step has raised; what it raised is
    raised."""
    with contextlib.suppress(LoopExit):
        gevent.hub.get_hub().switch()
    if loop.error is not None:
        raise loop.error
