"""What one schedule is: messages, faults and options, drawn from a seed; and how a failing one is made
shorter."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

#: Seconds within which messages come and faults happen, and how many are left after that, beside what
#: the handlers take when they run one after the other.
BUSY = 8.0
REST = 120.0


@dataclass(frozen=True)
class Msg:
    """One message. at: when it comes; durations: of its attempts in turn, the last one for all further
    ones; fails: how many attempts fail; how: ``error``, ``reject``, ``retry`` (with a delay of its
    own) or ``kill``; results: how many it has; refused: what the broker says to the first of them."""

    at: float
    partition: int
    key: int | None
    durations: tuple[float, ...] = (0.0,)
    fails: int = 0
    how: str = "error"
    results: int = 1
    refused: str = ""
    hole: int = 0


@dataclass(frozen=True)
class Fault:
    """What happens to a process, or to its network, at some time: ``kill``, ``stop`` (SIGSTOP, for so
    many seconds), ``end`` (as asked, and started anew after so many seconds), ``cut`` (nothing gets
    through); or what an operator does: ``resize`` (another concurrency), ``pause`` (of everything)."""

    at: float
    what: str
    process: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    seed: int
    messages: tuple[Msg, ...]
    faults: tuple[Fault, ...] = ()
    delivery: str = "at-least-once"
    executor: str = "thread"
    order: str = "key"
    partitions: int = 2
    outputs: int = 2
    processes: int = 1
    late: float = 0.0  # when the further processes come
    eager: bool = False
    concurrency: int = 4
    workers: int = 8
    shuffled: bool = False
    latency: float = 0.01
    loss: float = 0.0
    session: float = 6.0
    grace: float = 2.0
    attempts: int = 3
    backoff: float = 0.2
    retry_topics: tuple[float, ...] = ()
    buffer: int = 100
    rows: int = 20  # in a batch of the producer
    commit: float = 0.5
    map: bool = True
    transaction: float = 0.1
    most: int = 1000  # messages in a transaction
    timeout: float = 0.0
    batch: int = 0
    batch_by: str = "partition"
    batch_wait: float = 0.05
    rate: str = ""
    notes: bool = True
    state: bool = True
    removes: bool = True  # whoever is started anew has its dead predecessor removed

    @property
    def limit(self) -> float:
        """The second by which all has to be settled."""
        waits = self.backoff * 2**self.attempts + self.batch_wait + 0.3 * self.attempts
        return BUSY + REST + sum(max(m.durations) * (self.attempts + 2) + (waits if m.fails or self.timeout else 0) for m in self.messages)

    @property
    def disturbed(self) -> bool:
        """Whether something may be handled twice."""
        faults = [fault for fault in self.faults if fault.what not in ("resize", "pause")]
        return bool(faults or self.processes > 1 or self.loss or any(m.how == "kill" and m.fails for m in self.messages))


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    r = random.Random(seed * 2 + 1)
    partitions = r.choice((1, 1, 2, 2, 3))
    keys = r.choice((1, 2, 3, 6))
    busy = r.choice((0.5, 2.0, BUSY))
    slow = r.choice((0.0, 0.01, 0.1, 1.0, 4.0))
    failing = r.choice((0.0, 0.0, 0.1, 0.4))
    state = r.random() < 0.6
    order = r.choice(("key", "key", "partition", "none"))
    batch = r.choice((0, 0, 0, 2, 5))
    messages = []
    for _ in range(r.choice((3, 8, 16, 30))):
        key = r.randrange(keys) if r.random() < 0.85 else None
        fails, how = 0, "error"
        if r.random() < failing:
            fails, how = r.choice((1, 1, 2, 9)), r.choice(("error", "error", "reject", "retry"))
        if state and not batch and r.random() < 0.02:
            fails, how = r.choice((1, 9)), "kill"
        messages.append(
            Msg(
                at=round(r.random() * busy, 3),
                partition=key % partitions if key is not None else r.randrange(partitions),
                key=key,
                durations=tuple(round(r.random() * slow, 3) for _ in range(r.choice((1, 2)))),
                fails=fails,
                how=how,
                results=r.choice((1, 1, 1, 1, 0, 2)),
                refused=r.choice(("refused", "too-large")) if r.random() < 0.03 and not batch else "",
                hole=r.choice((0, 0, 0, 0, 1, 3)),
            )
        )
    processes = r.choice((1, 1, 2, 3))
    faults = tuple(
        Fault(
            round(r.random() * BUSY, 3),
            r.choice(("kill", "kill", "stop", "end", "cut", "resize", "pause")),
            r.randrange(processes),
            r.choice((0.1, 1.0, 3.0, 9.0)),
        )
        for _ in range(r.choice((0, 0, 1, 2, 4)))
    )
    exactly_once = r.random() < 0.5
    return Plan(
        seed=seed,
        messages=tuple(messages),
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        delivery="exactly-once" if exactly_once else "at-least-once",
        executor=r.choice(("thread", "greenlet")),
        order=order,
        partitions=partitions,
        outputs=r.choice((1, 2)),
        processes=processes,
        late=r.choice((0.0, 1.0, 5.0)),
        eager=r.random() < 0.4,
        concurrency=(concurrency := r.choice((1, 2, 4, 8))),
        workers=concurrency * r.choice((1, 2)),
        shuffled=r.random() < 0.5,
        latency=r.choice((0.0, 0.002, 0.02, 0.2)),
        loss=r.choice((0.0, 0.0, 0.02, 0.15)),
        grace=r.choice((0.5, 2.0, 5.0)),
        attempts=r.choice((1, 2, 3)),
        backoff=r.choice((0.02, 0.2, 2.0)),
        retry_topics=(0.5,) if order == "none" and not batch and r.random() < 0.3 else (),
        buffer=r.choice((5, 10, 40, 1000)),
        rows=r.choice((1, 3, 20)),
        commit=r.choice((0.1, 0.5, 2.0)),
        map=r.random() < 0.85 or exactly_once,
        transaction=r.choice((0.02, 0.1, 1.0)),
        most=r.choice((1, 5, 1000)),
        timeout=r.choice((0.0, 0.0, 0.0, 0.5)),
        batch=batch,
        batch_by="key" if batch and order == "key" and r.random() < 0.5 else "partition",
        batch_wait=r.choice((0.0, 0.05, 0.5)),
        rate=r.choice(("", "", "", "20/s")),
        notes=r.random() < 0.7,
        state=state,
        removes=r.random() < 0.7,
    )


#: Options in their simplest form: a failing plan is tried with each of them.
SIMPLE: dict[str, Any] = {one.name: one.default for one in fields(Plan) if one.name not in ("seed", "messages", "faults")}


def shorter(plan: Plan) -> Iterator[Plan]:
    """Plans that are a little simpler than this one, the boldest first."""
    for part in ("messages", "faults"):
        whole = getattr(plan, part)
        size = len(whole)
        while size:
            for start in range(0, len(whole), size):
                left = whole[:start] + whole[start + size :]
                if left or part == "faults":
                    yield replace(plan, **{part: left})
            size //= 2
    for name, value in SIMPLE.items():
        if getattr(plan, name) != value:
            yield replace(plan, **{name: value})
    for index, message in enumerate(plan.messages):
        for changes in ({"fails": 0}, {"durations": (0.0,)}, {"hole": 0}, {"refused": ""}, {"results": 1}, {"at": 0.0}):
            simpler = replace(message, **changes)
            if simpler != message:
                yield replace(plan, messages=(*plan.messages[:index], simpler, *plan.messages[index + 1 :]))


def told(plan: Plan) -> str:
    """The plan as Python source, without what is as usual."""
    usual = {**SIMPLE, "faults": ()}
    lines = [f"    {name}={value!r}," for name, value in vars(plan).items() if name not in usual or usual[name] != value]
    return "Plan(\n" + "\n".join(lines) + "\n)"
