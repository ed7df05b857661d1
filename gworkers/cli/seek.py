"""``gworkers seek``: partitions of a running server go on elsewhere."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.asking import Running, processes_of
from gworkers.cli.common import clients_of, configured, examples
from gworkers.cli.places import chosen, only, place, target_of
from gworkers.errors import UnavailableError

#: For how long a partition is looked for that no process has now, and how often, in seconds.
PATIENCE, LOOK_INTERVAL = 10.0, 0.5


@dataclass(frozen=True, slots=True)
class Move:
    """One partition. now: what the group has committed, None where it has nothing; to: where it is to
    go on; means: what becomes of the messages between, a sentence."""

    topic: str
    partition: int
    now: int | None
    to: int
    means: str


@click.command(
    epilog=examples(
        "gworkers seek -c conf/app.yaml --to 2h --topic orders --dry-run",
        "gworkers seek -c conf/app.yaml --to 4711 --topic orders --partition 3",
    )
)
@configured
@place
@only
@click.option("--dry-run", is_flag=True, help="Only say what it would mean.")
@click.option("--json", "as_json", is_flag=True, help="What it would mean, one JSON object a partition; nothing is done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def seek(
    file: Path, overrides: tuple[str, ...], where: str, topic: str | None, partition: int | None, dry_run: bool, as_json: bool, yes: bool
) -> None:
    """Have partitions go on elsewhere while the server runs: at the beginning, the end, an offset, a
    moment. What runs of them finishes first; what waits, also for another attempt, is dropped. Where
    none runs, gworkers reset does it."""
    moves = _moves(file, overrides, where, topic, partition)
    for move in moves:
        if as_json:
            terminal.echo_json(asdict(move))
        else:
            now = "nothing committed" if move.now is None else str(move.now)
            terminal.echo(f"{move.topic}[{move.partition}]: {now} -> {move.to}: {move.means}")
    if dry_run or as_json:
        return
    server = Running(file, overrides)
    if not yes:
        click.confirm("Have the server go on there?", abort=True)
    for move in moves:
        terminal.echo(f"{move.topic}[{move.partition}]: {_done(server, move)}")


def _done(server: Running, move: Move) -> str:
    """What the process says that has the partition; while it goes from one to another none has it.
    Raises UnavailableError."""
    deadline = time.monotonic() + PATIENCE
    while True:
        told = processes_of(server.post("/seek", topic=move.topic, partition=move.partition, offset=move.to))
        for one in told.values():
            if one.get("ok"):
                return str(one["why"])
        if time.monotonic() > deadline:
            raise UnavailableError("; ".join(dict.fromkeys(str(one.get("why")) for one in told.values())) or "no process answers")
        time.sleep(LOOK_INTERVAL)


def _moves(file: Path, overrides: tuple[str, ...], where: str, topic: str | None, partition: int | None) -> list[Move]:
    target = target_of(where)
    loaded, clients = clients_of(file, overrides)
    consumer = clients.consumer()
    try:
        found = []
        for tp in chosen(consumer, loaded, topic, partition):
            committed, to = consumer.committed(tp), target(consumer, tp)
            found.append(Move(tp.topic, tp.partition, committed, to, _meaning(committed, to)))
        return found
    finally:
        consumer.close(autocommit=False)


def _meaning(now: Any, to: int) -> str:
    if now is None:
        return "nothing has been committed of it yet"
    if to < now:
        return f"up to {now - to:,} messages run again"
    return f"up to {to - now:,} messages are passed over" if to > now else "it goes on where it is; what runs ahead runs again"
