"""``/metrics``, in the text format of Prometheus."""

from __future__ import annotations

from gworkers.admin.answer import Answer
from gworkers.pipeline.snapshot import Snapshot


def _rows(snapshot: Snapshot) -> list[tuple[str, str, str, float | None]]:
    """Name, kind, meaning and value of each metric; None: not known yet."""
    return [
        ("polled_messages_total", "counter", "Messages read from Kafka.", snapshot.polled),
        ("done_messages_total", "counter", "Messages finished.", snapshot.done),
        ("sent_messages_total", "counter", "Messages acknowledged by the broker, dead letters included.", snapshot.sent),
        ("retries_total", "counter", "Attempts after the first.", snapshot.retried),
        ("dead_letters_total", "counter", "Messages dead-lettered.", snapshot.dead_lettered),
        ("passed_over_messages_total", "counter", "Messages not handled because of when or max_age.", snapshot.passed_over),
        ("skipped_messages_total", "counter", "Messages read again that were known to be finished.", snapshot.skipped),
        ("stuck_handlers_total", "counter", "Handlers that did not end at their limit and were given up.", snapshot.stuck),
        ("fenced_messages_total", "counter", "Completions that came after their partition was revoked.", snapshot.fenced),
        ("commits_total", "counter", "Commits of offsets.", snapshot.commits),
        ("transactions_aborted_total", "counter", "Transactions whose results had to be sent again.", snapshot.aborted),
        ("handler_seconds_total", "counter", "Time spent in handlers.", round(snapshot.busy, 3)),
        ("running_messages", "gauge", "Messages in the hands of handlers.", snapshot.running),
        ("waiting_messages", "gauge", "Messages read and not begun.", snapshot.waiting),
        ("waiting_retries", "gauge", "Messages waiting for another attempt.", snapshot.retrying),
        ("buffered_messages", "gauge", "Messages read and not settled.", snapshot.buffered_messages),
        ("buffered_bytes", "gauge", "Bytes of messages read and not settled, and of their results.", snapshot.buffered_bytes),
        ("uncommitted_messages", "gauge", "Messages that wait for the end of their transaction alone.", snapshot.uncommitted),
        ("assigned_partitions", "gauge", "Partitions assigned to this process.", len(snapshot.partitions)),
        ("held_partitions", "gauge", "Partitions of which nothing more can be read.", sum(p.held for p in snapshot.partitions)),
        ("lag_messages", "gauge", "Messages that are not finished, read or not.", snapshot.lag),
    ]


def page(snapshot: Snapshot) -> Answer:
    lines = []
    for name, kind, told, value in _rows(snapshot):
        if value is not None:
            lines += [f"# HELP gworkers_{name} {told}", f"# TYPE gworkers_{name} {kind}", f"gworkers_{name} {value}"]
    return Answer("200 OK", "text/plain; version=0.0.4", "\n".join(lines) + "\n")
