"""What the brokers allow, against what the configuration wants of them; how its topics are kept; and
whether clocks agree."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from gworkers.config.load import Loaded
from gworkers.config.units import format_duration
from gworkers.config.yaml import KeyPath, dotted
from gworkers.doctor.finding import Finding, Level
from gworkers.errors import UnavailableError
from gworkers.kafka import cluster
from gworkers.kafka.clients import Clients
from gworkers.kafka.cluster import Cluster, Settings

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


def findings(loaded: Loaded, clients: Clients, partitions: Mapping[str, int]) -> Iterator[Finding]:
    """partitions: of the topics that are there, by their names. Blocks, for a second at the least."""
    with cluster.opened(clients) as opened:
        yield from of_version(opened.version, loaded)
        for look in (_limits, _topics, _clocks):
            try:
                yield from look(loaded, opened, partitions)
            except UnavailableError as error:
                what = f"{look.__doc__} cannot be looked at: {error}"
                yield Finding(Level.NOTE, what, "Kafka", "DESCRIBE_CONFIGS on the cluster and its topics shows them")


def of_version(version: tuple[int, ...], loaded: Loaded) -> Iterator[Finding]:
    """version: of the brokers."""
    if loaded.config.delivery == "exactly-once" and version and version < FOR_TRANSACTIONS:
        told, least = ".".join(map(str, version)), ".".join(map(str, FOR_TRANSACTIONS))
        what = f"the brokers are of Apache Kafka {told}, and exactly-once needs {least} or later"
        yield Finding(Level.ERROR, what, _where(loaded, ("delivery",)), "newer brokers, or at-least-once")


def _where(loaded: Loaded, path: KeyPath) -> str:
    return f"{loaded.document.where(path)}: {dotted(path)}"


def _limits(loaded: Loaded, opened: Cluster, _: Mapping[str, int]) -> Iterator[Finding]:
    """the brokers' limits"""
    config, brokers = loaded.config, opened.of_brokers()
    session = int(config.kafka.consumer.get("session_timeout_ms", SESSION_TIMEOUT))
    path: KeyPath = ("kafka", "consumer", "session_timeout_ms")
    for name, allowed in (("group.min.session.timeout.ms", int.__ge__), ("group.max.session.timeout.ms", int.__le__)):
        limit = _number(brokers, name)
        if limit is not None and not allowed(session, limit):
            what = f"the session's time-out is {session} ms, and the brokers' {name} is {limit}: the group does not let it in"
            yield Finding(Level.ERROR, what, _where(loaded, path), f"a time-out that keeps to {name}")
    longest = _number(brokers, "transaction.max.timeout.ms")
    wanted = int(config.kafka.producer.get("transaction_timeout_ms", TRANSACTION_TIMEOUT))
    if config.delivery == "exactly-once" and longest is not None and wanted > longest:
        path = ("kafka", "producer", "transaction_timeout_ms")
        what = f"a transaction may take {wanted} ms, and the brokers' transaction.max.timeout.ms is {longest}: they refuse the producer"
        yield Finding(Level.ERROR, what, _where(loaded, path), f"{longest} at the most")
    members = _number(brokers, "group.max.size")
    if members is not None and members < config.processes:
        what = f"{config.processes} processes, and the brokers' group.max.size is {members}: the group lets no more in"
        yield Finding(Level.ERROR, what, _where(loaded, ("processes",)), f"{members} processes at the most, on all machines")
    minutes = _number(brokers, "offsets.retention.minutes")
    if minutes is not None and 60 * minutes < REMEMBERED:
        what = (
            f"the brokers' offsets.retention.minutes is {minutes}: a group that is stopped for longer than "
            f"{format_duration(60 * minutes)} loses its place, and begins where kafka.auto_offset_reset says"
        )
        yield Finding(Level.WARNING, what, _where(loaded, ("kafka", "group")), "a week, which is Kafka's default: 10080")


def _topics(loaded: Loaded, opened: Cluster, partitions: Mapping[str, int]) -> Iterator[Finding]:
    """how topics are kept"""
    if not partitions:
        return
    settings, replicas = opened.of_topics(partitions), opened.replicas(partitions)
    written: dict[str, KeyPath] = {}
    for name, route in loaded.config.routes.items():
        for key in ("output", "dead_letter"):
            topic = getattr(route, key)
            if topic in partitions:
                written.setdefault(topic, ("routes", name, key))
        yield from _sizes(loaded, name, settings)
        dead = settings.get(route.dead_letter or "", {})
        if "compact" in dead.get("cleanup.policy", ""):
            what = f"{route.dead_letter} is compacted: it keeps the last dead letter of a key alone, and takes none without a key"
            yield Finding(Level.ERROR, what, _where(loaded, ("routes", name, "dead_letter")), "cleanup.policy=delete")
    for topic, path in written.items():
        least = _number(settings.get(topic, {}), "min.insync.replicas")
        if least is not None and replicas.get(topic, least) < least:
            has = f"{topic} has {_counted(replicas[topic], 'replica')}"
            what = f"{has}, and its min.insync.replicas is {least}: every write to it is refused"
            yield Finding(Level.ERROR, what, _where(loaded, path), "more replicas, or a smaller min.insync.replicas")
    for topic in partitions:
        if settings.get(topic, {}).get("unclean.leader.election.enable") == "true" and replicas.get(topic, 1) > 1:
            what = f"{topic} takes a leader that has not all of its messages: what was acknowledged may be lost when a broker dies"
            yield Finding(Level.WARNING, what, f"the topic {topic}", "unclean.leader.election.enable=false")


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
        yield Finding(Level.WARNING, what, _where(loaded, ("routes", name, "dead_letter")), todo)
    if room is not None and request + HEADERS < largest:
        what = f"a message may have {largest:,} bytes, and a request of the producer {request:,}: it could not become a dead letter"
        path: KeyPath = ("kafka", "producer", "max_request_size")
        yield Finding(Level.WARNING, what, _where(loaded, path), f"kafka.producer.max_request_size: {largest + HEADERS}")


def _clocks(loaded: Loaded, opened: Cluster, partitions: Mapping[str, int]) -> Iterator[Finding]:
    """times of messages"""
    read = {topic for route in loaded.config.routes.values() for topic in route.topics}
    asked = [(topic, number) for topic in partitions if topic in read for number in range(partitions[topic])]
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


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
