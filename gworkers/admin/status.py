"""``/status``: everything that is seen of a process, as JSON, and what holds it back."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import gworkers
from gworkers.admin import health
from gworkers.admin.answer import Answer
from gworkers.config.schema import Config
from gworkers.handlers.stacks import Standing
from gworkers.pipeline.snapshot import BY_OPERATOR, Snapshot

#: Results that have waited for longer than this, in seconds, are held back by the broker.
LONG = 1.0


def holds_back(snapshot: Snapshot, config: Config) -> tuple[str, str]:
    """What keeps the process from doing more at this moment: one word, and a sentence."""
    running, waiting = snapshot.running, snapshot.waiting
    if snapshot.trouble is not None or snapshot.away > LONG:
        return "broker", snapshot.trouble or f"no broker has been connected for {snapshot.away:.0f} s"
    if not snapshot.joined:
        return "group", "the group has not been joined yet"
    if snapshot.results_wait > LONG:
        return "broker", f"results have waited {snapshot.results_wait:.0f} s for the broker to acknowledge them"
    if snapshot.quiet:
        return "quiet", f"it begins nothing new until it is told to go on; {running} run"
    if snapshot.buffered_bytes >= config.buffer.bytes:
        return "buffer", f"{snapshot.buffered_bytes:,} bytes of messages and results are in the process, all that buffer.bytes allows"
    if running >= snapshot.concurrency:
        return "handlers", f"all {snapshot.concurrency} handlers are busy"
    stopped = [
        partition for partition in snapshot.partitions if partition.why_paused == BY_OPERATOR and (partition.lag or partition.waiting)
    ]
    if stopped and not running:
        return "paused", f"an operator has paused {', '.join(snapshot.paused)}"
    if waiting and running:
        return "order", f"{waiting:,} messages wait, for an earlier one of their key or partition, a rate or a limit; {running:,} run"
    if waiting:
        return "pace", f"{waiting:,} messages wait for their delay, a rate or a limit; none runs"
    if running or snapshot.backlog:
        return "nothing", f"{running} of {snapshot.concurrency} handlers are busy, and messages are being read"
    if snapshot.retrying:
        return "retries", f"{snapshot.retrying:,} messages wait for another attempt, and there is nothing else to do"
    held = sum(partition.held for partition in snapshot.partitions)
    if held:
        return "partitions", f"{held} partitions stand still, because a batch in them is larger than buffer.bytes"
    return "nothing", "there is nothing to do" if snapshot.partitions else "it stands by: all partitions are others'"


def stacks(standing: list[Standing]) -> Answer:
    """Where each handler stands, the one that began first before the others."""
    found = [
        {
            "route": one.job.partition.route.name,
            "topic": one.job.source[0],
            "partition": one.job.source[1],
            "offset": one.job.source[2],
            "attempt": one.job.attempt,
            "age": round(one.age, 3),
            "stack": one.stack,
        }
        for one in standing
    ]
    return Answer.shown(True, {"running": found})


def page(snapshot: Snapshot, config: Config) -> Answer:
    word, sentence = holds_back(snapshot, config)
    facts: dict[str, Any] = {
        "version": gworkers.__version__,
        "pid": os.getpid(),
        "group": config.kafka.group,
        "holds_back": word,
        "why": sentence,
        **asdict(snapshot),
    }
    return Answer.shown(health.well(snapshot), facts)
