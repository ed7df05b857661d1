"""Texts that come from outside (keys, values, headers, an exception's words) as a person may be shown
them: nothing in them ends a line, moves a cursor or turns the direction of reading, and none is
longer than somebody reads."""

from __future__ import annotations

import re

#: Characters of a key, and of an exception, that a log line shows.
KEY_SHOWN = 200
ERROR_SHOWN = 2_000

#: What a terminal obeys and does not show: controls (C0, DEL, C1), format characters (bidi marks,
#: zero-width and invisible ones), surrogates, and the separators of lines and paragraphs.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001-\U000e007f]"
)
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))

_KNOWN = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def text_of(value: bytes | None) -> str | None:
    """A key, a value or a header as an expression sees it and a person reads it."""
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _KNOWN.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def safe(text: str) -> str:
    """The text with everything escaped that a terminal would obey and not show."""
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escaped, text)


def safe_lines(text: str) -> str:
    """As ``safe``, of a text that may have several lines: those after the first are indented, so that
    none can pass for a line of its own."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE_IN_LINES.sub(_escaped, text).replace("\n", "\n  ")


def safe_json(text: str) -> str:
    """A JSON document with everything escaped, in JSON's own way, that a terminal would obey."""
    if text.isascii() and "\x7f" not in text:
        return text

    def escaped(match: re.Match[str]) -> str:
        return "".join(f"\\u{unit:04x}" for unit in _utf16(match[0]))

    return _UNSAFE.sub(escaped, text)


def _utf16(character: str) -> tuple[int, ...]:
    code = ord(character)
    return (code,) if code < 0x10000 else (0xD800 + (code - 0x10000 >> 10), 0xDC00 + (code - 0x10000 & 0x3FF))


def cut(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits ``width`` characters with a mark that more was
    there."""
    return text if len(text) <= width else text[: width - 1] + "…"


def shortened(text: str, width: int) -> str:
    """The text, or its beginning and its end where it is longer than ``width`` characters, and how
    much was left out between them."""
    if len(text) <= width:
        return text
    head, tail = width * 2 // 3, width // 3
    return f"{text[:head]} … ({len(text) - head - tail:,} characters left out) … {text[-tail:]}"
