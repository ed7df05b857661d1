"""A configuration as it is resolved, each value with where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from gworkers.config import secrets
from gworkers.config.load import Loaded, walk
from gworkers.config.yaml import KeyPath


def rows(loaded: Loaded) -> Iterator[tuple[str, str]]:
    """Lines of YAML and their origins; secrets are hidden."""
    serialized = loaded.config.model_dump(by_alias=True)
    origins = loaded.document.origins
    for path, value, _ in walk(loaded.config):
        shown: Any = serialized
        for part in path:
            shown = shown[part]
        indent = "  " * (len(path) - 1 - sum(isinstance(part, int) for part in path))
        key = path[-1]
        origin = _origin(origins, path)
        if isinstance(value, BaseModel):
            yield f"{indent}{key}:", ""
        elif isinstance(value, dict) and any(isinstance(item, BaseModel) for item in value.values()):
            yield f"{indent}{key}:", ""
            for name, item in value.items():
                if isinstance(item, BaseModel):
                    yield f"{indent}  {name}:", _origin(origins, (*path, name))
        elif isinstance(value, dict) and value:
            yield f"{indent}{key}:", ""
            for name, item in value.items():
                below = (*path, name)
                yield f"{indent}  {name}: {_inline(secrets.shown(loaded.document, below, item))}", _origin(origins, below)
        else:
            yield f"{indent}{key}: {_inline(secrets.shown(loaded.document, path, shown))}", origin


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("...").strip()


def _origin(origins: dict[KeyPath, str], path: KeyPath) -> str:
    return origins.get(path, "default")
