"""``/healthz`` (the process lives) and ``/readyz`` (it has partitions)."""

from __future__ import annotations

from gworkers.admin.answer import Answer
from gworkers.pipeline.snapshot import Snapshot

#: A poll older than this, in seconds, means that the process hangs.
STALE_POLL = 60.0


def healthy(snapshot: Snapshot) -> Answer:
    return Answer.of(snapshot.last_poll_age < STALE_POLL, {"last_poll_seconds_ago": round(snapshot.last_poll_age, 1)})


def ready(snapshot: Snapshot) -> Answer:
    count = len(snapshot.partitions)
    return Answer.of(count > 0, {"partitions": count})
