"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gworkers.config.load import Loaded
from gworkers.config.yaml import KeyPath, dotted


class Level(IntEnum):
    """How bad it is."""

    NOTE = 0  # worth knowing
    WARNING = 1  # will hurt at times
    ERROR = 2  # will not work


@dataclass(frozen=True, slots=True)
class Finding:
    """what: a sentence; where: file and line, or what it is about; todo: what to write instead."""

    level: Level
    what: str
    where: str
    todo: str


def where_of(loaded: Loaded, *path: str | int) -> str:
    """Where a key stands in the configuration, and its name."""
    key: KeyPath = path
    return f"{loaded.document.where(key)}: {dotted(key)}"
