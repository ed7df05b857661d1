"""``gworkers reset``: where the group goes on, set anew while none of its members runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.common import clients_of, configured, examples
from gworkers.cli.places import chosen, only, place, target_of
from gworkers.config.load import Loaded
from gworkers.errors import UnavailableError
from gworkers.kafka import green
from gworkers.kafka.clients import Clients
from gworkers.kafka.errors import Kind, classify
from gworkers.kafka.group import KafkaGroup
from gworkers.offsets import finished
from gworkers.server import members

#: How long removing members that died may take, in seconds.
REMOVE_TIMEOUT = 5.0


@click.command(
    epilog=examples(
        "gworkers reset -c conf/app.yaml --to beginning --dry-run",
        "gworkers reset -c conf/app.yaml --to 2026-11-26T03:00 --topic orders",
        "gworkers reset -c conf/app.yaml --to 2h --yes                      as it was two hours ago",
        "gworkers reset -c conf/app.yaml --to 4711 --topic orders --partition 3",
    )
)
@configured
@place
@only
@click.option("--dry-run", is_flag=True, help="Only say what would be set.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(file: Path, overrides: tuple[str, ...], where: str, topic: str | None, partition: int | None, dry_run: bool, yes: bool) -> None:
    """Have the group go on elsewhere: at the beginning, the end, an offset, a moment. What was
    finished beyond is forgotten with it. Kafka refuses it while a member of the group is active."""
    target = target_of(where)
    loaded, clients = clients_of(file, overrides)
    consumer = clients.consumer()
    structs = green.module("kafka.structs")
    try:
        offsets = {tp: target(consumer, tp) for tp in chosen(consumer, loaded, topic, partition)}
        for tp, offset in offsets.items():
            committed = consumer.committed(tp)
            before = "nothing committed" if committed is None else str(committed)
            moved = "" if committed is None else f" ({offset - committed:+,})"
            terminal.echo(f"{tp.topic}[{tp.partition}]: {before} -> {offset}{moved}")
        if dry_run:
            return
        if not yes:
            click.confirm(f"Set these for the group {loaded.config.kafka.group}?", abort=True)
        folder = _let_go_of_the_dead(loaded, clients, consumer)
        consumer.commit({tp: structs.OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()})
    except Exception as error:
        if classify(error) in (Kind.GENERATION_OVER, Kind.NO_MEMBER):
            raise UnavailableError(
                f"a member of the group {loaded.config.kafka.group} is active, and would go on where it is; stop all of them first, "
                "or use gworkers seek, which has running ones go on elsewhere"
            ) from None
        raise
    finally:
        consumer.close(autocommit=False)
    if folder is not None:
        finished.forget(folder, loaded.config.kafka.group)  # notes that were made beyond such a commit are not for this one
    click.echo(f"the group {loaded.config.kafka.group} goes on there")


def _let_go_of_the_dead(loaded: Loaded, clients: Clients, consumer: Any) -> Path | None:
    """Members that died on this machine are no reason to refuse it. Returns where such things are
    kept; None where that cannot be had."""
    kafka, folder = loaded.config.kafka, members.place(loaded)
    if folder is not None and kafka.group_instance_id is None:
        dead = members.Members(folder, clients.servers, kafka.group).left_behind()
        if dead:
            KafkaGroup(consumer, clients.rights_of_consumer()).remove(dead, REMOVE_TIMEOUT)
    return folder
