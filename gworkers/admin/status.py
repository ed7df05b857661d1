"""``/status``: everything that is seen of a process, as JSON, and what holds it back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gworkers
from gworkers import memory
from gworkers.admin import health
from gworkers.admin.answer import Answer, BadRequestError, Request
from gworkers.config.schema import Config
from gworkers.figures import Times
from gworkers.handlers.stacks import Standing
from gworkers.pipeline.interventions import Span, Waiting
from gworkers.pipeline.snapshot import Snapshot
from gworkers.text import KEY_SHOWN, cut, text_of

#: Of the interpreter's lock nobody has more than one core; from here on it is what threads wait for.
ONE_CORE = 0.95

#: Results that have waited for longer than this, in seconds, are held back by the broker.
LONG = 1.0


#: What may hold a process back, and what each word means.
WORDS = {
    "nothing": "there is nothing to do, or nothing stands in the way",
    "handlers": "all handlers are busy: more concurrency would do more",
    "interpreter": "all handlers are busy, and share one core's worth of Python: more processes would do more",
    "order": "messages wait for an earlier one of their key or partition",
    "limit": "a named limit is used up",
    "pace": "messages wait for their delay, a rate or a limit",
    "retries": "messages wait for another attempt",
    "buffer": "the buffer is full of messages and results",
    "partitions": "partitions stand still, because a batch is larger than the buffer",
    "paused": "an operator has paused what there would be to do",
    "quiet": "an operator has had it begin nothing new",
    "group": "the group has not been joined yet",
    "broker": "Kafka does not answer, or does not acknowledge",
}


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
    if running >= snapshot.concurrency and snapshot.cores >= ONE_CORE and config.executor == "thread":
        share = f"all {snapshot.concurrency} handlers are busy, and have {snapshot.cores:.2f} of a core together"
        return "interpreter", f"{share}: they wait for the interpreter's lock; more processes help, more threads do not"
    if running >= snapshot.concurrency:
        found = f", as many as serve best: {snapshot.steering.reason}" if snapshot.steering is not None else ""
        return "handlers", f"all {snapshot.concurrency} handlers are busy{found}"
    taken = next((limit for limit in snapshot.limits if limit.wanted and limit.used >= limit.count), None)
    if taken is not None and waiting:
        return "limit", f"{waiting:,} messages wait; the limit {taken.name} lets {taken.count} handlers run at once, and they do"
    stopped = [partition for partition in snapshot.partitions if partition.paused == "operator" and (partition.lag or partition.waiting)]
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
            "key": cut(text_of(one.job.key) or "", KEY_SHOWN) if one.job.key is not None else None,
            "attempt": one.job.attempt,
            "age": round(one.age, 3),
            "left": round(one.left, 3) if one.left is not None else None,
            "stack": one.stack,
        }
        for one in standing
    ]
    return Answer.shown(True, {"running": found})


def retries(waiting: list[Waiting]) -> Answer:
    """What waits for another attempt here, what is due first before the others."""
    return Answer.shown(True, {"retries": [asdict(one) for one in waiting]})


def offsets(request: Request, spans: Callable[[str, int], list[Span] | None]) -> Answer:
    """What is finished, running, waiting of one partition."""
    topic, partition = request.query.get("topic"), request.number("partition")
    if topic is None or partition is None:
        raise BadRequestError("name a partition: topic, partition")
    found = spans(topic, partition)
    return Answer.shown(found is not None, {"spans": [(span.first, span.end, span.state) for span in found or ()]})


def _plain(snapshot: Snapshot) -> dict[str, Any]:
    """All of it as JSON takes it. Of histograms there is how many, their sum and two quantiles."""
    facts = asdict(snapshot)
    for name in ("commit_times", "joins", "hub_delay"):
        facts[name] = _times(getattr(snapshot, name))
    for route, told in zip(snapshot.routes, facts["routes"], strict=True):
        for name in ("handler", "queue", "end_to_end", "held"):
            told[name] = _times(getattr(route, name))
    return facts


def _times(times: Times) -> dict[str, Any]:
    parts = {name: times.quantile(part) for name, part in (("p50", 0.5), ("p99", 0.99))}
    return {"count": times.count, "sum": round(times.sum, 6), **{name: part and round(part, 6) for name, part in parts.items()}}


def page(snapshot: Snapshot, config: Config) -> Answer:
    word, sentence = holds_back(snapshot, config)
    facts: dict[str, Any] = {
        "version": gworkers.__version__,
        "pid": os.getpid(),
        "group": config.kafka.group,
        "holds_back": word,
        "why": sentence,
        "memory": memory.resident(),
        "threads": memory.threads(),
        "descriptors": memory.descriptors(),
        **_plain(snapshot),
    }
    return Answer.shown(health.well(snapshot), facts)
