"""YAML with a memory: every value knows its line, duplicate keys are errors, nothing is executed."""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gworkers.config.env_file import read as variables_in
from gworkers.errors import ConfigError, Problem

#: The way to a value: keys of mappings, indexes of lists.
KeyPath = tuple["str | int", ...]

ENV_FILE = ("app", "env_file")

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{file:(?P<file>[^}]+)\}")

#: The most values that a file may have, each alias counted as often as it is used, how deep they may
#: be nested, and how many characters the file may have.
MOST_VALUES = 50_000
DEEPEST = 50
MOST_CHARACTERS = 2_000_000

#: Numbers of YAML 1.1 that nobody means: 0123 is 83, 12:30 is 750.
_SURPRISING = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+)")


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
    was replaced. replaced: paths whose values came out of a file or a variable. written: what is
    written where YAML makes something else than text of it. variables: what ``app.env_file`` has.
    """

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    replaced: set[KeyPath] = field(default_factory=set)
    written: dict[KeyPath, str] = field(default_factory=dict)
    name: str = "the configuration"
    variables: dict[str, str] = field(default_factory=dict)

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
        self.replaced -= {p for p in self.replaced if p[: len(path)] == path}
        for old in [p for p in self.written if p[: len(path)] == path]:
            del self.written[old]


class _Loader(yaml.SafeLoader):
    """PyYAML takes the square of the depth in time: what is nested out of all proportion is refused
    while it is scanned."""

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        if self.flow_level > DEEPEST:
            raise yaml.scanner.ScannerError(None, None, f"values nested more than {DEEPEST} deep; is that meant?", self.get_mark())
        super().fetch_flow_collection_start(token_class)


class _Reader:
    """Builds plain data from YAML's nodes and collects what is wrong on the way."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.document = Document(name=name)
        self.problems: list[Problem] = []
        self._folder = folder
        self._environment = environment
        self._loader = yaml.SafeLoader("")
        self._values = 0

    def read(self, node: yaml.Node, path: KeyPath = ()) -> Any:
        """The value of ``node``. Raises ConfigError for what is out of all proportion."""
        self._values += 1
        if self._values > MOST_VALUES or len(path) > DEEPEST:
            what = f"more than {MOST_VALUES:,} values" if self._values > MOST_VALUES else f"values nested more than {DEEPEST} deep"
            text = f"the file has {what}, counting what an alias (*name) stands for; is that meant?"
            raise ConfigError(Problem(f"{self.document.name}:{node.start_mark.line + 1}", dotted(path[:4]), text))
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
        except Exception:  # PyYAML's constructors raise whatever Python's do
            return self._refuse_tag(node, line, path)
        if isinstance(value, str):
            return self._replace(value, path, line)
        self.document.written[path] = node.value
        if isinstance(value, int) and _SURPRISING.fullmatch(node.value):
            text = f'YAML reads {node.value} as the number {value}; put it in quotes, "{node.value}", or write the number as usual'
            self.problems.append(Problem(line, dotted(path), text))
        return value

    def read_env_file(self, root: yaml.Node, given: str | None) -> None:
        """``app.env_file`` is read before everything else: its variables are to be had in it."""
        line, value = "--set", given
        if value is None:
            node = _text_at(root, ENV_FILE)
            if node is None:
                return
            line = f"{self.document.name}:{node.start_mark.line + 1}"
            value = self._replace(node.value, ENV_FILE, line)
            if self.problems:
                self.problems.clear()  # they are found once more in their turn
                return
        try:
            self.document.variables = variables_in(self._folder / value)
        except ValueError as error:
            self.problems.append(Problem(line, dotted(ENV_FILE), str(error)))
        self._environment = ChainMap(dict(self._environment), self.document.variables)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> Any:
        line = f"{self.document.name}:{node.start_mark.line + 1}"
        if node.tag != "tag:yaml.org,2002:map":
            return self._refuse_tag(node, line, path)
        own = sum(key.tag != "tag:yaml.org,2002:merge" for key, _ in node.value)
        try:
            self._loader.flatten_mapping(node)
        except (yaml.constructor.ConstructorError, RecursionError) as error:
            told = getattr(error, "problem", None) or "it contains itself"
            self.problems.append(Problem(line, dotted(path), f"<< takes a section, or a list of sections: {told}"))
            return None
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
                self.document.replaced.add(path)
                try:
                    text = file.read_text("utf-8").rstrip("\r\n")
                except (OSError, UnicodeDecodeError) as error:
                    reason = error.strerror if isinstance(error, OSError) else "it is not text"
                    self.problems.append(Problem(line, dotted(path), f"the file {file} cannot be read: {reason}"))
                    return ""
                self.document.origins[path] = f"{line} from {file}"
                return text
            name, default = match["name"], match["default"]
            found = self._environment.get(name)
            if not found and default is not None:  # as in a shell: ":-" is for a variable that is empty, too
                self.document.origins[path] = f"{line}, ${name} is {'not set' if found is None else 'empty'}"
                return str(default)
            if found is None:
                text = f"the environment variable {name} is not set; set it, or write ${{{name}:-a default}}"
                self.problems.append(Problem(line, dotted(path), text))
                return ""
            self.document.origins[path] = f"{line} from ${name}"
            self.document.replaced.add(path)
            return found

        return _VARIABLE.sub(one, value)


def _text_at(root: yaml.Node, path: KeyPath) -> yaml.ScalarNode | None:
    """The text that stands at a path of keys."""
    node: yaml.Node | None = root
    for key in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((below for name, below in pairs if isinstance(name, yaml.ScalarNode) and name.value == key), None)
    return node if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str" else None


def _parse(text: str, name: str) -> yaml.Node | None:
    if text.lstrip().startswith("{"):
        text = text.replace("\t", " ")  # JSON allows tabs between its tokens, YAML does not; inside its strings neither
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(Problem(name, "", f"the file has {len(text):,} characters, more than {MOST_CHARACTERS:,}; is it the right one?"))
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except RecursionError:
        raise ConfigError(Problem(name, "", f"the file has values nested more than {DEEPEST} deep; is that meant?")) from None
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
        if loader is not None:
            loader.dispose()
    return node


def read_text(
    text: str, name: str, folder: Path, environment: Mapping[str, str] = os.environ, env_file: str | None = None
) -> tuple[Document, list[Problem]]:
    """The document and what is wrong with it as YAML. Raises ConfigError when it cannot be parsed
    at all. env_file: in the place of the document's own ``app.env_file``."""
    node = _parse(text, name)
    if node is None:
        raise ConfigError(Problem(name, "", "the file is empty; it needs at least kafka: and routes:"))
    if not isinstance(node, yaml.MappingNode):
        where = f"{name}:{node.start_mark.line + 1}"
        raise ConfigError(Problem(where, "", "the file is a list or a single value; it must have keys such as kafka: and routes:"))
    reader = _Reader(name, folder, environment)
    reader.read_env_file(node, env_file)
    reader.document.data = reader.read(node) or {}
    return reader.document, reader.problems


def read_file(path: Path, environment: Mapping[str, str] = os.environ, env_file: str | None = None) -> tuple[Document, list[Problem]]:
    """As read_text. Raises ConfigError, a sentence, for a file that is not there, is a folder, is
    no text."""
    name = str(path)
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(Problem(name, "", "there is no such file; name it with -c FILE")) from None
    except IsADirectoryError:
        raise ConfigError(Problem(name, "", "this is a folder; name the file in it with -c FILE")) from None
    except UnicodeDecodeError:
        raise ConfigError(Problem(name, "", "this is not text; the configuration is YAML in UTF-8")) from None
    except OSError as error:
        raise ConfigError(Problem(name, "", f"the file cannot be read: {error.strerror}")) from None
    return read_text(text, name, path.parent, environment, env_file)


def override(document: Document, assignment: str) -> None:
    """Lay ``a.b.c=value`` (from --set) over the document; the value is YAML. Raises ConfigError for
    anything else."""
    key, equals, text = assignment.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(Problem("--set", assignment, "write it as a.b.c=value"))
    node = _parse(text, f"--set {key}")
    reader = _Reader("--set", Path("."), ChainMap(dict(os.environ), document.variables))
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
    document.replaced |= reader.document.replaced
    document.written |= reader.document.written
    for new in reader.document.origins:
        document.origins[new] = "--set"
