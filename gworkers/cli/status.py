"""``gworkers status``: how a running server is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.asking import Running, processes_of
from gworkers.cli.common import configured, examples
from gworkers.config.units import format_duration
from gworkers.errors import Exit, UnavailableError
from gworkers.pipeline.snapshot import PAUSED
from gworkers.text import safe


@click.command(epilog=examples("gworkers status -c conf/app.yaml", "gworkers status -c conf/app.yaml --json"))
@configured
@click.option("--json", "as_json", is_flag=True, help="All that is seen of it, as one JSON object a process.")
def status(file: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """Show how the server is that runs this configuration: what holds it back, its rates, its
    partitions. Ends with 69 when it is not well, or cannot be asked."""
    told = Running(file, overrides).get("/status")
    processes = processes_of(told)
    if not processes:
        raise UnavailableError("none of its processes has begun to listen")
    for number, one in processes.items():
        if as_json:
            terminal.echo_json({"process": int(number), **one})
            continue
        for line in _lines(one):
            click.echo(f"[{number}] {line}" if len(processes) > 1 else line)
    return int(Exit.OK if told["ok"] else Exit.UNAVAILABLE)


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _lines(one: dict[str, Any]) -> Iterator[str]:
    if "holds_back" not in one:
        yield str(one.get("why", "it does not answer"))
        return
    well = "well" if one["ok"] else "NOT WELL"
    yield f"{well}: {safe(one['why'])} ({one['holds_back']}) · pid {one['pid']}, up {format_duration(round(one['uptime']))}"
    lag = "?" if one["lag"] is None else f"{one['lag']:,}"
    yield (
        f"  done {one['done']:,} · running {one['running']} of {one['concurrency']} · waiting {one['waiting']:,} · "
        f"retrying {one['retrying']:,} · dead-lettered {one['dead_lettered']:,} · lag {lag}"
    )
    steering = one["steering"]
    if steering is not None:
        tried = f", trying {steering['wanted']}" if steering["wanted"] != steering["settled"] else ""
        yield f"  concurrency {steering['settled']} ({steering['mode']}{tried}): {safe(steering['reason'])}"
    for route in one["routes"]:
        p50, p99 = (_time(route["handler"][part]) for part in ("p50", "p99"))
        yield (
            f"  route {route['name']}: {route['rate']:,.0f}/s · running {route['running']} · handler p50 {p50}, p99 {p99} · "
            f"failed attempts {sum(route['failed'].values()):,} · retried {route['retried']:,} · dead-lettered {route['dead_lettered']:,}"
        )
    oldest = one["oldest"]
    if oldest is not None and oldest["age"] >= 1:
        yield (
            f"  oldest {safe(oldest['topic'])}[{oldest['partition']}]@{oldest['offset']} ({oldest['route']}), "
            f"running for {format_duration(round(oldest['age']))}"
        )
    for partition in one["partitions"]:
        flags = f", paused: {PAUSED.get(partition['paused'], '')}" if partition["paused"] else ""
        lag = "?" if partition["lag"] is None else f"{partition['lag']:,}"
        name = f"{safe(partition['topic'])}[{partition['partition']}]"
        age = f" ({format_duration(round(partition['lag_seconds']))} old)" if (partition["lag_seconds"] or 0) >= 1 else ""
        yield f"  {name} at {partition['position']}, finished {partition['finished']}, lag {lag}{age}{flags}"
