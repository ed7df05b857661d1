"""One builder for what unit tests and benchmarks need of the pipeline: routes, partitions and jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gworkers.codecs import CODECS, Decoder, custom_encoder
from gworkers.config.route import Route as RouteConfig
from gworkers.handlers.around import Surrounding
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.handlers.routes import Route, compile_route

Errors = Sequence[type[BaseException]]


def nothing(value: Any) -> None:
    """A handler."""


def route_of(
    handler: Callable[[Any], Any] = nothing,
    *,
    only: Errors = (),
    never: Errors = (),
    fit: Callable[[Any], Any] | None = None,
    surrounding: Surrounding | None = None,
    **config: Any,
) -> Route:
    """A route from keys of the configuration. A codec that is a dotted path gives back what it
    gets."""
    model = RouteConfig.model_validate({"topics": ["in"], "handler": "a:b", **config})
    decoder = CODECS[model.decode].decode if model.decode in CODECS else Decoder(lambda value: value)
    encoder = CODECS[model.encode].encode if model.encode in CODECS else custom_encoder(lambda value: value)
    return compile_route("r", model, handler, decoder, encoder, only=only, never=never, fit=fit, surrounding=surrounding)


def partition_of(route: Route | None = None, number: int = 3, start: int | None = 0, topic: str = "in", **config: Any) -> Partition:
    """An assignment of one partition; of a route with these keys, if none is given."""
    return Partition(topic, number, route if route is not None else route_of(**config), start)


def job_of(
    partition: Partition,
    offset: int = 0,
    value: bytes | None = b"",
    *,
    key: bytes | None = None,
    headers: Sequence[tuple[str, bytes | None]] = (),
    timestamp: int = 0,
    size: int = 1,
    attempt: int = 1,
    error: BaseException | None = None,
) -> Job:
    """A message of a partition."""
    job = Job(offset, timestamp, key, value, headers, size)
    job.partition, job.attempt, job.error, job.read_at = partition, attempt, error, 0.0
    return job


class NobodyIdle:
    """Idle workers for a scheduler of its own: there are none."""

    def wake(self, ready: int) -> None:
        assert ready >= 0
