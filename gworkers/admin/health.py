"""``/healthz`` (the process lives) and ``/readyz`` (it is a member of its group, with partitions or
standing by for them)."""

from __future__ import annotations

from gworkers.admin.answer import Answer
from gworkers.pipeline.snapshot import Snapshot

#: A poll older than this, in seconds, means that the process hangs.
STALE_POLL = 60.0
#: Nor is it well when results have been out for longer than this, in seconds, with none acknowledged.
STALE_RESULTS = 60.0


def healthy(snapshot: Snapshot) -> Answer:
    good = snapshot.last_poll_age < STALE_POLL and snapshot.results_wait < STALE_RESULTS
    facts = {"last_poll_seconds_ago": round(snapshot.last_poll_age, 1), "results_wait_seconds": round(snapshot.results_wait, 1)}
    return Answer.of(good, facts)


def ready(snapshot: Snapshot) -> Answer:
    return Answer.of(snapshot.joined, {"partitions": len(snapshot.partitions)})
