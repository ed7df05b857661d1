"""What the brokers allow, against what the configuration wants of them; how its topics are kept; and
whether clocks agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from gworkers.config.load import Loaded
from gworkers.config.units import format_duration
from gworkers.doctor.finding import Finding, Level, where_of
from gworkers.errors import UnavailableError
from gworkers.handlers.routes import Route
from gworkers.kafka import cluster
from gworkers.kafka.clients import Clients
from gworkers.kafka.cluster import Cluster, Settings, kept_for
from gworkers.server.topics import waits_of

#: The oldest brokers that can raise a transactional producer's epoch in place.
FOR_TRANSACTIONS = (2, 5)
#: kafka-python's defaults, in milliseconds and bytes.
SESSION_TIMEOUT, TRANSACTION_TIMEOUT, MAX_REQUEST_SIZE = 45_000, 10_000, 1_048_576
#: Bytes that a dead letter may have more than its message, in headers.
HEADERS = 65_536
#: Seconds for which a group that stands still should be remembered.
REMEMBERED = 86_400
#: Seconds by which clocks may differ, and how long new messages are waited for to compare them.
CLOCKS_DIFFER, LOOK_AGAIN = 2.0, 1.0


def findings(
    loaded: Loaded, routes: Sequence[Route], clients: Clients, there: Collection[str], read: Mapping[str, int]
) -> Iterator[Finding]:
    """there: the topics that there are; read: of those that are consumed, how many partitions they
    have. Blocks, for a second at the least."""
    with cluster.opened(clients) as opened:
        yield from of_version(opened.version, loaded)
        looks: dict[str, Callable[[], Iterator[Finding]]] = {
            "the brokers' limits": lambda: _limits(loaded, opened.of_brokers()),
            "how topics are kept": lambda: _topics(loaded, routes, opened, there),
            "times of messages": lambda: _clocks(opened, read),
        }
        for name, look in looks.items():
            try:
                yield from look()
            except UnavailableError as error:
                what = f"{name} cannot be looked at: {error}"
                yield Finding(Level.NOTE, what, "Kafka", "DESCRIBE_CONFIGS on the cluster and its topics shows them")


def of_version(version: tuple[int, ...], loaded: Loaded) -> Iterator[Finding]:
    """version: of the brokers."""
    if loaded.config.delivery == "exactly-once" and version and version < FOR_TRANSACTIONS:
        told, least = ".".join(map(str, version)), ".".join(map(str, FOR_TRANSACTIONS))
        what = f"the brokers are of Apache Kafka {told}, and exactly-once needs {least} or later"
        yield Finding(Level.ERROR, what, where_of(loaded, "delivery"), "newer brokers, or at-least-once")


def _limits(loaded: Loaded, brokers: Settings) -> Iterator[Finding]:
    config = loaded.config
    session = int(config.kafka.consumer.get("session_timeout_ms", SESSION_TIMEOUT))
    for name, allowed in (("group.min.session.timeout.ms", int.__ge__), ("group.max.session.timeout.ms", int.__le__)):
        limit = _number(brokers, name)
        if limit is not None and not allowed(session, limit):
            what = f"the session's time-out is {session} ms, and the brokers' {name} is {limit}: the group does not let it in"
            where = where_of(loaded, "kafka", "consumer", "session_timeout_ms")
            yield Finding(Level.ERROR, what, where, f"a time-out that keeps to {name}")
    longest = _number(brokers, "transaction.max.timeout.ms")
    wanted = int(config.kafka.producer.get("transaction_timeout_ms", TRANSACTION_TIMEOUT))
    if config.delivery == "exactly-once" and longest is not None and wanted > longest:
        what = f"a transaction may take {wanted} ms, and the brokers' transaction.max.timeout.ms is {longest}: they refuse the producer"
        yield Finding(Level.ERROR, what, where_of(loaded, "kafka", "producer", "transaction_timeout_ms"), f"{longest} at the most")
    members = _number(brokers, "group.max.size")
    if members is not None and members < config.processes:
        what = f"{config.processes} processes, and the brokers' group.max.size is {members}: the group lets no more in"
        yield Finding(Level.ERROR, what, where_of(loaded, "processes"), f"{members} processes at the most, on all machines")
    minutes = _number(brokers, "offsets.retention.minutes")
    if minutes is not None and 60 * minutes < REMEMBERED:
        what = (
            f"the brokers' offsets.retention.minutes is {minutes}: a group that is stopped for longer than "
            f"{format_duration(60 * minutes)} loses its place, and begins where kafka.auto_offset_reset says"
        )
        yield Finding(Level.WARNING, what, where_of(loaded, "kafka", "group"), "a week, which is Kafka's default: 10080")


def _topics(loaded: Loaded, routes: Sequence[Route], opened: Cluster, there: Collection[str]) -> Iterator[Finding]:
    if not there:
        return
    settings, replicas = opened.of_topics(there), opened.replicas(there)
    yield from _retention(routes, settings)
    written: dict[str, str] = {}
    for name, route in loaded.config.routes.items():
        for key in ("output", "dead_letter"):
            topic = getattr(route, key)
            if topic in there:
                written.setdefault(topic, where_of(loaded, "routes", name, key))
        yield from _sizes(loaded, name, settings)
        dead = settings.get(route.dead_letter or "", {})
        if "compact" in dead.get("cleanup.policy", ""):
            what = f"{route.dead_letter} is compacted: it keeps the last dead letter of a key alone, and takes none without a key"
            yield Finding(Level.ERROR, what, where_of(loaded, "routes", name, "dead_letter"), "cleanup.policy=delete")
    for topic, where in written.items():
        least = _number(settings.get(topic, {}), "min.insync.replicas")
        if least is not None and replicas.get(topic, least) < least:
            has = f"{topic} has {replicas[topic]} replica{'s' if replicas[topic] > 1 else ''}"
            what = f"{has}, and its min.insync.replicas is {least}: every write to it is refused"
            yield Finding(Level.ERROR, what, where, "more replicas, or a smaller min.insync.replicas")
    for topic in there:
        if settings.get(topic, {}).get("unclean.leader.election.enable") == "true" and replicas.get(topic, 1) > 1:
            what = f"{topic} takes a leader that has not all of its messages: what was acknowledged may be lost when a broker dies"
            yield Finding(Level.WARNING, what, f"the topic {topic}", "unclean.leader.election.enable=false")


def _retention(routes: Sequence[Route], settings: Mapping[str, Settings]) -> Iterator[Finding]:
    waits = {topic: wait for route in routes for topic, wait in waits_of(route) if topic in settings}
    for topic, wait in waits.items():
        kept = kept_for(settings[topic])
        if kept < wait:
            what = (
                f"a message of {topic} may wait {format_duration(round(wait))} for its last attempt, and the topic keeps it for "
                f"{format_duration(round(kept))}: after a restart it would be gone"
            )
            todo = f"retention.ms of more than {wait * 1000:.0f}, or fewer attempts"
            yield Finding(Level.WARNING, what, f"the topic {topic}", todo)


def _sizes(loaded: Loaded, name: str, settings: Mapping[str, Settings]) -> Iterator[Finding]:
    """A message that is as large as its topic allows has to fit into the topic for dead letters, and
    into a request of the producer."""
    route = loaded.config.routes[name]
    largest = max((_number(settings.get(topic, {}), "max.message.bytes") or 0 for topic in route.topics), default=0)
    request = int(loaded.config.kafka.producer.get("max_request_size", MAX_REQUEST_SIZE))
    room = _number(settings.get(route.dead_letter or "", {}), "max.message.bytes")
    if room is not None and room < largest:
        what = f"a message may have {largest:,} bytes, and {route.dead_letter} takes {room:,}: it could not become a dead letter"
        todo = f"max.message.bytes of {largest + HEADERS} for {route.dead_letter}"
        yield Finding(Level.WARNING, what, where_of(loaded, "routes", name, "dead_letter"), todo)
    if room is not None and request + HEADERS < largest:
        what = f"a message may have {largest:,} bytes, and a request of the producer {request:,}: it could not become a dead letter"
        where = where_of(loaded, "kafka", "producer", "max_request_size")
        yield Finding(Level.WARNING, what, where, f"kafka.producer.max_request_size: {largest + HEADERS}")


def _clocks(opened: Cluster, read: Mapping[str, int]) -> Iterator[Finding]:
    asked = [(topic, number) for topic, count in read.items() for number in range(count)]
    if not asked or (opened.version and opened.version < (3, 0)):
        return
    before, begun = opened.newest(asked), time.time()
    time.sleep(LOOK_AGAIN)
    yield from of_times(before, begun, opened.newest(asked), time.time())


def of_times(
    before: Mapping[tuple[str, int], tuple[int, float]], begun: float, after: Mapping[tuple[str, int], tuple[int, float]], ended: float
) -> Iterator[Finding]:
    """before, after: offset and time of each partition's latest message, asked for at ``begun`` and
    ``ended`` of this machine's clock."""
    ahead: dict[str, float] = {}
    behind: dict[str, float] = {}
    for (topic, number), (offset, at) in after.items():
        if at - ended > CLOCKS_DIFFER:
            ahead[topic] = max(ahead.get(topic, 0.0), at - ended)
        elif offset != before.get((topic, number), (offset, at))[0] and begun - at > CLOCKS_DIFFER:
            behind[topic] = min(behind.get(topic, begun - at), begun - at)
    matters = "ages, time-outs by age and the lag in seconds are wrong by as much"
    for topic, by in sorted(ahead.items()):
        what = f"the latest message of {topic} is {format_duration(round(by))} ahead of this machine's clock: {matters}"
        yield Finding(Level.WARNING, what, f"the topic {topic}", "NTP on this machine and on those that write")
    for topic, by in sorted(behind.items()):
        what = (
            f"messages come to {topic} now, and their times are {format_duration(round(by))} behind this machine's clock; "
            f"if they are not old ones that are copied, {matters}"
        )
        yield Finding(Level.NOTE, what, f"the topic {topic}", "NTP on this machine and on those that write")


def _number(settings: Mapping[str, Any], name: str) -> int | None:
    value = settings.get(name)
    return int(value) if value is not None else None
