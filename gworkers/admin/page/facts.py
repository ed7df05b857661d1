"""What the page shows, asked of the admin address's own pages: of one process or, at a master, of all
of them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from gworkers.admin.answer import Request
from gworkers.admin.server import Pages

#: Seconds for which an answer is shown again: as many viewers as there are ask once.
KEPT = 1.0


@dataclass(frozen=True, slots=True)
class Facts:
    """processes: what each says, by its number; those that do not answer have ``why`` alone. asked:
    when, seconds since 1970."""

    processes: dict[str, dict[str, Any]]
    asked: float

    @property
    def answering(self) -> dict[str, dict[str, Any]]:
        return {number: one for number, one in self.processes.items() if "version" in one}

    def listed(self, name: str) -> list[dict[str, Any]]:
        """A list that each process has, all of them together, each entry with its process."""
        return [{**entry, "process": number} for number, one in self.processes.items() for entry in one.get(name, ())]


class Asking:
    """pages: of the admin address; authorization: what the processes of a master are asked with."""

    def __init__(self, pages: Pages, authorization: str) -> None:
        self._pages = pages
        self._authorization = authorization
        self._kept: dict[str, Facts] = {}

    def ask(self, path: str) -> Facts:
        """What ``path`` says now, or said less than KEPT seconds ago."""
        kept = self._kept.get(path)
        if kept is None or not 0 <= time.time() - kept.asked < KEPT:
            kept = self._kept[path] = self.ask_with(path, {})
        return kept

    def ask_with(self, path: str, query: dict[str, str]) -> Facts:
        """What ``path`` says to a question, now."""
        told = json.loads(self._pages[path](Request(query, self._authorization)).body)
        return Facts(told.get("processes", {"0": told}), time.time())

    def forget(self) -> None:
        """Something has been changed: the next look is a new one."""
        self._kept.clear()
