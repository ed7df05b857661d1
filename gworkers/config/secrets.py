"""Which values of a configuration may be shown. One rule for every command, error and log line:

1. what came out of a file or a variable is hidden,
2. what stands under a key that sounds secret is hidden,
3. of a URL the password is hidden, also inside a longer text.
"""

from __future__ import annotations

import re
from typing import Any

from gworkers.config.yaml import Document, KeyPath
from gworkers.text import cut, safe

HIDDEN = "(hidden)"

#: As many characters of a value as an error shows.
SHOWN = 60

_SOUNDS_SECRET = re.compile(
    r"pass(word|wd|phrase)?$|password|passwd|secret|token|credential|private|api_?key|access_?key|jaas|authorization|cookie|signature",
    re.IGNORECASE,
)
#: Of these the name sounds secret, and the value is none.
_NOT_SECRET = re.compile(r"(^pass$|token_endpoint|_provider$)", re.IGNORECASE)
_URL = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@:'\"]*:)[^\s/?#'\"]*(?=@)")


def sounds_secret(key: object) -> bool:
    return isinstance(key, str) and not _NOT_SECRET.search(key) and _SOUNDS_SECRET.search(key) is not None


def hidden(document: Document, path: KeyPath) -> bool:
    """Whether the value at ``path`` is not to be shown."""
    return any(path[:end] in document.replaced for end in range(1, len(path) + 1)) or any(map(sounds_secret, path))


def without_passwords(text: str) -> str:
    """The text with the passwords of URLs hidden."""
    return _URL.sub(lambda match: match["before"] + HIDDEN, text) if "://" in text else text


def shown(document: Document, path: KeyPath, value: Any) -> Any:
    """The value at ``path`` with everything hidden in it, at any depth, that is not to be shown."""
    if isinstance(value, dict):
        return {key: shown(document, (*path, key), one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(document, (*path, index), one) for index, one in enumerate(value)]
    if value is not None and hidden(document, path):
        return HIDDEN
    return without_passwords(value) if isinstance(value, str) else value


def found(document: Document, path: KeyPath, value: Any) -> str:
    """What stands at ``path``, for the end of "expected X, got Y": as it is written, cut to what
    somebody reads."""
    if isinstance(value, dict):
        return "a section with keys"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if hidden(document, path):
        return f"a value that is {HIDDEN}"
    return safe(cut(without_passwords(written(document, path) or repr(value)), SHOWN))


def written(document: Document, path: KeyPath) -> str | None:
    """What is written at ``path`` where YAML has made a number, a truth value or a date of it."""
    if path and path[-1] == 0 and path not in document.written:  # a single value in place of a list
        path = path[:-1]
    return document.written.get(path)


def in_quotes(document: Document, path: KeyPath) -> str:
    """Where text was expected and YAML has made something else of what is written: what to write."""
    text = written(document, path)
    if text is None:
        return ""
    if hidden(document, path):
        return "; put it in quotes"
    return f'; put it in quotes: "{safe(cut(text, SHOWN))}"'
