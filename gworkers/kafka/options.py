"""kafka-python's own options: which there are, of what type, and which of them are ours to set."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gworkers.config import secrets
from gworkers.config.load import Loaded
from gworkers.config.yaml import KeyPath, dotted
from gworkers.errors import Problem
from gworkers.handlers import loading
from gworkers.kafka import green, security

#: Options a user must not set, and why.
OWNED = {
    "bootstrap_servers": "it is kafka.bootstrap_servers",
    "group_id": "it is kafka.group",
    "group_instance_id": "it is kafka.group_instance_id",
    "enable_auto_commit": "it commits what has been read, not what is finished, and would lose messages",
    "auto_commit_interval_ms": "offsets are committed by gworkers, each commit.interval",
    "default_offset_commit_callback": "offsets are committed by gworkers",
    "key_deserializer": "keys are bytes; values are decoded as the route's decode says",
    "value_deserializer": "values are decoded as the route's decode says",
    "key_serializer": "keys are bytes; results are encoded as the route's encode says",
    "value_serializer": "results are encoded as the route's encode says",
    "max_poll_records": "it follows from buffer.messages",
    "consumer_timeout_ms": "the server never stops consuming by itself",
    "enable_idempotence": "without it a retried send can come twice or out of order",
    "acks": "results must be acknowledged by all replicas before an offset is committed",
    "retries": "how long a send is retried is delivery_timeout_ms",
    "transactional_id": "it follows from instance and delivery",
    "partitioner": "results go where Kafka's own clients send their key; a Record may name its partition",
    "max_in_flight_requests_per_connection": "more or less than it would change the order of results",
    "max_block_ms": "nothing of gworkers blocks on the producer",
    "kafka_client": "gworkers brings its own",
    "selector": "gworkers brings gevent's",
    "metric_reporters": "they take Python classes, which a file cannot name",
}

_DOCUMENTED = re.compile(r"^ {8}(\w+) \(([^)]*)\):", re.MULTILINE)
_ASSIGNORS = {
    "cooperative-sticky": "cooperative_sticky:CooperativeStickyAssignor",
    "sticky": "sticky.sticky_assignor:StickyPartitionAssignor",
    "range": "range:RangePartitionAssignor",
    "roundrobin": "roundrobin:RoundRobinPartitionAssignor",
}


_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of kafka-python. kind: int, float, bool, str, list, tuple or object, as its
    documentation and default say."""

    name: str
    kind: str
    default: Any


def known(client: str) -> dict[str, Option]:
    """The options of ``KafkaConsumer`` or ``KafkaProducer`` in the installed version."""
    cls = getattr(green.module(), client)
    documented = {name: text.split(",")[0].strip() for name, text in _DOCUMENTED.findall(cls.__doc__ or "")}
    options = {}
    for name, default in cls.DEFAULT_CONFIG.items():
        kind = documented.get(name, "")
        if kind not in ("int", "float", "bool", "str", "list", "tuple", "dict"):
            kind = type(default).__name__ if isinstance(default, (bool, int, float, str, list, tuple)) else "object"
        if name == "api_version":
            kind = "tuple"
        options[name] = Option(name, kind, default)
    return options


def convert(option: Option, value: Any) -> Any:
    """The value as kafka-python takes it. Raises ValueError with what was expected."""
    if value is None:
        return None
    if option.name == "sasl_oauth_token_provider" and isinstance(value, str) and _OBJECT.fullmatch(value):
        return security.token_provider(value, _imported(value))
    if option.name == "partition_assignment_strategy":
        return [assignor(name) for name in (value if isinstance(value, list) else [value])]
    if option.name == "compression_type" and value not in ("gzip", "snappy", "lz4", "zstd"):
        raise ValueError("expected gzip, snappy, lz4 or zstd")
    kind = option.kind
    if kind == "bool":
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off"):
            return value.lower() in ("true", "yes", "on")
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if kind in ("int", "float"):
        number = _number(value)
        if number is None or (kind == "int" and number != int(number)):
            raise ValueError("expected a whole number" if kind == "int" else "expected a number")
        return int(number) if kind == "int" else number
    if kind == "str":
        if not isinstance(value, str):
            raise ValueError("expected text")
        return value
    if kind in ("list", "tuple"):
        if isinstance(value, str) and option.name == "api_version":
            value = [int(part) for part in value.split(".") if part.isdigit()]
        if not isinstance(value, list):
            raise ValueError("expected a list")
        return [tuple(item) if isinstance(item, list) else item for item in value] if kind == "list" else tuple(value)
    if isinstance(value, str) and _OBJECT.fullmatch(value):
        return _imported(value)
    raise ValueError("expected a Python object, named as module:attribute")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def assignor(name: Any) -> Any:
    if name not in _ASSIGNORS:
        raise ValueError(f"expected {', '.join(_ASSIGNORS)}")
    module, _, attribute = _ASSIGNORS[name].partition(":")
    return getattr(green.module(f"kafka.coordinator.assignors.{module}"), attribute)


def _imported(path: str) -> Any:
    try:
        return loading.resolve(path)
    except loading.ImportProblem as error:
        raise ValueError(f"{path} cannot be had: {error}") from None


def _sections() -> dict[str, dict[str, Option]]:
    """What may stand in kafka.client (what both clients know), kafka.consumer and kafka.producer."""
    consumer, producer = known("KafkaConsumer"), known("KafkaProducer")
    common = {name: option for name, option in consumer.items() if name in producer}
    return {"client": common, "consumer": consumer, "producer": producer}


def problems(loaded: Loaded) -> Iterator[Problem]:
    """What is wrong with kafka.client, kafka.consumer and kafka.producer, with the nearest known
    name for unknown ones."""
    loading.put_on_path(loaded)
    found = list(_each(loaded))
    yield from found
    if not found:
        yield from _together(loaded)


def _each(loaded: Loaded) -> Iterator[Problem]:
    for section, options in _sections().items():
        for name, value in getattr(loaded.config.kafka, section).items():
            path: KeyPath = ("kafka", section, name)
            text = None
            if name in OWNED:
                text = f"this is not yours to set: {OWNED[name]}"
            elif name not in options:
                near = difflib.get_close_matches(name, [o for o in options if o not in OWNED], 1, 0.6)
                version = green.module("kafka.version").__version__
                hint = f'did you mean "{near[0]}"?' if near else "see its documentation for what there is"
                whose = "the consumer and the producer" if section == "client" else f"the {section}"
                have = "have" if section == "client" else "has"
                text = f"unknown option: {whose} of kafka-python {version} {have} none of this name; {hint}"
            else:
                try:
                    convert(options[name], value)
                except ValueError as error:
                    text = str(error)
                    if text.startswith("expected"):
                        quotes = secrets.in_quotes(loaded.document, path) if text == "expected text" else ""
                        text += f", got {secrets.found(loaded.document, path, value)}{quotes}"
            if text is not None:
                yield Problem(loaded.document.where(path), dotted(path), text)


def _together(loaded: Loaded) -> Iterator[Problem]:
    """What is wrong with the options of each client together."""
    said = set()
    kafka = loaded.config.kafka
    for section in ("consumer", "producer"):
        own = getattr(kafka, section)
        for name, text in security.problems(loaded.folder, {**kafka.client, **own}):
            path: KeyPath = ("kafka", section if name in own else "client", name)
            if (path, text) not in said:
                said.add((path, text))
                yield Problem(loaded.document.where(path), dotted(path), text)


def given(loaded: Loaded, section: str) -> dict[str, Any]:
    """The user's options for the ``consumer`` or the ``producer``: those of kafka.client and its
    own, converted."""
    options = _sections()[section]
    kafka = loaded.config.kafka
    own = {**kafka.client, **getattr(kafka, section)}
    loading.put_on_path(loaded)
    found = {name: security.resolved(loaded.folder, name, convert(options[name], value)) for name, value in own.items()}
    if found.get("ssl_certfile") and not found.get("ssl_password"):
        found["ssl_password"] = ""  # without any, OpenSSL asks at the terminal for that of an encrypted key
    return found
