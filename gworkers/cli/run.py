"""``gworkers run``: serve."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from gworkers.cli.common import configured, examples
from gworkers.config.load import load
from gworkers.config.units import parse_duration
from gworkers.kafka import green


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    epilog=examples(
        "gworkers -c conf/app.yaml",
        "gworkers run -c conf/app.yaml --set concurrency=128",
        "gworkers run -c conf/app.yaml --until-idle 5s",
    )
)
@configured
@click.option("--until-idle", callback=_seconds, metavar="DURATION", help="Stop when there was nothing left to do for so long.")
def run(file: Path, overrides: tuple[str, ...], until_idle: float | None) -> int:
    """Serve until asked to stop (the default command).

    SIGTERM and Ctrl-C let what runs finish, for shutdown.grace at the most; a second one ends the
    process at once.
    """
    loaded = load(file, overrides)
    if loaded.config.executor == "greenlet" and not green.patched():
        # The patch must come before every other import, so the process begins anew; its id stays
        # the same.
        os.execv(sys.executable, [sys.executable, "-m", "gworkers.patched", *sys.argv[1:]])
    from gworkers.supervisor.server import Server

    return Server(loaded, until_idle=until_idle, file=file).run()
