"""What each screen shows, made of what the admin address says: plain values for the templates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from gworkers.admin.page.facts import Facts
from gworkers.admin.page.history import Point
from gworkers.pipeline.interventions import STATES

#: Rows that a screen shows at the most; the rest is counted.
MOST_ROWS = 500
#: Spots of a partition's ribbon.
SPOTS = 100


def wellness(facts: Facts) -> tuple[str, list[tuple[str, bool, str]]]:
    """``well``, ``unwell`` or ``gone``, and of each process its number, whether it is well, its
    sentence."""
    told = [(number, bool(one.get("ok")), str(one.get("why", ""))) for number, one in facts.processes.items()]
    if not facts.answering:
        return "gone", told
    return ("well" if all(ok for _, ok, _ in told) else "unwell"), told


def totals(facts: Facts) -> dict[str, Any]:
    found = list(facts.answering.values())
    lags = [one["lag"] for one in found]
    return {
        **{name: sum(one[name] for one in found) for name in ("running", "concurrency", "retrying", "dead_lettered")},
        "rate": sum(route["rate"] for one in found for route in one["routes"]),
        "lag": None if None in lags else sum(lags),
        "lag_seconds": max((p["lag_seconds"] or 0.0 for one in found for p in one["partitions"]), default=0.0),
        "paused": paused(facts),
    }


def paused(facts: Facts) -> list[str]:
    """What an operator has paused in one of the processes."""
    return sorted({name for one in facts.answering.values() for name in one["paused"]})


def gone_in(points: Sequence[Point], lag: int | None) -> float | None:
    """Seconds until the lag is worked off at the speed of the last two minutes; None when it does not
    shrink, or is not known."""
    known = [point for point in points[-12:] if point.lag is not None]
    if not lag or len(known) < 2 or known[-1].at == known[0].at:
        return None
    shrinks = ((known[0].lag or 0) - (known[-1].lag or 0)) / (known[-1].at - known[0].at)
    return lag / shrinks if shrinks > 0 else None


def routes(facts: Facts) -> list[dict[str, Any]]:
    """One entry a route, of all processes together; of times the worst process's."""
    together: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in facts.answering.values():
        for route in one["routes"]:
            together[route["name"]].append(route)
    rows = []
    for name, found in together.items():
        failed: dict[str, int] = defaultdict(int)
        for route in found:
            for reason, count in route["failed"].items():
                failed[reason] += count
        sums = {part: sum(route[part] for route in found) for part in ("received", "done", "rate", "running", "retried", "dead_lettered")}
        times = {
            part: {quantile: max((route[part][quantile] or 0.0 for route in found), default=0.0) for quantile in ("p50", "p99")}
            for part in ("handler", "queue", "end_to_end", "held")
        }
        rows.append({"name": name, **sums, **times, "failed": sorted(failed.items(), key=lambda one: -one[1])})
    return rows


def partitions(facts: Facts, topic: str | None = None) -> list[tuple[str, list[dict[str, Any]]]]:
    """By topic, each with its partitions in order, and the process that has it."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in facts.listed("partitions"):
        if topic in (None, one["topic"]):
            found[one["topic"]].append(one)
    return [(name, sorted(rows, key=lambda one: one["partition"])) for name, rows in sorted(found.items())]


def ribbon(spans: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """The spans of ``/offsets`` as SPOTS spots of the same width, each with its offsets and the most
    urgent state among them."""
    found = [(int(first), int(end), str(state)) for first, end, state in spans]
    if not found:
        return []
    begin, end = found[0][0], found[-1][1]
    width = max(1, -(-(end - begin) // SPOTS))
    spots: list[dict[str, Any]] = [
        {"first": at, "end": min(at + width, end), "state": "finished", "offset": None, "counts": defaultdict(int)}
        for at in range(begin, end, width)
    ]
    for first, last, state in found:
        for index in range((first - begin) // width, (last - 1 - begin) // width + 1):
            spot = spots[index]
            spot["counts"][state] += min(last, spot["end"]) - max(first, spot["first"])
            if STATES.index(state) < STATES.index(spot["state"]):
                spot["state"], spot["offset"] = state, first
    return spots


def searched(rows: list[dict[str, Any]], text: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Those of which one of the fields contains the text."""
    wanted = text.casefold()
    return [row for row in rows if not wanted or any(wanted in str(row.get(name, "")).casefold() for name in names)]


def kinds(facts: Facts) -> list[dict[str, Any]]:
    """What failed, of all processes together, by what looks the same; the latest first."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for one in facts.listed("kinds"):
        last = one["last"]
        key = (last["route"], last["error"], str(last["where"]))
        kind = found.setdefault(key, {"count": 0, "first": one["first"], "last": last})
        kind["count"] += one["count"]
        kind["first"] = min(kind["first"], one["first"])
        if last["at"] > kind["last"]["at"]:
            kind["last"] = last
    return sorted(found.values(), key=lambda one: -one["last"]["at"])
