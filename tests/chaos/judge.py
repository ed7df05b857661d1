"""Reads what came out of a round, and says what was wrong with it.

- lost: messages whose result never came;
- disorder: results of a key whose first occurrence comes after a later message's of the same key;
- twice: results beyond the first of a message, or beyond as many as the input has it: the load's own
  producer (librdkafka, idempotent) writes a message again under a new epoch when the leader of its
  partition changes while the acknowledgement is on its way;
- zombie: results that a server sent after it had been stopped for longer than its session, of
  messages it had begun before;
- pause: the longest time in which no result arrived, in seconds.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import confluent_kafka

from tests.support.servers import until


@dataclass
class Verdict:
    kind: str
    seed: int
    exactly_once: bool = False
    faults: int = 0
    messages: int = 0
    lost: int = 0
    disorder: int = 0
    twice: int = 0
    zombie: int = 0
    pause: float = 0.0
    allowed_twice: int | None = 0  # None: as many as the fault may cause
    allowed_zombie: int = 0
    twice_by_kafka: bool = False  # the input itself had messages twice, of which it has lost one
    notes: list[str] = field(default_factory=list)  # what was wrong besides
    remarks: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        if self.exactly_once:
            twice = self.twice and not self.twice_by_kafka
            return not (self.lost or self.disorder or twice or self.zombie or self.notes)
        twice = self.allowed_twice is None or self.twice <= self.allowed_twice
        return not self.lost and not self.disorder and self.zombie <= self.allowed_zombie and not self.notes and twice


def judge(
    verdict: Verdict,
    results: list[dict[str, Any]],
    wanted: set[int],
    stopped: list[tuple[int, float, float]],
    copies: Mapping[int, int],
) -> None:
    """Write into ``verdict`` what ``results`` say. wanted: the ids that must be there; stopped: for
    each process that was stopped its pid, since when and until when; copies: the ids that the input
    has more than once, and how often."""
    first: dict[int, dict[str, Any]] = {}
    for value in results:
        first.setdefault(value["id"], value)
    for number, found in Counter(value["id"] for value in results).items():
        verdict.twice += max(0, found - copies.get(number, 1))
    verdict.lost = len(wanted - set(first))
    last: dict[str, int] = {}
    for value in sorted(first.values(), key=lambda value: value["where"]):
        if value["id"] < last.get(value["key"], -1):
            verdict.disorder += 1
        last[value["key"]] = max(value["id"], last.get(value["key"], -1))
    for pid, since, went_on in stopped:
        late = [v for v in results if v["pid"] == pid and v["begun"] < since and v["at"] > went_on]
        verdict.zombie += len(late)
    times = sorted(value["at"] for value in results)
    verdict.pause = max((b - a for a, b in itertools.pairwise(times)), default=0.0)


def hanging(servers: str, topic: str) -> bool:
    """Whether a transaction holds back readers of ``topic`` for longer than any may be open."""
    try:
        until(lambda: not _open(servers, topic), 30, "the end of all transactions")
    except AssertionError:
        return True
    return False


def _open(servers: str, topic: str) -> bool:
    """Whether a reader of committed messages is held back somewhere by a transaction that has not
    ended."""
    ends = []
    for isolation in ("read_committed", "read_uncommitted"):
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": servers, "group.id": "none", "isolation.level": isolation, "log_level": 0}
        )
        tps = [confluent_kafka.TopicPartition(topic, number) for number in range(4)]
        try:
            ends.append([consumer.get_watermark_offsets(tp, timeout=10)[1] for tp in tps])
        finally:
            consumer.close()
    return ends[0] < ends[1]


def table(verdicts: Iterable[Verdict]) -> str:
    """One row a kind of fault, in Markdown."""
    kinds: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault(verdict.kind, []).append(verdict)
    rows = ["| fault | rounds | faults | messages | lost | out of order | twice | by a zombie | longest pause |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    everything = [verdict for found in kinds.values() for verdict in found]
    for kind, found in [*sorted(kinds.items()), ("**all**", everything)]:
        sums = [sum(getattr(v, name) for v in found) for name in ("faults", "messages", "lost", "disorder", "twice", "zombie")]
        pause = max((v.pause for v in found), default=0.0)
        rows.append(f"| {kind} | {len(found)} | " + " | ".join(f"{number:,}" for number in sums) + f" | {pause:.1f} s |")
    return "\n".join(rows)
