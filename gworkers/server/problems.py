"""What a configuration asks for and cannot be had, beside its keys and handlers, as far as that can be
told without Kafka. ``check``, ``doctor`` and the start ask the same."""

from __future__ import annotations

from gworkers.admin import sending
from gworkers.config.load import Loaded
from gworkers.errors import Problem
from gworkers.kafka import options


def problems_of(loaded: Loaded) -> list[Problem]:
    return [*options.problems(loaded), *sending.problems(loaded)]
