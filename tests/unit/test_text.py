"""What a person is shown of texts that come from outside."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from gworkers.errors import one_line
from gworkers.server.logs import JsonFormatter, TextFormatter
from gworkers.text import cut, safe, safe_json, safe_lines, shortened

HOSTILE = "a\x1b[2Jb\x9bc\u202ed\u2028e\x00f\r\ng\U000e0041\ud800\x7f"


def record(message: str, *arguments: object, exc_info: object = None) -> logging.LogRecord:
    return logging.LogRecord("shop", logging.ERROR, "shop.py", 1, message, arguments, exc_info)  # type: ignore[arg-type]


def test_nothing_that_a_terminal_obeys_is_left() -> None:
    assert safe(HOSTILE) == "a\\x1b[2Jb\\x9bc\\u202ed\\u2028e\\x00f\\r\\ng\\U000e0041\\ud800\\x7f"
    assert safe("Grüße, 東京 🙂") == "Grüße, 東京 🙂"


def test_further_lines_are_indented_and_nothing_else_ends_a_line() -> None:
    assert safe_lines("a\nb\tc\r\nd") == "a\n  b\tc\\r\n  d"
    assert len(safe_lines(HOSTILE).splitlines()) == 2


def test_json_stays_the_same_document() -> None:
    text = safe_json(json.dumps({"k": HOSTILE, "é": "ü"}, ensure_ascii=False))
    assert json.loads(text) == {"k": HOSTILE, "é": "ü"}
    assert text.isprintable()


def test_long_texts_are_cut_with_a_word() -> None:
    assert cut("abcdef", 4) == "abc…"
    assert shortened("x" * 100, 30) == "x" * 20 + " … (70 characters left out) … " + "x" * 10


def test_an_error_is_one_line_whatever_it_says() -> None:
    assert one_line(ValueError("a\nb\x1b[31m")) == "ValueError: a b\\x1b[31m"
    assert len(one_line(ValueError("x" * 5_000_000))) < 2_200


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_log_record_cannot_forge_another(formatter: logging.Formatter) -> None:
    forged = "2026-01-01 00:00:00.000 ERROR gworkers: all is lost"
    try:
        raise ValueError(f"x\n{forged}\x1b[2J\n" + "y" * 5_000_000)
    except ValueError:
        text = formatter.format(record("%s", f"a\n{forged}\x1b[2J", exc_info=sys.exc_info()))
    assert "\x1b" not in text
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())
    assert "Traceback" in text
    assert len(text) < 10_000
