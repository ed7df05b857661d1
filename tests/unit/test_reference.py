"""The page about the configuration, made from the models."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from gworkers.config import reference

PAGE = Path(__file__).resolve().parents[2] / "docs/configuration.md"


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text() == reference.page(), "run: python -m gworkers.config.reference > docs/configuration.md"


def test_every_key_has_a_type_a_default_a_meaning_and_an_example_that_is_yaml() -> None:
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    assert len(rows) > 60
    for row in rows:
        _, key, kind, default, meaning, example, _ = re.split(r"(?<!\\)\|", row)
        assert kind.strip()
        assert default.strip()
        assert meaning.strip().endswith((".", "*"))
        shown = re.match(r" `(.*?)`", example)
        assert shown, row
        assert list(yaml.safe_load(shown[1].replace("\\|", "|"))) == [key.strip(" `")], row
