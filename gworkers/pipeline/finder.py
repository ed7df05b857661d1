"""Finds the concurrency that serves best, by trying: more, fewer, and what became of it.

No law of latency is assumed, because there is none that holds for handlers that wait, that compute
and that stand in each other's way. What counts is how many handlers end a second. As in the thread
pool of .NET (hill climbing) one number is compared with a neighbouring one, in windows that come
right after each other; as Netflix' and Vector's limiters have it, nothing grows that was not used
up, and what is smaller is tried again now and then, because one that only grows never comes down.

Pure: it is told what was measured and says what to run next. It knows no clock and no threads.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import fmean

#: By how much a first step multiplies, and the smallest step.
FIRST_STEP = 2.0
LEAST_STEP = 1.12
#: More is kept when it brings this part of what it would bring where nothing stood in the way, and at
#: least this much; less is kept when it costs no more than this.
WORTH = 0.15
LEAST_GAIN = 0.02
COSTS_NOTHING = 0.015
#: Less is kept as long as it does this part of the most that was done: small costs add up. The most
#: fades by this at each attempt.
KEPT = 0.97
FORGETTING = 0.998
#: A gain that comes so close to what is wanted is measured twice.
CLOSE = 0.05
#: Of the handlers that may run, how many must for the number to matter.
USED_UP = 0.9
#: Cores' worth of work of which a process of Python has no more, so that more threads hardly help and
#: have to bring more to be kept, while they make the hub wait for its turn; above it are handlers that
#: compute outside of the interpreter's lock.
ONE_CORE = 0.93
SEVERAL_CORES = 1.1
WORTH_OF_CORE = 0.25
LEAST_OF_CORE = 0.05
#: Windows between two attempts: after one that was kept, and at the most, when nothing changes.
SHORTEST_PAUSE = 1
LONGEST_PAUSE = 32
#: A rate or a handler's time that differs by so much from what it was is another load.
CHANGED = 0.2
#: Over how many windows that is taken.
REMEMBERED = 5


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured in one window. running: handlers at once, the median; used_up: the part of
    the looks at which as many blocks as may run were with the executor, and more waited; rate:
    handlers that ended, a second; handler: how long one took, in seconds; cores: of a processor's
    time."""

    running: float
    used_up: float
    rate: float
    handler: float
    cores: float


@dataclass(frozen=True, slots=True)
class Choice:
    """To be run in the next window. settled: the best that is known; probing: whether ``concurrency``
    is another one, to see; reason: why the settled one is what it is, a sentence's part."""

    concurrency: int
    settled: int
    reason: str

    @property
    def probing(self) -> bool:
        return self.concurrency != self.settled


class Finder:
    """From ``start``, between ``least`` and ``most``."""

    def __init__(self, start: int, least: int, most: int) -> None:
        self.least = least
        self.most = most
        self._settled = min(max(start, least), most)
        self._reason = "where it begins"
        self._up = True
        self._step = FIRST_STEP
        self._refused = 0  # attempts one after the other
        self._pause = SHORTEST_PAUSE
        self._rest = 0  # windows until the next attempt
        self._probe: int | None = None
        self._base: Window | None = None  # before the attempt
        self._doubtful: Window | None = None  # of an attempt that is made twice
        self._best = 0.0  # messages a second, of this load
        self._usual: deque[Window] = deque(maxlen=REMEMBERED)

    def next(self, seen: Window) -> Choice:
        """After a window that ran with the concurrency of the last choice."""
        if self._probe is not None:
            probe, self._probe = self._probe, None
            if not self._judge(probe, seen):
                self._probe, self._doubtful = probe, seen
                return Choice(probe, self._settled, self._reason)
        elif seen.used_up < USED_UP:
            self._reason = f"{seen.running:.0f} handlers are enough for what there is to do"
            self._usual.clear()
            return self._stay()
        else:
            self._watch(seen)
            self._base = seen
        if self._base is None or self._rest > 0:
            self._rest = max(0, self._rest - 1)
            return self._stay()
        self._probe = self._neighbour()
        return Choice(self._settled if self._probe is None else self._probe, self._settled, self._reason)

    def _stay(self) -> Choice:
        return Choice(self._settled, self._settled, self._reason)

    def _neighbour(self) -> int | None:
        """What to try next, or None."""
        for _ in range(2):
            if self._up:
                found = min(self.most, max(self._settled + 1, round(self._settled * self._step)))
            else:
                found = max(self.least, min(self._settled - 1, round(self._settled / self._step)))
            if found != self._settled:
                return found
            self._refuse()
        return None

    def _judge(self, probe: int, seen: Window) -> bool:
        """Keep it or not; False when that is too close to tell from one window."""
        base = self._base
        assert base is not None
        more = probe > self._settled
        usual = fmean(window.rate for window in self._usual) if self._usual else base.rate
        before, self._doubtful = self._doubtful, None
        rates = (seen.rate,) if before is None else (before.rate, seen.rate)
        rate = fmean(rates) if more else min(rates)  # too few cost more than too many
        gain = rate / usual - 1 if usual else 0.0
        known = self._best * FORGETTING
        self._best = usual if usual < (1 - CHANGED) * known else max(usual, known)
        worth, least = (WORTH_OF_CORE, LEAST_OF_CORE) if _one_core(base) else (WORTH, LEAST_GAIN)
        wanted = max(least, worth * (probe / self._settled - 1)) if more else -COSTS_NOTHING
        if before is None and abs(gain - wanted) < CLOSE:
            return False
        if gain < wanted or (not more and rate < KEPT * self._best):
            self._base = None  # it is measured again
            self._reason = _why(self._settled, probe, base, gain, more)
            self._refuse()
            return True
        told = f"{rate:,.0f} messages a second in place of {usual:,.0f} with {self._settled}"
        self._reason = told if more or gain > LEAST_GAIN else f"{told}: more would do no more"
        self._settled = probe
        self._base = seen
        self._usual.clear()
        if gain < LEAST_GAIN:  # as good as before: nothing to be hurried after
            self._rest_longer()
            return True
        self._refused = 0
        self._pause = max(SHORTEST_PAUSE, self._pause // 2)
        self._step = min(FIRST_STEP, self._step * LEAST_STEP)
        return True

    def _refuse(self) -> None:
        """The other direction next; a smaller step, and a longer pause, when both are refused."""
        self._up = not self._up
        self._refused += 1
        if self._refused % 2 == 0:
            self._step = max(LEAST_STEP, self._step**0.5)
            self._rest_longer()

    def _rest_longer(self) -> None:
        if self._step == LEAST_STEP:
            self._rest = self._pause
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)

    def _watch(self, seen: Window) -> None:
        """Begin anew with larger steps when it is another load than before."""
        usual = self._usual
        if len(usual) >= 2 and all(_differs(seen, one) for one in usual):
            self._step = FIRST_STEP
            self._pause, self._rest, self._refused = SHORTEST_PAUSE, 0, 0
            self._up = seen.handler >= usual[-1].handler
            self._best = 0.0
            usual.clear()
        usual.append(seen)


def _one_core(window: Window) -> bool:
    return ONE_CORE <= window.cores < SEVERAL_CORES


def _differs(one: Window, other: Window) -> bool:
    return any(abs(a - b) > CHANGED * max(a, b) for a, b in ((one.rate, other.rate), (one.handler, other.handler)))


def _why(settled: int, probe: int, base: Window, gain: float, more: bool) -> str:
    if not more:
        return f"with {probe} it would do {-gain:.0%} less"
    if _one_core(base):
        return f"its handlers share one core's worth of Python ({base.cores:.2f}): more processes would help"
    return f"{probe} did no more than {settled}" if gain > -LEAST_GAIN else f"with {probe} it would do {-gain:.0%} less"
