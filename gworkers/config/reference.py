"""docs/configuration.md, made from the models: ``python -m gworkers.config.reference >
docs/configuration.md``."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from gworkers.config import units
from gworkers.config.load import section_of
from gworkers.config.schema import Config
from gworkers.config.section import Section

HEAD = """\
# The configuration

One YAML file (JSON is accepted as the YAML it is), named with `-c`. This page is made from the
models that validate it.

- Unknown keys, keys that stand twice and values of the wrong kind are errors, all told at once,
  each with `file:line`, the key's path, what was expected and what was found.
  `gworkers check -c FILE` tells them without starting anything.
- `${NAME}`, `${NAME:-default}` and `${file:PATH}` are replaced inside values, by an environment
  variable or by a file's content (relative to the configuration). Inside `{ }` a variable needs
  quotes: `"${NAME}"`.
- `--set a.b.c=value` lays a value over the file; `gworkers config -c FILE` shows what results, and
  where each value comes from.
- Durations have a unit (`250ms`, `30s`, `5m`, `2h`, `1d`), sizes may have one (`512KiB`, `64MiB`,
  `1GB`; without, bytes).
- `gworkers config --schema` prints the JSON Schema for editors.
"""


def _type(annotation: Any, metadata: Any) -> str:
    """A field's type in words, with its unit."""
    named = None if get_origin(annotation) in (list, dict) else units.type_name(annotation, metadata)
    if named is not None:
        return named.name
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument, ()) for argument in arguments if argument is not type(None))
    if origin is list:
        return f"list of {_type(arguments[0], ())}"
    if origin is dict:
        return "section"
    if hasattr(annotation, "__metadata__"):
        return _type(annotation.__origin__, annotation.__metadata__)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    plain: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
    return plain[annotation]


def _bounds(metadata: Any) -> str:
    """``, 1 or more`` and the like."""
    words = [f", {item.ge} or more" for item in metadata if getattr(item, "ge", None) is not None]
    words += [f", {item.le} or less" for item in metadata if getattr(item, "le", None) is not None]
    return "".join(words)


def _inline(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return yaml.safe_dump(json.loads(json.dumps(value)), default_flow_style=True, width=1000).strip().removesuffix("...").strip()


def _default(field: Any, kind: str) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, Section):
        return "as below"
    if isinstance(value, (int, float)) and kind == "duration":
        return f"`{units.format_duration(value)}`"
    if isinstance(value, int) and kind.startswith("size"):
        return f"`{units.format_size(value)}`"
    return "none" if value in (None, [], {}) else f"`{_inline(value)}`"


def _rows(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = _type(field.annotation, field.metadata)
        default = _default(field, kind)
        meaning = field.description or ""
        key = field.alias or name
        if field.examples:
            shown = f"`{key}: {_inline(field.examples[0])}`"
        elif default.startswith("`"):
            shown = f"`{key}: {default[1:]}"
        else:
            shown = f"`{key}:`, then the keys below"
        cells = (f"`{key}`", f"{kind}{_bounds(field.metadata)}", default, meaning, shown)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        found = section_of(field.annotation)
        if found is not None:
            below = f"{path}.{field.alias or name}" if path else field.alias or name
            many = "routes.NAME" if below == "routes" else f"{below}[]" if get_origin(field.annotation) is list else below
            yield from _sections(found, many)


def page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for path, model in _sections(Config, ""):
        parts.append(f"## `{path}`\n" if path else "## At the top\n")
        if path:
            parts.append(f"{' '.join((model.__doc__ or '').split())}\n")
        parts.append("| key | type | default | meaning | example |\n|---|---|---|---|---|\n" + "\n".join(_rows(model)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
