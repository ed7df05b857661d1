"""``gworkers doctor``: what will hurt, before the deploy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from gworkers.cli import terminal
from gworkers.cli.common import clients_of, configured, examples
from gworkers.config.load import Loaded, load
from gworkers.config.units import parse_duration
from gworkers.doctor.finding import Finding, Level
from gworkers.errors import ConfigError, Exit, UnavailableError, UsageError
from gworkers.handlers import loading
from gworkers.handlers.routes import Route
from gworkers.kafka import versions
from gworkers.server.problems import problems_of


@click.command(
    epilog=examples(
        "gworkers doctor -c conf/app.yaml",
        "gworkers doctor -c conf/app.yaml --no-kafka --stop-within 60s",
        "gworkers doctor -c conf/app.yaml --json",
    )
)
@configured
@click.option("--no-kafka", is_flag=True, help="Do not ask the cluster.")
@click.option("--stop-within", metavar="TIME", help="How long the supervisor waits after SIGTERM before it kills.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding.")
def doctor(file: Path, overrides: tuple[str, ...], no_kafka: bool, stop_within: str | None, as_json: bool) -> int:
    """Look for what will hurt: in the configuration, in the application's code, on this machine, in
    the cluster. Ends with 0 when there is nothing worse than a note, with 1 for warnings, with 78
    for what will not work."""
    try:
        within = parse_duration(stop_within) if stop_within is not None else None
    except ValueError as error:
        raise UsageError(f"--stop-within {stop_within}: {error}") from None
    found = sorted(_look(file, overrides, within, ask=not no_kafka), key=lambda one: -one.level)
    for one in found:
        if as_json:
            terminal.echo_json({**asdict(one), "level": one.level.name.lower()})
        else:
            terminal.echo(f"{one.level.name.lower()}: {one.where}: {one.what}")
            terminal.echo(f"  ─► {one.todo}")
    worst = found[0].level if found else Level.NOTE
    if not as_json:
        counts = {level: sum(one.level is level for one in found) for level in reversed(Level)}
        told = ", ".join(f"{count} {level.name.lower()}{'s' if count > 1 else ''}" for level, count in counts.items() if count)
        click.echo(f"{file}: {told or 'nothing found'}")
    return int({Level.NOTE: Exit.OK, Level.WARNING: Exit.UNSETTLED, Level.ERROR: Exit.CONFIG}[worst])


def _look(file: Path, overrides: tuple[str, ...], stop_within: float | None, *, ask: bool) -> list[Finding]:
    from gworkers.doctor import code, settings  # no other command needs them

    versions.check()
    loaded = load(file, overrides)
    problems = problems_of(loaded)
    routes: list[Route] = []
    try:
        routes = loading.load_routes(loaded, begin=True)
        loading.load_hooks(loaded)
    except ConfigError as error:
        problems.extend(error.problems)
    found = [Finding(Level.ERROR, one.text, f"{one.where}: {one.key}", "the server does not start with it") for one in problems]
    found += settings.findings(loaded, stop_within)
    found += code.findings(loaded.config, loaded.folder / loaded.config.app.path)
    if ask and loaded.config.kafka.bootstrap_servers != "embedded":
        found += _of_kafka(file, overrides, loaded, routes)
    return found


def _of_kafka(file: Path, overrides: tuple[str, ...], loaded: Loaded, routes: list[Route]) -> list[Finding]:
    from gworkers.doctor import kafka

    try:
        _, clients = clients_of(file, overrides)
        return list(kafka.findings(loaded, routes, clients))
    except UnavailableError as error:
        return [Finding(Level.ERROR, str(error), "Kafka", "--no-kafka looks at the rest alone")]
