"""What can be done on the page: what it is called, what it will do, said before it is done, and which
of the admin address's actions it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Given = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Action:
    """path: of the admin address; label: of its button; told: what it will do, a sentence; asks: what
    may be filled in before, name and label; harm: whether it cannot be taken back; begins_anew:
    whether what answers may be gone for a moment after it."""

    path: str
    label: str
    told: Callable[[Given], str]
    asks: tuple[tuple[str, str], ...] = ()
    harm: bool = False
    begins_anew: bool = False


def _of(given: Given) -> str:
    parts = []
    if "route" in given:
        parts.append(f"route {given['route']}")
    if "topic" in given:
        partition = f"[{given['partition']}]" if "partition" in given else ""
        parts.append(f"{given['topic']}{partition}{'@' + given['offset'] if 'offset' in given else ''}")
    return ", ".join(parts) or "everything"


SEEK = (
    "What runs of it finishes first, and what it gives is sent; what waits, also for another attempt, is dropped. "
    "The group has the new place with the next commit."
)

ACTIONS: dict[str, Action] = {
    "pause": Action(
        "/pause",
        "Pause",
        lambda given: (
            f"Nothing more of {_of(given)} is begun or read until it is resumed; what runs goes on, and the process stays in its group."
        ),
    ),
    "resume": Action("/resume", "Resume", lambda given: f"What is paused of {_of(given)} goes on."),
    "quiet": Action("/quiet", "Quiet", lambda given: "All processes begin nothing new until they are told to go on; what runs goes on."),
    "go-on": Action("/go-on", "Go on", lambda given: "All processes begin new messages again."),
    "concurrency": Action(
        "/scale",
        "Set concurrency",
        lambda given: "Each process handles so many messages at once, until it is started anew; what runs goes on.",
        asks=(("concurrency", "messages at once, or auto"),),
    ),
    "processes": Action(
        "/scale",
        "Set processes",
        lambda given: "The master starts more processes, or has those that are too many drain and end.",
        asks=(("processes", "processes"),),
    ),
    "reload": Action(
        "/reload",
        "Reload",
        lambda given: (
            "The configuration is read anew and checked. If it is right the processes drain and are replaced one after the other; "
            "if it is wrong nothing changes, and the log says why."
        ),
        begins_anew=True,
    ),
    "replace": Action(
        "/replace",
        "Replace",
        lambda given: (
            f"Process {given.get('process', '0')} begins nothing new, finishes what runs, and is replaced by a new one; what it has not "
            "begun goes to the others or waits for it."
        ),
        begins_anew=True,
    ),
    "seek": Action(
        "/seek",
        "Go on elsewhere",
        lambda given: f"The partition goes on at {_of(given)}. {SEEK}",
        harm=True,
    ),
    "interrupt": Action(
        "/interrupt",
        "Interrupt",
        lambda given: (
            f"The handler of {_of(given)} is told to end, as when it is over its time-out: its attempt fails, and it is tried again "
            "if its route has attempts left, or goes to the dead letters."
        ),
        harm=True,
    ),
    "retry-now": Action("/retry-now", "Run now", lambda given: f"What waits for another attempt of {_of(given)} runs as soon as it may."),
    "give-up": Action(
        "/give-up",
        "Give up",
        lambda given: (
            f"What waits for another attempt of {_of(given)} fails for good now and goes to the dead letters, where it can be replayed; "
            "where a route has no dead-letter topic it goes on waiting."
        ),
        harm=True,
    ),
}
