"""``app.env_file``: variables from a file, as ``.env`` files have them (read by python-dotenv).

They are there for ``${NAME}`` in the configuration and, once the application is about to be imported,
in the process's environment. What is in the environment already stays as it is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

_given: set[str] = set()  # names that are in the environment because of a file


def read(file: Path) -> dict[str, str]:
    """Its variables. Raises ValueError, a sentence with file and line."""
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"the file {file} cannot be read: {error.strerror}") from None
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            before = binding.original.string
            line = binding.original.line + before[: len(before) - len(before.lstrip())].count("\n")
            raise ValueError(f"{file}:{line} is not NAME=value; mend the line, or put # before it")
    found = dotenv_values(stream=io.StringIO(text))
    return {name: value for name, value in found.items() if value is not None}


def put_into_environment(variables: Mapping[str, str]) -> None:
    """Those that are not there already."""
    for name, value in variables.items():
        if name not in os.environ:
            os.environ[name] = value
            _given.add(name)


def take_back() -> None:
    """Before the process begins anew with the file as it is then."""
    while _given:
        os.environ.pop(_given.pop(), None)
