"""What ``when`` and ``--where`` can say."""

from __future__ import annotations

from typing import Any

import pytest

from gworkers.config.route import WHEN_NAMES
from gworkers.expressions import Expression

KNOWN = frozenset({"headers", "key", "value"})
MESSAGE: dict[str, Any] = {
    "headers": {"kind": "order", "x-test": ""},
    "key": "a",
    "value": {"amount": 120, "tags": ["urgent", "eu"], "customer": {"name": "Ada"}, "none": None},
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("headers.kind == 'order'", True),
        ("headers['x-test'] == ''", True),
        ("headers.missing == null", True),
        ("value.amount >= 100 and value.amount < 200", True),
        ("100 <= value.amount < 110", False),
        ("value.amount > 'a'", False),
        ("value.missing.deep > 3", False),
        ("not value.missing", True),
        ("'urgent' in value.tags", True),
        ("'x' in value.amount", False),
        ("value.tags[0] == 'urgent'", True),
        ("value.tags[7] == 'urgent'", False),
        ("key in ('a', 'b')", True),
        ("key not in ['a', 'b'] or value.customer.name == 'Ada'", True),
        ("value.amount == -120", False),
        ("value.none is None", True),
    ],
)
def test_what_an_expression_says_of_a_message(text: str, wanted: bool) -> None:
    assert Expression(text, KNOWN).matches(MESSAGE.get) is wanted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("headers.kind = 'order'", "is not an expression"),
        ("", "is not an expression"),
        ("header == 1", "asks for header, and there are headers, key, value"),
        ("__import__('os').system('true')", "is more than an expression here can say"),
        ("value.amount * 10**9 > 1", "is more than an expression here can say"),
        ("[x for x in value]", "is more than an expression here can say"),
        ("value[key]", "is more than an expression here can say"),
        ("(lambda: 1)()", "is more than an expression here can say"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Expression(text, KNOWN)


def test_an_expression_says_what_it_asks_for() -> None:
    assert Expression("headers.a == 1 and not key", KNOWN).names == {"headers", "key"}


def test_what_is_too_much_is_told_however_deep_it_goes() -> None:
    with pytest.raises(ValueError, match="is more than an expression here can say"):
        Expression("1" + " ** 1" * 600, WHEN_NAMES)
    with pytest.raises(ValueError, match=r"'lambda: 3' is more than an expression here can say"):
        Expression("  key == 1 and (lambda: 3)", WHEN_NAMES)
