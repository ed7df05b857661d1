"""``/livez`` (starting it anew would not help), ``/healthz`` (it is well) and ``/readyz`` (it is a
member of its group, with partitions or standing by for them)."""

from __future__ import annotations

from typing import Any

from gworkers.admin.answer import Answer
from gworkers.admin.ready_check import ReadyCheck
from gworkers.pipeline.snapshot import Snapshot

#: A poll older than this, in seconds, means that the process hangs.
STALE_POLL = 60.0
#: Nor is it well when results have been out for longer than this, in seconds, with none acknowledged.
STALE_RESULTS = 60.0
#: Nor when no broker has been connected for longer than this, in seconds; at once when Kafka is there
#: and does not take us.
AWAY = 30.0


def well(snapshot: Snapshot) -> bool:
    """Whether polls are not late, results are acknowledged, and Kafka is there and takes us."""
    waits = snapshot.last_poll_age < STALE_POLL and snapshot.results_wait < STALE_RESULTS
    return waits and snapshot.away < AWAY and not snapshot.refused


def alive(snapshot: Snapshot) -> bool:
    """Whether polling goes on, as far as Kafka is there: starting anew would not help otherwise."""
    return snapshot.last_poll_age < STALE_POLL or snapshot.away > 0


def lives(snapshot: Snapshot) -> Answer:
    """For whoever starts it anew when this fails: Kafka's being away is no reason."""
    return Answer.of(alive(snapshot), {"last_poll_seconds_ago": round(snapshot.last_poll_age, 1), "stuck_handlers": snapshot.stuck})


def healthy(snapshot: Snapshot) -> Answer:
    good = well(snapshot)
    facts: dict[str, Any] = {
        "last_poll_seconds_ago": round(snapshot.last_poll_age, 1),
        "results_wait_seconds": round(snapshot.results_wait, 1),
        "kafka_away_seconds": round(snapshot.away, 1),
    }
    held = [f"{p.topic}[{p.partition}]@{p.position}" for p in snapshot.partitions if p.held]
    if held:
        facts["partitions_that_stand_still"] = held
    if snapshot.trouble is not None:
        facts["kafka"] = snapshot.trouble
    return Answer.of(good, facts)


def ready(snapshot: Snapshot, check: ReadyCheck | None = None) -> Answer:
    good = snapshot.joined and snapshot.away < AWAY and not snapshot.refused
    facts: dict[str, Any] = {"partitions": len(snapshot.partitions)}
    wrong = check.wrong() if check is not None and good else None
    if wrong is not None:
        facts["why"] = wrong
    return Answer.of(good and wrong is None, facts)
