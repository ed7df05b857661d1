"""``gworkers config``: the configuration as it is resolved, and where each value comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel

from gworkers.cli.common import configured, examples
from gworkers.config import secrets
from gworkers.config.load import Loaded, load, walk
from gworkers.config.schema import Config
from gworkers.config.yaml import KeyPath


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
    rows = list(_rows(loaded))
    width = min(70, max(len(text) for text, _ in rows))
    for text, origin in rows:
        click.echo(f"{text:<{width}}  # {origin}" if origin else text)


def _schema(context: click.Context, wanted: bool) -> None:
    if wanted:
        click.echo(json.dumps(Config.model_json_schema(), indent=2))
        context.exit()


def _rows(loaded: Loaded) -> Any:
    """Lines of YAML and their origins."""
    serialized = loaded.config.model_dump(by_alias=True)
    origins = loaded.document.origins
    for path, value, _ in walk(loaded.config):
        shown: Any = serialized
        for part in path:
            shown = shown[part]
        indent = "  " * (len(path) - 1 - sum(isinstance(part, int) for part in path))
        key = path[-1]
        origin = _origin(origins, path)
        if isinstance(value, BaseModel):
            yield f"{indent}{key}:", ""
        elif isinstance(value, dict) and any(isinstance(item, BaseModel) for item in value.values()):
            yield f"{indent}{key}:", ""
            for name, item in value.items():
                if isinstance(item, BaseModel):
                    yield f"{indent}  {name}:", _origin(origins, (*path, name))
        elif isinstance(value, dict) and value:
            yield f"{indent}{key}:", ""
            for name, item in value.items():
                below = (*path, name)
                yield f"{indent}  {name}: {_inline(secrets.shown(loaded.document, below, item))}", _origin(origins, below)
        else:
            yield f"{indent}{key}: {_inline(secrets.shown(loaded.document, path, shown))}", origin


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("...").strip()


def _origin(origins: dict[KeyPath, str], path: KeyPath) -> str:
    return origins.get(path, "default")
