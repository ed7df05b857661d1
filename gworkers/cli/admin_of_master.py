"""``gworkers admin-of-master``: what the master of several processes starts for its admin address."""

from __future__ import annotations

from pathlib import Path

import click

from gworkers.admin import of_master
from gworkers.cli.common import configured, given_of
from gworkers.config.load import load


@click.command(name="admin-of-master", hidden=True)
@configured
def admin_of_master(file: Path, overrides: tuple[str, ...]) -> None:
    """Answer for the processes that standard input names, until it ends."""
    of_master.serve(load(file, overrides), given_of(file, overrides))
