"""``gworkers top``: a running server, live, in a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gworkers.cli.asking import Running
from gworkers.cli.common import configured, examples
from gworkers.cli.look import Looking
from gworkers.errors import UnavailableError, UsageError


@click.command(epilog=examples("gworkers top -c conf/app.yaml", "NO_COLOR=1 gworkers top -c conf/app.yaml --interval 5"))
@configured
@click.option("--interval", type=click.FloatRange(0.2), default=1.0, show_default=True, metavar="SECONDS", help="Between two looks.")
def top(file: Path, overrides: tuple[str, ...], interval: float) -> None:
    """Watch the server that runs this configuration: its routes, partitions, running messages and
    failures. Keys: 1 to 4 or Tab choose what is shown, s sorts, / filters, p pauses and r
    resumes what the cursor is at, q quits."""
    looking = Looking(lambda: Running(file, overrides))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("top needs a terminal; gworkers status, stacks and lag print the same once")
    try:
        from gworkers.cli.top_screen import TopScreen
    except ModuleNotFoundError as error:
        raise UnavailableError(f"top needs {error.name}; install gworkers[top]") from None
    TopScreen(looking, interval).run()
