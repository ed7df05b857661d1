"""What operates a running process, by POST: ``/pause`` and ``/resume`` (``route``, ``topic``,
``partition``), ``/quiet`` and ``/go-on``, ``/scale`` (``concurrency``), ``/retry-now`` and
``/give-up`` (messages that wait for another attempt: ``route``, ``topic``, ``partition``,
``offset``), ``/interrupt`` (one that runs: ``topic``, ``partition``, ``offset``).

Each answers with what it has done, and the log says it as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Protocol

from gworkers.admin.answer import Answer, BadRequestError, Request
from gworkers.admin.server import Pages
from gworkers.handlers.job import Job
from gworkers.handlers.partition import Partition
from gworkers.pipeline.assignments import names
from gworkers.pipeline.interventions import Interventions
from gworkers.pipeline.pauses import Pauses, Selection

log = logging.getLogger("gworkers")


class Operated(Protocol):
    """Who does it: the server."""

    def be_quiet(self, quiet: bool, who: str | None = None) -> None: ...

    def resize(self, concurrency: int, who: str) -> str | None: ...

    def find_concurrency(self) -> str | None: ...

    def reload(self, who: str) -> None: ...

    def replace(self, who: str) -> None: ...


def selection_of(request: Request, routes: Collection[str]) -> Selection:
    """Raises BadRequestError for what is none."""
    unknown = set(request.query) - {"route", "topic", "partition"}
    if unknown:
        raise BadRequestError(f"there is no {', '.join(sorted(unknown))} to select by; there are route, topic and partition")
    route, number = request.query.get("route"), request.number("partition")
    if route is not None and route not in routes:
        raise BadRequestError(f"there is no route {route}; there are {', '.join(routes)}")
    if number is None and "partition" in request.query:
        raise BadRequestError(f"the partition {request.query['partition']!r} is no number")
    return Selection(route, request.query.get("topic"), number)


def _wanted(request: Request, routes: Collection[str]) -> Callable[[Job], bool]:
    """The messages that are asked for. Raises BadRequestError."""
    query = {name: value for name, value in request.query.items() if name != "offset"}
    selection, offset = selection_of(Request(query, ""), routes), request.number("offset")
    if offset is None and "offset" in request.query:
        raise BadRequestError(f"the offset {request.query['offset']!r} is no number")
    if offset is not None and (selection.topic is None or selection.partition is None):
        raise BadRequestError("an offset is one of a topic's partition: name topic and partition as well")

    def wanted(job: Job) -> bool:
        topic, number, at = job.source
        named = ((selection.route, job.partition.route.name), (selection.topic, topic), (selection.partition, number), (offset, at))
        return all(asked in (None, own) for asked, own in named)

    return wanted


def actions_of(pauses: Pauses, interventions: Interventions, routes: Collection[str], server: Operated) -> Pages:
    """Those of one process. routes: their names."""

    def answer(what: str, selection: Selection, change: Callable[[Selection], list[Partition]]) -> Answer:
        found = change(selection)
        log.info("an operator: %s %s%s", what, selection, f"; of it here: {names(found)}" if found else "")
        told = [f"{partition.topic}[{partition.number}]" for partition in found]
        return Answer.shown(True, {what: str(selection), "partitions": told, "still_paused": list(map(str, pauses.selections))})

    def quiet(wanted: bool) -> Answer:
        server.be_quiet(wanted, "an operator")
        return Answer.shown(True, {"quiet": wanted})

    def scale(request: Request) -> Answer:
        concurrency, auto = request.number("concurrency"), request.query.get("concurrency") == "auto"
        if (concurrency is None and not auto) or len(request.query) > 1:
            raise BadRequestError("a process is scaled by concurrency, a number or auto; several processes by processes as well")
        problem = server.resize(concurrency, "an operator") if concurrency is not None else server.find_concurrency()
        if problem is not None:
            raise BadRequestError(problem)
        return Answer.shown(True, {"concurrency": concurrency or "auto"})

    def with_retries(change: Callable[[Callable[[Job], bool]], int]) -> Callable[[Request], Answer]:
        return lambda request: Answer.shown(True, {"messages": change(_wanted(request, routes))})

    def interrupt(request: Request) -> Answer:
        topic, partition, offset = request.query.get("topic"), request.number("partition"), request.number("offset")
        if topic is None or partition is None or offset is None:
            raise BadRequestError("name the message: topic, partition, offset")
        problem = interventions.interrupt((topic, partition, offset))
        return Answer.shown(problem is None, {"why": problem or "its handler is told to end"})

    def seek(request: Request) -> Answer:
        topic, partition, offset = request.query.get("topic"), request.number("partition"), request.number("offset")
        if topic is None or partition is None or offset is None:
            raise BadRequestError("name the partition and where it is to go on: topic, partition, offset")
        request.take_time()  # Kafka is asked where it begins
        problem = interventions.seek(topic, partition, offset)
        return Answer.shown(problem is None, {"why": problem or f"it goes on at {offset} when what runs of it has finished"})

    def reload(_: Request) -> Answer:
        server.reload("an operator")
        return Answer.shown(True, {"why": "the configuration is checked; if it is right it is taken up"})

    def replace(_: Request) -> Answer:
        server.replace("an operator")
        return Answer.shown(True, {"why": "it drains and begins anew"})

    return {
        "/scale": scale,
        "/reload": reload,
        "/replace": replace,
        "/retry-now": with_retries(interventions.retry_now),
        "/give-up": with_retries(interventions.give_up),
        "/interrupt": interrupt,
        "/seek": seek,
        "/pause": lambda request: answer("pause", selection_of(request, routes), pauses.pause),
        "/resume": lambda request: answer("resume", selection_of(request, routes), pauses.resume),
        "/quiet": lambda _: quiet(True),
        "/go-on": lambda _: quiet(False),
    }
