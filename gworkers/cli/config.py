"""``gworkers config``: the configuration as it is resolved, and where each value comes from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gworkers.cli.common import configured, examples
from gworkers.config.load import load
from gworkers.config.origins import rows
from gworkers.config.schema import Config


@click.command(
    epilog=examples(
        "gworkers config -c conf/app.yaml",
        "gworkers config -c conf/app.yaml --set concurrency=8",
        "gworkers config --schema > gworkers.schema.json",
    )
)
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    help="Print the JSON Schema for editors.",
    callback=lambda c, p, v: _schema(c, v),
)
@configured
def config(file: Path, overrides: tuple[str, ...]) -> None:
    """Show the resolved configuration, each value with where it comes from; secrets are hidden."""
    loaded = load(file, overrides)
    found = list(rows(loaded))
    width = min(70, max(len(text) for text, _ in found))
    for text, origin in found:
        click.echo(f"{text:<{width}}  # {origin}" if origin else text)


def _schema(context: click.Context, wanted: bool) -> None:
    if wanted:
        click.echo(json.dumps(Config.model_json_schema(), indent=2))
        context.exit()
