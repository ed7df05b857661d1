"""``gworkers lag``: how far the group has got, and with ``--map`` which messages hold it up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.common import clients_of, configured, examples, partitions_of
from gworkers.offsets import offset_map

#: How many unfinished offsets of a partition are listed with --map.
LISTED = 20


@click.command(
    epilog=examples("gworkers lag -c conf/app.yaml", "gworkers lag -c conf/app.yaml --map", "gworkers lag -c conf/app.yaml --json")
)
@configured
@click.option("--map", "with_map", is_flag=True, help="List the offsets that are unfinished while later ones are finished, and their age.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a partition.")
@click.option("--watch", "seconds", type=click.FloatRange(0.5), metavar="SECONDS", help="Show it again each so many seconds, until Ctrl-C.")
def lag(file: Path, overrides: tuple[str, ...], with_map: bool, as_json: bool, seconds: float | None) -> None:
    """Show, for each partition, what the group has committed, how many messages are left, and how
    many beyond are finished."""
    loaded, clients = clients_of(file, overrides)
    consumer = clients.consumer()
    try:
        while True:
            _show([_row(consumer, tp, with_map) for tp in partitions_of(consumer, loaded)], as_json=as_json)
            if seconds is None:
                return
            time.sleep(seconds)
            if not as_json:
                click.echo(f"\n{time.strftime('%H:%M:%S')}")
    except KeyboardInterrupt:
        if seconds is None:
            raise
    finally:
        consumer.close(autocommit=False)


def _show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            terminal.echo_json(row)
        return
    terminal.table(_COLUMNS, [_line(row) for row in rows])


_COLUMNS = (
    terminal.Column("TOPIC", 30),
    terminal.Column("PARTITION", 9, number=True),
    terminal.Column("COMMITTED", 12, number=True),
    terminal.Column("END", 12, number=True),
    terminal.Column("LEFT", 10, number=True),
    terminal.Column("FINISHED AHEAD", 15, number=True),
)


def _line(row: dict[str, Any]) -> terminal.Line:
    below = []
    if row["metadata"] is not None:
        below.append(f"  its metadata is no map of finished offsets for it: {row['metadata']}")
    for offset, age in row["unfinished"]:
        told = "gone from Kafka" if age is None else f"{age:,.1f} s old"
        below.append(f"  {row['partition']}@{offset} unfinished, {told}")
    if row["more"]:
        below.append(f"  and {row['more']:,} more")
    committed = "-" if row["committed"] is None else str(row["committed"])
    cells = (row["topic"], str(row["partition"]), committed, str(row["end"]), str(row["left"]), str(row["ahead"]))
    return terminal.Line(cells, below)


def _row(consumer: Any, tp: Any, with_map: bool) -> dict[str, Any]:
    committed = consumer.committed(tp, metadata=True)
    end = consumer.end_offsets([tp])[tp]
    begin = consumer.beginning_offsets([tp])[tp]
    row: dict[str, Any] = {
        "topic": tp.topic,
        "partition": tp.partition,
        "committed": None if committed is None else committed.offset,
        "end": end,
        "left": end - begin,
        "ahead": 0,
        "metadata": None,
        "unfinished": [],
        "more": 0,
    }
    if committed is None:
        return row
    row["left"] = max(0, end - max(begin, committed.offset))
    try:
        found = offset_map.decode(committed.offset, committed.metadata or "")
    except offset_map.ForeignMetadataError as error:
        row["metadata"] = str(error)
        return row
    if found is not None:
        row["ahead"] = found.end - committed.offset - len(found.unfinished)
        row["left"] = max(0, row["left"] - row["ahead"])
        if with_map:
            listed = found.unfinished[:LISTED]
            row["unfinished"] = [(offset, _age(consumer, tp, offset)) for offset in listed]
            row["more"] = len(found.unfinished) - len(listed)
    return row


def _age(consumer: Any, tp: Any, offset: int) -> float | None:
    """Seconds since the message at ``offset`` was written; None when it is not there any more."""
    consumer.assign([tp])
    consumer.seek(tp, offset)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=500, max_records=1).values():
            first = records[0]
            return round(time.time() - first.timestamp / 1000, 1) if first.offset == offset else None
    return None
