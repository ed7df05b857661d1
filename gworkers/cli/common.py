"""What the commands share: where the configuration is, what is laid over it, and where its Kafka
is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gworkers.config.load import Loaded, load
from gworkers.errors import UnavailableError
from gworkers.kafka.clients import Clients
from gworkers.supervisor import run_file


def configured(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options -c and --set, for every command."""
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="A.B.C=VALUE",
        help="Lay a value over the file; may be given several times.",
    )(command)
    return click.option(
        "-c",
        "--config",
        "file",
        type=click.Path(path_type=Path),
        required=True,
        help="The configuration file (YAML).",
    )(command)


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def clients_of(file: Path, overrides: tuple[str, ...]) -> tuple[Loaded, Clients]:
    """Clients for the Kafka of a configuration; for an embedded broker, that of the server which
    runs this file.

    Raises UnavailableError when no such server runs.
    """
    loaded = load(file, overrides)
    servers = loaded.config.kafka.bootstrap_servers
    if servers == "embedded":
        facts = run_file.read(file)
        if facts is None:
            raise UnavailableError(
                f"{file} uses the embedded broker, which lives in its server, and no server runs it; start one with gworkers -c {file}"
            )
        servers = facts["servers"]
    return loaded, Clients(loaded, servers)
