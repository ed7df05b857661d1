"""Who hears from the producer what became of results: the deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gworkers.handlers.job import Job


class Receiver(Protocol):
    """Who hears what became of the rows: a Delivery. Called on the Sender greenlet, so nothing in
    it may wait."""

    def acknowledged(self, jobs: Sequence[Job]) -> None:
        """All rows of each of these jobs are acknowledged."""

    def refused(self, job: Job) -> None:
        """A row of the job was refused for good, which is its ``error``; nothing of it is out any
        more."""

    def broke(self, error: BaseException) -> None:
        """Nothing can be sent any more."""
