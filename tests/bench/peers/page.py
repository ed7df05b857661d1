"""docs/peers.md: tables and pictures of what has been measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from statistics import median
from typing import Any

import gworkers
from tests.bench.peers.run import PAGE, PEERS, ROWS, Figures, Peer, Row

Found = dict[str, dict[str, list[dict[str, Any]]]]

HEAD = """# Beside its peers

Made by `bin/bench peers --write`: {cores} cores with Kafka 4.3 beside the peer, Python {python}, messages of
100 bytes in 4 partitions where nothing else is said. Each peer is written as its own documentation has it
and tuned where that is customary ([programs.py](../tests/bench/peers/programs.py),
[Peer.java](../tests/bench/peers/parallel_consumer/Peer.java),
[main.rs](../tests/bench/peers/workers/src/main.rs) say how). Rounds are interleaved, a figure is the median
of {rounds}; the rate is by the times at which the broker appended results, from the first tenth to the last.
A run whose results are not all there has no figure.

Versions: gworkers {version}, {versions}, Parallel Consumer 0.5.3.2 (kafka-clients 3.7), rust-rdkafka 0.36.

"""

MARKS = """What stands behind a figure:

| peer | order of results | commits | a crash costs, beside what comes twice |
|---|---|---|---|
"""


def _runs(found: Found, row: Row, peer: Peer) -> list[Figures]:
    return [Figures(**one) for one in found.get(row.name, {}).get(peer.name, [])]


def _middle(runs: list[Figures], name: str) -> float:
    return float(median(getattr(one, name) for one in runs))


def _cell(found: Found, row: Row, peer: Peer) -> str:
    if not peer.has(row):
        return "–"
    runs = _runs(found, row, peer)
    whole = [one for one in runs if not one.failed]
    if not runs:
        return ""
    if not whole:
        return "incomplete"
    if row.rate:
        return " / ".join(f"{median(one.times[index] for one in whole):.1f}" for index in range(3))
    told = f"{_middle(whole, 'rate'):,.0f}"
    if row.ideal:
        told += f" ({_middle(whole, 'rate') / row.ideal:.2f})"
    return told + (f", {len(runs) - len(whole)} incomplete" if len(whole) < len(runs) else "")


def _committed(found: Found, peer: Peer) -> str:
    if not peer.groups:
        return "accepts each"
    late = [one.late for row in ROWS for one in _runs(found, row, peer) if not one.failed and not row.rate]
    return "–" if not late else "all of it" if max(late) < 0.001 else f"up to {max(late):.0%} missing after 8 s"


def _table(found: Found, rows: list[Row], what: str) -> str:
    peers = [peer for peer in PEERS if any(_runs(found, row, peer) for row in rows)]
    lines = [f"| {what} | {' | '.join(peer.name for peer in peers)} |", f"|{'---|' * (len(peers) + 1)}"]
    for row in rows:
        name = row.name + (f" (ideal {row.ideal:,.0f})" if row.ideal else "")
        lines.append(f"| {name} | {' | '.join(_cell(found, row, peer) for peer in peers)} |")
    return "\n".join(lines) + "\n"


def _costs(found: Found, rows: list[Row]) -> str:
    lines = ["| | CPU a message, µs | memory, MiB |", "|---|---|---|"]
    for row in rows:
        for peer in PEERS:
            whole = [one for one in _runs(found, row, peer) if not one.failed]
            if whole:
                lines.append(f"| {row.name}: {peer.name} | {_middle(whole, 'cpu'):.0f} | {_middle(whole, 'memory') / 2**20:.0f} |")
    return "\n".join(lines) + "\n"


def draw(found: Found, rows: list[Row], file: Path) -> None:
    """A bar for each peer in each row."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gworkers"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(rows), 1, figsize=(8, 0.6 + sum(0.5 + 0.26 * len(PEERS) for _ in rows)), squeeze=False)
    for row, axis in zip(rows, axes[:, 0], strict=True):
        bars = [(peer, runs) for peer in PEERS if (runs := [one for one in _runs(found, row, peer) if not one.failed])]
        bars.sort(key=lambda one: _middle(one[1], "rate"))
        rates = [_middle(runs, "rate") for _, runs in bars]
        colors = ["#2f6f4f" if peer.name.startswith("gworkers") else "#9aa5b1" for peer, _ in bars]
        axis.barh([peer.name for peer, _ in bars], rates, color=colors)
        for index, rate in enumerate(rates):
            axis.text(rate, index, f" {rate:,.0f}", va="center", fontsize=8)
        if row.ideal:
            axis.axvline(row.ideal, color="#c0392b", linewidth=1, linestyle=":")
        axis.set_title(row.name, fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, 1.15 * max([*rates, row.ideal or 0]))
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    figure.savefig(file.with_suffix(".png"), dpi=110)


def write(found: Found) -> None:
    rows = [row for row in ROWS if row.name in found and not row.rate]
    slow = [row for row in ROWS if row.name in found and row.rate]
    rounds = min((len(runs) for each in found.values() for runs in each.values()), default=0)
    versions = ", ".join(sorted({need.replace("==", " ") for peer in PEERS for need in peer.needs if "==" in need}))
    text = HEAD.format(
        cores=os.cpu_count(), python=platform.python_version(), rounds=rounds, version=gworkers.__version__, versions=versions
    )
    text += "## Results a second\n\n" + _table(found, rows, "")
    text += "\n![Results a second of each peer](peers.svg)\n"
    if slow:
        text += "\n## Latency\n\nFrom the intended time of sending to the append time of the result: milliseconds, p50 / p99 / p99.9.\n\n"
        text += _table(found, slow, "messages")
    text += "\n## What it costs\n\n" + _costs(found, rows)
    text += "\n" + MARKS
    for peer in PEERS:
        text += f"| {peer.name} | {peer.order} | {_committed(found, peer)} | {peer.loses} |\n"
    PAGE.write_text(text)
    draw(found, rows, PAGE.with_suffix(".svg"))
