"""``gworkers check``: everything that can be told without Kafka."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gworkers.cli.common import configured, examples
from gworkers.config.load import load
from gworkers.errors import ConfigError
from gworkers.handlers import loading
from gworkers.kafka import versions
from gworkers.server.problems import problems_of


@click.command(epilog=examples("gworkers check -c conf/app.yaml", "gworkers check -c conf/app.yaml --set executor=greenlet"))
@configured
@click.option("--plan", is_flag=True, hidden=True, help="At the end, what a master takes from it, as JSON.")
def check(file: Path, overrides: tuple[str, ...], plan: bool) -> None:
    """Check a configuration: its keys, its handlers, what contradicts itself. Kafka is not asked."""
    versions.check()
    loaded = load(file, overrides)
    problems = problems_of(loaded)
    try:
        routes = loading.load_routes(loaded)
        loading.load_hooks(loaded)
    except ConfigError as error:
        problems.extend(error.problems)
    if problems:
        raise ConfigError(*problems)
    for route in routes:
        source = ", ".join(route.config.topics) or f"topics like {route.config.pattern}"
        click.echo(f"route {route.name}: {source} ─► {route.config.handler} ─► {route.config.output or '(nothing is sent)'}")
        if route.config.dead_letter is None:
            click.echo(f"note: route {route.name} has no dead_letter; the process stops at the first message that fails for good", err=True)
    click.echo(f"{file}: all right")
    if plan:
        click.echo(json.dumps({"processes": loaded.config.processes, "grace": loaded.config.shutdown.grace}))
