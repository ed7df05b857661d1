"""From a file to a Config: read, lay overrides over it, validate, and say everything that is wrong
at once."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gworkers.config import secrets, yaml
from gworkers.config.route import Route
from gworkers.config.schema import Config, Steered
from gworkers.config.units import type_name
from gworkers.config.yaml import Document, KeyPath, dotted
from gworkers.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration, the document it came from, and the folder its relative paths start at."""

    config: Config
    document: Document
    folder: Path

    @classmethod
    def of(cls, config: Config, folder: Path | None = None) -> Loaded:
        """A configuration that was made in Python."""
        return cls(config, Document(name="the configuration"), folder or Path.cwd())


def load(path: Path, overrides: Iterable[str] = (), environment: Mapping[str, str] = os.environ) -> Loaded:
    """The configuration in the file ``path``. Raises ConfigError with every problem found."""
    overrides = list(overrides)
    given = next((text.partition("=")[2] for text in reversed(overrides) if text.startswith("app.env_file=")), None)
    document, problems = yaml.read_file(path, environment, given)
    for assignment in overrides:
        yaml.override(document, assignment)
    return validate(document, path.parent, problems)


def validate(document: Document, folder: Path, problems: Iterable[Problem] = ()) -> Loaded:
    """Check a document against the models. Raises ConfigError with every problem found."""
    found = list(problems)
    broken = {problem.key for problem in found}
    config: Config | None = None
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problem = _problem(document, detail)
            if problem.key not in broken:  # one sentence a key: a variable that is not set is no number either
                found.append(problem)
    if config is not None:
        found.extend(_contradictions(config, document))
    if found or config is None:
        raise ConfigError(*sorted(set(found), key=lambda problem: _in_file_order(problem.where)))
    return Loaded(config, document, folder)


def _in_file_order(where: str) -> tuple[int, str]:
    line = where.split(" ")[0].rstrip(",").rpartition(":")[2]
    return (int(line) if line.isdigit() else 0, where)


def _problem(document: Document, detail: Any) -> Problem:
    """One of pydantic's errors as a sentence of ours."""
    path: KeyPath = tuple(part for part in detail["loc"] if part != "[key]" and not str(part).startswith("="))
    kind, context, found = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), known_keys(path[:-1]), 1, 0.5)
        hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(known_keys(path[:-1]))}"
        return Problem(document.where(path), dotted(path), f"unknown key; {hint}")
    if kind == "missing":
        return Problem(document.where(path[:-1]), dotted(path), f"the key is missing{_example(path)}")
    if kind == "value_error":
        return Problem(document.where(path), dotted(path), _told(document, path, str(context["error"]), found))
    if path == ("routes",) and kind in ("too_short", "dict_type"):
        return Problem(document.where(path), "routes", "expected at least one route: a name with topics and a handler below it")
    got = secrets.found(document, path, found)
    quotes = secrets.in_quotes(document, path) if kind == "string_type" else ""
    return Problem(document.where(path), dotted(path), f"expected {_expected(kind, context, path)}{_example(path)}, got {got}{quotes}")


def _told(document: Document, path: KeyPath, text: str, found: Any) -> str:
    """A validator's own sentence, with what was found where that says more."""
    if not text.startswith("expected ") and secrets.hidden(document, path):
        return f"the value, which is {secrets.HIDDEN}, is not one that can stand here"
    if text.startswith("expected "):
        return f"{text}, got {secrets.found(document, path, found)}"
    if text.startswith(("'", '"')) or isinstance(found, (dict, BaseModel)):
        return secrets.without_passwords(text)
    return f"got {secrets.found(document, path, found)}; {text}"


def _expected(kind: str, context: Mapping[str, Any], path: KeyPath) -> str:
    """What pydantic's error ``kind`` asks for, in words."""
    if kind in ("string_pattern_mismatch", "int_type", "int_parsing", "int_from_float"):
        field = _field_at(path)
        named = type_name(field.annotation, field.metadata) if field is not None else None
        if named is not None and named.expected:
            return named.expected
    words = {
        "string_pattern_mismatch": "letters, digits, dots, underscores and hyphens",
        "int_type": "a whole number",
        "int_parsing": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "float_parsing": "a number",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "string_type": "text",
        "string_too_short": "text of at least one character",
        "string_too_long": f"text of at most {context.get('max_length')} characters",
        "list_type": "a list",
        "dict_type": "a section with keys",
        "model_type": "a section with keys",
        "model_attributes_type": "a section with keys",
        "greater_than": f"more than {context.get('gt')}",
        "greater_than_equal": f"{context.get('ge')} or more",
        "less_than_equal": f"{context.get('le')} or less",
        "literal_error": str(context.get("expected", "")).replace("'", ""),
    }
    return words.get(kind, kind.replace("_", " "))


def _field_at(path: KeyPath) -> Any:
    """The model's field behind a path, or None."""
    model: Any = Config
    field = None
    for part in path:
        if isinstance(part, int):
            continue
        if model is None:
            return None
        if model is Config and part == "routes":
            field, model = Config.model_fields["routes"], {"*": Route}
            continue
        if isinstance(model, dict):
            field, model = None, next(iter(model.values()))
            continue
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        model = section_of(field.annotation) if field is not None else None
    return field


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as ``Retry``, ``Batch | None`` or ``list[Sample]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := section_of(argument)) is not None:
            return found
    return None


def known_keys(path: KeyPath) -> list[str]:
    """The keys that may stand in the section at ``path``."""
    model: Any = Config
    for part in path:
        if isinstance(part, int):
            continue
        if isinstance(model, dict):
            model = model["*"]
        elif model is Config and part == "routes":
            model = {"*": Route}
        else:
            fields = model.model_fields if model is not None else {}
            field = next((f for name, f in fields.items() if part in (name, f.alias)), None)
            model = section_of(field.annotation) if field is not None else None
    if model is None or isinstance(model, dict):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _example(path: KeyPath) -> str:
    field = _field_at(path)
    if field is None or not field.examples or isinstance(path[-1], int):  # an example is of the whole list
        return ""
    return f" (for example {field.examples[0]})"


def walk(model: BaseModel, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any, Any]]:
    """Every field of a configuration, section after section: its path, its value, its FieldInfo."""
    for name, field in type(model).model_fields.items():
        here: KeyPath = (*path, field.alias or name)
        value = getattr(model, name)
        yield here, value, field
        if isinstance(value, BaseModel):
            yield from walk(value, here)
        elif isinstance(value, dict):
            for key, item in value.items():
                if isinstance(item, BaseModel):
                    yield from walk(item, (*here, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from walk(item, (*here, index))


def _circles(config: Config, document: Document) -> Iterator[Problem]:
    """Topics by which messages would come back to a route for ever, at once or over others."""
    letters = {route.dead_letter for route in config.routes.values()}

    def takes(name: str, topic: str, own: bool = False) -> bool:
        """Patterns take up dead letters of no route; that one matches those of its own is told."""
        route = config.routes[name]
        by_pattern = route.pattern is not None and (own or topic not in letters) and re.match(route.pattern, topic)
        return topic in route.topics or bool(by_pattern)

    def targets(name: str) -> Iterator[tuple[str, str]]:
        route = config.routes[name]
        for key in ("output", "dead_letter"):
            if (topic := getattr(route, key)) is not None:
                yield key, topic

    def way_back(name: str, topic: str, way: tuple[str, ...]) -> tuple[str, ...] | None:
        """The routes over which what goes to ``topic`` comes to ``name``; () at once; None never."""
        if takes(name, topic, own=not way):
            return way
        for other in config.routes:
            if other not in way and other != name and takes(other, topic):
                for _, next_topic in targets(other):
                    if (found := way_back(name, next_topic, (*way, other))) is not None:
                        return found
        return None

    for name in config.routes:
        for key, topic in targets(name):
            way = way_back(name, topic, ())
            if way is None:
                continue
            path: KeyPath = ("routes", name, key)
            if way:
                text = f"what is sent to {topic} comes back to this route over {' and '.join(way)}, for ever; break the circle"
            elif config.routes[name].pattern is not None:
                text = (
                    f"the route's pattern matches {topic}, so every message would come back to it; name another topic or a narrower pattern"
                )
            else:
                text = f"the route consumes {topic} itself, so every message would come back to it; name another topic"
            yield Problem(document.where(path), dotted(path), text)


def _bounds(steered: Steered | None, document: Document) -> Iterator[Problem]:
    path: KeyPath = ("concurrency", "min")
    if steered is not None and steered.min > steered.max:
        text = f"the least ({steered.min}) is more than the most ({steered.max}); write it the other way round"
        yield Problem(document.where(path), dotted(path), text)


def _contradictions(config: Config, document: Document) -> Iterator[Problem]:
    """What is right key by key and wrong together, as far as the file alone tells."""
    yield from _circles(config, document)
    owner: dict[str, str] = {}
    for name, route in config.routes.items():
        for topic in route.topics:
            if topic in owner and owner[topic] != name:
                text = f"the topic {topic} is consumed by the route {owner[topic]} already; a topic has one route"
                yield Problem(document.where(("routes", name, "topics")), dotted(("routes", name, "topics")), text)
            owner.setdefault(topic, name)
        if route.retry.backoff > route.retry.max_backoff:
            path: KeyPath = ("routes", name, "retry", "backoff")
            yield Problem(document.where(path), dotted(path), "it is longer than max_backoff; make it shorter, or max_backoff longer")
        if route.retry.topics and (route.order != "none" or route.pattern is not None):
            path = ("routes", name, "retry", "topics")
            why = "later messages of a key overtake one that waits in a topic; use order: none"
            if route.order == "none":
                why = "the names of the topics to make follow from topics; name them in place of a pattern"
            yield Problem(document.where(path), dotted(path), why + ", or leave it out")
        if route.batch is not None and route.batch.by == "key" and route.order != "key":
            path = ("routes", name, "batch", "by")
            yield Problem(document.where(path), dotted(path), f"batches of a key keep its order; write order: key, not {route.order}")
        if route.batch is not None and route.batch.max_messages > config.buffer.messages:
            path = ("routes", name, "batch", "max_messages")
            text = f"more than buffer.messages ({config.buffer.messages}), so a batch would never fill; make one of them fit the other"
            yield Problem(document.where(path), dotted(path), text)
        for index, limit in enumerate(route.uses):
            if limit not in config.limits:
                path = ("routes", name, "uses", index)
                known = f"there are {', '.join(config.limits)}" if config.limits else "there are none"
                yield Problem(document.where(path), dotted(path), f"there is no limit {limit} in limits; {known}")
        if route.max_age is not None and route.max_age.then == "dead-letter" and route.dead_letter is None:
            path = ("routes", name, "max_age")
            yield Problem(document.where(path), dotted(path), "then: dead-letter needs a dead_letter topic; name one")
    if config.state_dir is None and ("poison",) in document.origins:
        path = ("poison",)
        yield Problem(
            document.where(path), "poison", "state_dir's journal tells which messages ran when the process died; name a folder there"
        )
    if config.delivery == "exactly-once" and config.kafka.bootstrap_servers == "embedded":
        path = ("delivery",)
        text = "the embedded broker knows no transactions; name an Apache Kafka in kafka.bootstrap_servers, or write at-least-once"
        yield Problem(document.where(path), "delivery", text)
    if config.delivery == "exactly-once" and not config.commit.map:
        path = ("commit", "map")
        text = (
            "exactly-once needs the map of what is finished beyond the committed offset, or that comes twice after a crash; leave this out"
        )
        yield Problem(document.where(path), dotted(path), text)
    if config.processes > 1 and config.delivery == "exactly-once" and "%(process)s" not in config.instance:
        path = ("instance",)
        yield Problem(document.where(path), "instance", f"{config.processes} processes need a name each; write %(process)s into it")
    if config.processes > 1 and config.kafka.group_instance_id is not None and "%(process)s" not in config.kafka.group_instance_id:
        path = ("kafka", "group_instance_id")
        yield Problem(document.where(path), dotted(path), f"{config.processes} processes need a name each; write %(process)s into it")
    if config.admin.open_to_others and config.admin.token is None and config.admin.read_token is None:
        path = ("admin", "bind")
        told = "set admin.token or admin.read_token (from a file: ${file:…}), or bind to 127.0.0.1"
        text = f"{config.admin.bind} can be reached from other machines; {told}"
        yield Problem(document.where(path), dotted(path), text)
    for key in ("transaction", "instance"):
        if config.delivery != "exactly-once" and (key,) in document.origins:
            yield Problem(document.where((key,)), key, "it is for delivery: exactly-once; write that, or leave this out")
    timeout = config.kafka.producer.get("transaction_timeout_ms", 10_000)
    if config.delivery == "exactly-once" and isinstance(timeout, int) and 2000 * config.transaction.interval > timeout:
        path = ("transaction", "interval")
        text = f"more than half of the {timeout} ms after which Kafka gives a transaction up; make it shorter, or raise "
        yield Problem(document.where(path), dotted(path), text + "kafka.producer.transaction_timeout_ms")
    yield from _bounds(config.steered, document)
    most = config.most_concurrency
    if config.buffer.messages < most:
        path = ("buffer", "messages") if ("buffer", "messages") in document.origins else ("concurrency",)
        text = f"buffer.messages ({config.buffer.messages}) is less than concurrency ({most}), so some workers would never work"
        yield Problem(document.where(path), dotted(path), text + "; make it larger")
