"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


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
