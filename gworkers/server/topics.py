"""The topics that routes need: retry topics are made, and what waits longer than its topic keeps it
is found out before anything is lost.

- A retry topic must keep a message for longer than it waits there: otherwise it is deleted while it
  waits, without a result, a dead letter or a word. The process does not start then.
- An input topic should keep a message for longer than ``delay`` and the retries in the process take:
  after a restart it would be gone. That is a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from gworkers.config.load import Loaded
from gworkers.config.yaml import KeyPath, dotted
from gworkers.errors import ConfigError, Problem
from gworkers.handlers.routes import RETRY, Route
from gworkers.kafka import topics
from gworkers.kafka.clients import Clients
from gworkers.kafka.topics import Wanted

log = logging.getLogger("gworkers")

#: For how long a message stays in a retry topic that is made here, after its wait, in seconds: time
#: to notice that nobody reads it.
KEPT_AFTER_WAIT = 7 * 86_400.0
#: Waits that are shorter than this, in seconds, are not compared with retention: no topic keeps less.
SHORT_WAIT = 60.0


def prepare(loaded: Loaded, routes: list[Route], clients: Clients) -> None:
    """Make the retry topics, and compare retention with waits. Blocks. Raises ConfigError for what
    would lose messages, UnavailableError for a topic that cannot be made."""
    retry_topics = {name: wait for route in routes for name, wait in route.retry_topics.items()}
    waits = {topic: wait for route in routes for topic, wait in waits_of(route) if wait >= SHORT_WAIT}
    if clients.embedded or not (retry_topics or waits):
        return
    with topics.opened(clients) as found:
        found.make({name: Wanted(name.rpartition(RETRY)[0], wait + KEPT_AFTER_WAIT) for name, wait in retry_topics.items()})
        kept = found.retention([*retry_topics, *waits])
    problems = list(_too_short(loaded, routes, kept))
    if problems:
        raise ConfigError(*problems)
    for topic, wait in waits.items():
        if kept.get(topic, wait) < wait:
            log.warning(
                "a message of %s may wait for %s until it is handled, and the topic keeps it for %s: after a restart "
                "it would be gone; raise the topic's retention.ms to more than %d",
                topic,
                _told(wait),
                _told(kept[topic]),
                wait * 1000,
            )


def _too_short(loaded: Loaded, routes: list[Route], kept: dict[str, float]) -> Iterator[Problem]:
    for route in routes:
        for name, wait in route.retry_topics.items():
            if kept.get(name, wait + 1) > wait:
                continue
            index = route.config.retry.topics.index(wait)
            path: KeyPath = ("routes", route.name, "retry", "topics", index)
            text = (
                f"messages wait in {name} for {_told(wait)}, and the topic keeps them for {_told(kept[name])}: they would be "
                f"deleted there; make the wait shorter, or the topic's retention longer, by kafka-configs.sh --alter "
                f"--entity-type topics --entity-name {name} --add-config retention.ms={int((wait + KEPT_AFTER_WAIT) * 1000)}"
            )
            yield Problem(loaded.document.where(path), dotted(path), text)


def waits_of(route: Route) -> Iterator[tuple[str, float]]:
    """For each input topic the longest that a message may wait in the process, in seconds."""
    retry = route.config.retry
    backoffs = sum(min(retry.max_backoff, retry.backoff * 2.0 ** min(n, 60)) for n in range(min(retry.attempts - 1, 10_000)))
    for topic in route.config.topics:
        yield topic, (route.config.delay or 0.0) + backoffs


def _told(seconds: float) -> str:
    """``2d``, ``1.5h``: about how long, in the largest unit that fits."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g}{unit}"
    return f"{seconds:.3g}s"
