"""How values become what a handler gets, and how what it returns becomes a value: the registry of
names for ``decode`` and ``encode``.

The schema validates against it, docs/configuration.md lists it, and the routes use its functions. A
further codec is one entry in CODECS. In place of a name a configuration may give a dotted path to a
function of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

Encode = Callable[[Any], "bytes | None"]

#: What a decoder may ask for beside the value, as parameters of these names.
CONTEXT = ("topic", "headers")


@dataclass(frozen=True, slots=True)
class Decoder:
    """function: called with the value's bytes, and with ``wants`` (of CONTEXT) by keyword."""

    function: Callable[..., Any]
    wants: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Decoder:
        """A decoder of the application's own: it gets ``topic`` and ``headers`` where it has
        parameters of these names."""
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # a function of C that does not say
            return cls(function)
        named = [p.name for p in list(parameters)[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return cls(function, tuple(name for name in CONTEXT if name in named))

    def of_message(self, value: bytes, **context: Any) -> Any:
        """What it makes of a value. context: all of CONTEXT; raises whatever it raises."""
        return self.function(value, **{name: context[name] for name in self.wants})


@dataclass(frozen=True, slots=True)
class Codec:
    """decode raises anything for a value that is not of this kind, encode TypeError or ValueError
    with a sentence."""

    decode: Decoder
    encode: Encode


def _identity(value: bytes) -> bytes:
    return value


def _encode_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError("expected bytes; set encode: text or json, or return bytes")


def _encode_text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("expected text; set encode: json, or return a str")
    return value.encode()


_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_to_ascii_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def _encode_json(value: Any) -> bytes:
    """Valid JSON (RFC 8259), or ValueError: infinity and NaN are none."""
    try:
        return _to_json(value).encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can say as an escape alone
        return _to_ascii_json(value).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


_from_json = json.JSONDecoder(parse_constant=_no_constant).decode


def _decode_json(value: bytes) -> Any:
    return _from_json(value.decode(json.detect_encoding(value), "surrogatepass"))


@cache
def _msgpack() -> Any:
    return importlib.import_module("msgpack")


def _encode_msgpack(value: Any) -> bytes:
    try:
        packed: bytes = _msgpack().packb(value)
    except OverflowError as error:
        raise ValueError(f"msgpack has no such number: {error}") from None
    return packed


def _decode_msgpack(value: bytes) -> Any:
    return _msgpack().unpackb(value, strict_map_key=False)


CODECS: dict[str, Codec] = {
    "bytes": Codec(Decoder(_identity), _encode_bytes),
    "text": Codec(Decoder(bytes.decode), _encode_text),
    "json": Codec(Decoder(_decode_json), _encode_json),
    "msgpack": Codec(Decoder(_decode_msgpack), _encode_msgpack),
}


def missing(name: str) -> str | None:
    """The package that the codec needs and that is not installed."""
    return "msgpack" if name == "msgpack" and importlib.util.find_spec("msgpack") is None else None


def custom_encoder(function: Callable[[Any], Any]) -> Encode:
    """An encoder of the application's own, held to what it must return."""

    def encode(value: Any) -> bytes | None:
        encoded = function(value)
        if encoded is not None and not isinstance(encoded, bytes):
            raise TypeError(f"the encoder returned {describe(encoded)}, expected bytes")
        return encoded

    return encode


def describe(value: Any) -> str:
    """``a dict``, ``an int``: a value's type, for a sentence."""
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"
