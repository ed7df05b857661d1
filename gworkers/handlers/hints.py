"""A handler that says what it takes gets that: the value, as it was decoded, is made into the class
that the annotation of its first parameter names, and checked.

Such classes are dataclasses, pydantic models, TypedDicts and NamedTuples; of a route with batches a
list of them. Any other annotation is for the reader, as everywhere in Python.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import typing_extensions
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from gworkers.text import cut

#: How many wrong fields an error names.
NAMED = 5


def fit_of(handler: Callable[..., Any], *, batch: bool) -> Callable[[Any], Any] | None:
    """What makes of a decoded value what the handler says that it takes; None where it says nothing
    that is checked. Raises TypeError with a sentence for a class that cannot be checked. What is
    returned raises ValueError with the fields that are wrong."""
    hint = _hint(handler)
    if batch:
        hint = next(iter(typing.get_args(hint)), None) if typing.get_origin(hint) in (list, typing.List) else None  # noqa: UP006
    if not _is_checked(hint):
        return None
    name = getattr(hint, "__name__", str(hint))
    try:
        validate = TypeAdapter(_modern(hint)).validate_python
    except (PydanticUserError, TypeError) as error:
        raise TypeError(f"says that it takes a {name}, which cannot be checked: {str(error).splitlines()[0]}") from None

    def fit(value: Any) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            raise ValueError(f"it is no {name}: {_told(error)}") from None

    return fit


def target_of(handler: Callable[..., Any]) -> Any:
    """What is run in the end: the function below a functools.partial, an object's ``__call__``."""
    target: Any = handler
    while isinstance(target, functools.partial):
        target = target.func
    return target if inspect.isroutine(target) or inspect.isclass(target) else target.__call__


def _hint(handler: Callable[..., Any]) -> Any:
    target = target_of(handler)
    try:
        first = next(iter(inspect.signature(handler).parameters.values()), None)
    except (TypeError, ValueError):  # of C, and does not say
        return None
    if first is None or first.annotation is first.empty or first.kind in (first.VAR_POSITIONAL, first.VAR_KEYWORD, first.KEYWORD_ONLY):
        return None
    owner = inspect.unwrap(target.__init__ if inspect.isclass(target) else getattr(target, "__func__", target))
    try:
        names = types.SimpleNamespace(__annotations__={"value": first.annotation})
        return typing.get_type_hints(names, getattr(owner, "__globals__", None))["value"]
    except Exception:  # a name that is there for a type checker alone, or whatever else stands there
        return None


def _modern(hint: Any) -> Any:
    """With TypedDicts that pydantic takes, which before Python 3.12 are those of typing_extensions."""
    if sys.version_info >= (3, 12):
        return hint
    if typing.is_typeddict(hint) and type(hint).__module__ == "typing":
        fields = {name: _modern(one) for name, one in typing.get_type_hints(hint, include_extras=True).items()}
        return typing_extensions.TypedDict(hint.__name__, fields, total=hint.__total__)  # type: ignore[operator]
    arguments = tuple(_modern(one) for one in typing.get_args(hint))
    if arguments == typing.get_args(hint) or typing.get_origin(hint) is typing.Literal:
        return hint
    if isinstance(hint, types.UnionType):
        return typing.Union[arguments]  # noqa: UP007
    return hint.copy_with(arguments) if hasattr(hint, "copy_with") else hint.__origin__[arguments]


def _is_checked(hint: Any) -> bool:
    if not inspect.isclass(hint):
        return False
    named_tuple = issubclass(hint, tuple) and hasattr(hint, "_fields")
    return dataclasses.is_dataclass(hint) or issubclass(hint, BaseModel) or typing.is_typeddict(hint) or named_tuple


def _told(error: ValidationError) -> str:
    """``customer: Field required; lines.0.count: Input should be a valid integer, got 'many'``"""
    found = error.errors(include_url=False)
    told = []
    for one in found[:NAMED]:
        where = ".".join(str(part) for part in one["loc"]) or "the value"
        got = "" if one["type"] == "missing" else f", got {cut(repr(one['input']), 40)}"
        told.append(f"{where}: {one['msg']}{got}")
    more = len(found) - NAMED
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")
