"""``/healthz`` (the process lives) and ``/readyz`` (it is a member of its group, with partitions or
standing by for them)."""

from __future__ import annotations

from gworkers.admin.answer import Answer
from gworkers.pipeline.snapshot import Snapshot

#: A poll older than this, in seconds, means that the process hangs.
STALE_POLL = 60.0


def healthy(snapshot: Snapshot) -> Answer:
    return Answer.of(snapshot.last_poll_age < STALE_POLL, {"last_poll_seconds_ago": round(snapshot.last_poll_age, 1)})


def ready(snapshot: Snapshot) -> Answer:
    return Answer.of(snapshot.joined, {"partitions": len(snapshot.partitions)})
