"""YAML with a memory: every value knows its line, duplicate keys are errors, nothing is executed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gworkers.errors import ConfigError, Problem

#: The way to a value: keys of mappings, indexes of lists.
KeyPath = tuple["str | int", ...]

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{file:(?P<file>[^}]+)\}")


def dotted(path: KeyPath) -> str:
    """``("routes", "price", "topics", 0)`` as people write it: ``routes.price.topics[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


@dataclass(slots=True)
class Document:
    """A configuration as it was written: plain data, and where each value and key stands.

    origins: path → "file:line", "--set", and with what the value was taken from where a variable
    was replaced. secrets: paths whose values must not be shown, because they came out of a file or
    a variable.
    """

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    secrets: set[KeyPath] = field(default_factory=set)
    name: str = "the configuration"

    def where(self, path: KeyPath) -> str:
        """Where the value at ``path``, or the nearest thing around it, stands."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return self.name

    def forget(self, path: KeyPath) -> None:
        """Something else is to stand at ``path``."""
        for old in [p for p in self.origins if p[: len(path)] == path]:
            del self.origins[old]
        self.secrets -= {p for p in self.secrets if p[: len(path)] == path}


class _Reader:
    """Builds plain data from YAML's nodes and collects what is wrong on the way."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.document = Document(name=name)
        self.problems: list[Problem] = []
        self._folder = folder
        self._environment = environment
        self._loader = yaml.SafeLoader("")

    def read(self, node: yaml.Node, path: KeyPath = ()) -> Any:
        line = f"{self.document.name}:{node.start_mark.line + 1}"
        self.document.origins.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            if node.tag != "tag:yaml.org,2002:seq":
                return self._refuse_tag(node, line, path)
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            value = self._loader.construct_object(node)
        except (yaml.constructor.ConstructorError, ValueError):
            return self._refuse_tag(node, line, path)
        return self._replace(value, path, line) if isinstance(value, str) else value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> Any:
        line = f"{self.document.name}:{node.start_mark.line + 1}"
        if node.tag != "tag:yaml.org,2002:map":
            return self._refuse_tag(node, line, path)
        own = sum(key.tag != "tag:yaml.org,2002:merge" for key, _ in node.value)
        self._loader.flatten_mapping(node)
        merged = len(node.value) - own  # what << brings stands before the mapping's own keys, which may overrule it
        result: dict[str, Any] = {}
        seen: set[str] = set()
        for index, (key_node, value_node) in enumerate(node.value):
            key_line = f"{self.document.name}:{key_node.start_mark.line + 1}"
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            if key in seen:
                first = self.document.where((*path, key))
                text = f"the key stands here a second time, first at {first}; keep one of them"
                self.problems.append(Problem(key_line, dotted((*path, key)), text))
                continue
            if index >= merged:
                seen.add(key)
                self.document.forget((*path, key))
            self.document.origins[(*path, key)] = key_line
            result[key] = self.read(value_node, (*path, key))
        return result

    def _refuse_tag(self, node: yaml.Node, line: str, path: KeyPath) -> None:
        text = f"{node.tag.replace('tag:yaml.org,2002:', '!!')} is not read; write plain values: text, numbers, lists, keys"
        self.problems.append(Problem(line, dotted(path), text))

    def _replace(self, value: str, path: KeyPath, line: str) -> str:
        def one(match: re.Match[str]) -> str:
            if match["file"] is not None:
                file = self._folder / match["file"]
                self.document.secrets.add(path)
                try:
                    text = file.read_text().rstrip("\r\n")
                except (OSError, UnicodeDecodeError) as error:
                    reason = error.strerror if isinstance(error, OSError) else "it is not text"
                    self.problems.append(Problem(line, dotted(path), f"the file {file} cannot be read: {reason}"))
                    return ""
                self.document.origins[path] = f"{line} from {file}"
                return text
            name, default = match["name"], match["default"]
            found = self._environment.get(name)
            if found is None and default is None:
                text = f"the environment variable {name} is not set; set it, or write ${{{name}:-a default}}"
                self.problems.append(Problem(line, dotted(path), text))
                return ""
            self.document.origins[path] = f"{line} from ${name}" if found is not None else f"{line}, ${name} is not set"
            return found if found is not None else str(default)

        return _VARIABLE.sub(one, value)


def _parse(text: str, name: str) -> yaml.Node | None:
    if text.lstrip().startswith("{"):
        text = text.replace("\t", " ")  # JSON allows tabs between its tokens, YAML does not; inside its strings neither
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        context = getattr(error, "context", None)
        told = f"{problem} ({context})" if context else problem
        if mark is not None and "${" in "".join(text.splitlines()[mark.line : mark.line + 1]):
            told += '; inside { } a variable needs quotes: "${NAME}"'
        raise ConfigError(Problem(where, "", f"this is not YAML: {told}")) from None
    finally:
        loader.dispose()
    return node


def read_text(text: str, name: str, folder: Path, environment: Mapping[str, str] = os.environ) -> tuple[Document, list[Problem]]:
    """The document and what is wrong with it as YAML. Raises ConfigError when it cannot be parsed
    at all."""
    node = _parse(text, name)
    if node is None:
        raise ConfigError(Problem(name, "", "the file is empty; it needs at least kafka: and routes:"))
    if not isinstance(node, yaml.MappingNode):
        where = f"{name}:{node.start_mark.line + 1}"
        raise ConfigError(Problem(where, "", "the file is a list or a single value; it must have keys such as kafka: and routes:"))
    reader = _Reader(name, folder, environment)
    reader.document.data = reader.read(node) or {}
    return reader.document, reader.problems


def read_file(path: Path, environment: Mapping[str, str] = os.environ) -> tuple[Document, list[Problem]]:
    """As read_text. Raises ConfigError, a sentence, for a file that is not there, is a folder, is
    no text."""
    name = str(path)
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(Problem(name, "", "there is no such file; name it with -c FILE")) from None
    except IsADirectoryError:
        raise ConfigError(Problem(name, "", "this is a folder; name the file in it with -c FILE")) from None
    except UnicodeDecodeError:
        raise ConfigError(Problem(name, "", "this is not text; the configuration is YAML in UTF-8")) from None
    except OSError as error:
        raise ConfigError(Problem(name, "", f"the file cannot be read: {error.strerror}")) from None
    return read_text(text, name, path.parent, environment)


def override(document: Document, assignment: str) -> None:
    """Lay ``a.b.c=value`` (from --set) over the document; the value is YAML. Raises ConfigError for
    anything else."""
    key, equals, text = assignment.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(Problem("--set", assignment, "write it as a.b.c=value"))
    node = _parse(text, f"--set {key}")
    reader = _Reader("--set", Path("."), os.environ)
    path: KeyPath = tuple(parts)
    value = reader.read(node, path) if node is not None else None
    if reader.problems:
        raise ConfigError(*reader.problems)
    target = document.data
    for depth, part in enumerate(parts[:-1]):
        below = target.get(part)
        if below is None:
            below = target[part] = {}
            document.origins.setdefault(path[: depth + 1], "--set")
        if not isinstance(below, dict):
            raise ConfigError(Problem("--set", key, f"{part} is a value, not a section, at {document.where((part,))}"))
        target = below
    target[parts[-1]] = value
    document.forget(path)
    document.secrets |= reader.document.secrets
    for new in reader.document.origins:
        document.origins[new] = "--set"
