"""``gworkers pause``, ``resume``, ``quiet``, ``scale``, ``stacks``: what operates a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gworkers.cli import terminal
from gworkers.cli.asking import Running, partitions_told, processes_of
from gworkers.cli.common import configured, examples
from gworkers.config.schema import MOST_CONCURRENCY, MOST_PROCESSES
from gworkers.errors import UnavailableError, UsageError
from gworkers.text import safe


def _selecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which partitions are meant."""
    for name, kind, told in (
        ("--partition", int, "Only the partitions of this number."),
        ("--topic", str, "Only partitions of this topic."),
        ("--route", str, "Only partitions of this route."),
    ):
        function = click.option(name, type=kind, help=told)(function)
    return function


@click.command(
    epilog=examples(
        "gworkers pause -c conf/app.yaml",
        "gworkers pause -c conf/app.yaml --route price",
        "gworkers pause -c conf/app.yaml --topic orders --partition 3",
    )
)
@configured
@_selecting
def pause(file: Path, overrides: tuple[str, ...], **selection: object) -> None:
    """Begin and read nothing more of a route, a topic or a partition; of everything, where none is
    named. What runs goes on, and the server stays in its group. A pause ends with ``resume``, or with
    the process."""
    _tell("paused", Running(file, overrides).post("/pause", **selection))


@click.command(epilog=examples("gworkers resume -c conf/app.yaml", "gworkers resume -c conf/app.yaml --route price"))
@configured
@_selecting
def resume(file: Path, overrides: tuple[str, ...], **selection: object) -> None:
    """Go on with what was paused: all of it, or a route, a topic, a partition."""
    _tell("going on", Running(file, overrides).post("/resume", **selection))


def _tell(what: str, told: dict[str, Any]) -> None:
    click.echo(f"{what}: {partitions_told(told)}")
    still = sorted({name for one in processes_of(told).values() for name in one["still_paused"]})
    if still:
        click.echo(f"paused now: {safe('; '.join(still))}")


@click.command(epilog=examples("gworkers quiet -c conf/app.yaml", "gworkers quiet -c conf/app.yaml --off"))
@configured
@click.option("--off", is_flag=True, help="Go on.")
def quiet(file: Path, overrides: tuple[str, ...], off: bool) -> None:
    """Begin nothing new, finish what runs, and stay; as SIGTSTP does, and with --off SIGCONT."""
    Running(file, overrides).post("/go-on" if off else "/quiet")
    click.echo("going on" if off else "nothing new is begun; gworkers quiet --off goes on")


class NumberOrAuto(click.IntRange):
    """A concurrency, or ``auto``."""

    def __init__(self) -> None:
        super().__init__(1, MOST_CONCURRENCY)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)


@click.command(epilog=examples("gworkers scale -c conf/app.yaml --processes 4", "gworkers scale -c conf/app.yaml --concurrency 128"))
@configured
@click.option(
    "--processes", type=click.IntRange(1, MOST_PROCESSES), help="How many processes there are to be; those that are too many drain."
)
@click.option(
    "--concurrency", type=NumberOrAuto(), help="How many messages each process handles at once; auto goes on to find it after a number."
)
def scale(file: Path, overrides: tuple[str, ...], processes: int | None, concurrency: int | str | None) -> None:
    """Have more or fewer, until the next reload or restart; what runs goes on."""
    server = Running(file, overrides)
    if (processes is None) == (concurrency is None):
        raise UsageError("name either --processes or --concurrency")
    if concurrency is not None:
        server.post("/scale", concurrency=concurrency)
        click.echo(f"concurrency {concurrency} from now on" if concurrency != "auto" else "concurrency is found again")
        return
    assert processes is not None
    if "processes" not in server.get("/status"):
        raise UnavailableError(
            f"the server that runs {file} is a single process; write processes: {max(2, processes)} into it and restart it"
        )
    told = server.post("/scale", processes=processes)
    click.echo(f"{told['processes']} processes from now on, {told['before']} before")


@click.command(epilog=examples("gworkers stacks -c conf/app.yaml", "gworkers stacks -c conf/app.yaml --json"))
@configured
@click.option("--json", "as_json", is_flag=True, help="One JSON object a handler.")
def stacks(file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show each message that is being handled: since when, and the line of code that its handler
    stands at."""
    for number, one in processes_of(Running(file, overrides).get("/stacks")).items():
        for running in one.get("running", ()):
            if as_json:
                terminal.echo_json({"process": int(number), **running})
                continue
            attempt = f", attempt {running['attempt']}" if running["attempt"] > 1 else ""
            terminal.echo(
                f"[{number}] {running['topic']}[{running['partition']}]@{running['offset']} ({running['route']}{attempt}) "
                f"for {running['age']:.1f} s, at"
            )
            for line in running["stack"].splitlines():
                terminal.echo(line)
