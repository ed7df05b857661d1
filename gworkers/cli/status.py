"""``gworkers status``: how a running server is."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.common import configured, examples
from gworkers.config.load import load
from gworkers.config.units import format_duration
from gworkers.errors import Exit, UnavailableError
from gworkers.supervisor import run_file
from gworkers.text import safe

#: Seconds that the server has to answer.
PATIENCE = 5.0


@click.command(epilog=examples("gworkers status -c conf/app.yaml", "gworkers status -c conf/app.yaml --json"))
@configured
@click.option("--json", "as_json", is_flag=True, help="All that is seen of it, as one JSON object a process.")
def status(file: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """Show how the server is that runs this configuration: what holds it back, its rates, its
    partitions. Ends with 69 when it is not well, or cannot be asked."""
    config = load(file, overrides).config
    facts = run_file.read(file)
    if facts is None:
        raise UnavailableError(f"no server runs {file}; start one with gworkers -c {file}")
    address = facts.get("admin")
    if not isinstance(address, str):
        raise UnavailableError(f"the server that runs {file} has no admin address; set admin.bind, for example to 127.0.0.1:0")
    told = _ask(address, config.admin.token or config.admin.read_token)
    processes = told.get("processes", {"0": told})
    for number, one in processes.items():
        if as_json:
            terminal.echo_json({"process": int(number), **one})
            continue
        for line in _lines(one):
            click.echo(f"[{number}] {line}" if len(processes) > 1 else line)
    return int(Exit.OK if told["ok"] else Exit.UNAVAILABLE)


def _ask(address: str, token: str | None) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{address}/status", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
            told: dict[str, Any] = json.load(answer)
            return told
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UnavailableError(f"the server at {address} cannot be asked: {reason}") from None


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
    for partition in one["partitions"]:
        flags = "".join(f" {flag}" for flag in ("paused", "held") if partition[flag])
        lag = "?" if partition["lag"] is None else f"{partition['lag']:,}"
        name = f"{safe(partition['topic'])}[{partition['partition']}]"
        yield f"  {name} at {partition['position']}, finished {partition['finished']}, lag {lag}{flags}"
