"""The small language of ``when`` and of ``gworkers dead-letters --where``: comparisons of what a
message has.

    headers.kind == 'order' and value.amount >= 100
    key in ('a', 'b') or not headers['x-test']
    'urgent' in value.tags

Names are what the message has; a field that is not there is None, and a comparison that makes no
sense (``None > 3``) is false. The text is parsed with Python's own grammar, of which only this much
is taken: nothing in it can call or change anything.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from gworkers.text import cut

Look = Callable[[str], Any]
_Node = Callable[[Look], Any]

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}


#: The longest text, in characters, and how deep its parts may be nested.
LONGEST = 4_000
DEEPEST = 50


class Expression:
    """A compiled expression. ``names`` are those it asks for. Raises ValueError with a sentence
    when the text is none."""

    def __init__(self, text: str, known: frozenset[str]) -> None:
        self.text = text
        self.names: set[str] = set()
        self._known = known
        self._depth = 0
        if len(text) > LONGEST:
            raise ValueError(f"an expression of {len(text):,} characters is longer than {LONGEST:,}; a handler can decide what is so long")
        told = repr(cut(text, 200))
        try:
            with warnings.catch_warnings(action="ignore"):  # ("a" is "b") is a comparison as good as any here
                tree = ast.parse(text.strip(), mode="eval")
        except (RecursionError, MemoryError):
            raise ValueError(f"{told} is nested too deeply") from None
        except (SyntaxError, ValueError) as error:
            why = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ValueError(f"{told} is not an expression: {why}; write for example headers.kind == 'order'") from None
        self._test = self._compile(tree.body)

    def matches(self, look: Look) -> bool:
        """Whether a message does; ``look`` gives the value of a name."""
        return bool(self._test(look))

    def _compile(self, node: ast.expr) -> _Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"{cut(self.text, 200)!r} is nested more than {DEEPEST} deep")
        try:
            return self._compiled(node)
        finally:
            self._depth -= 1

    def _compiled(self, node: ast.expr) -> _Node:
        if isinstance(node, ast.BoolOp):
            parts = [self._compile(part) for part in node.values]
            if isinstance(node.op, ast.And):
                return lambda look: all(part(look) for part in parts)
            return lambda look: any(part(look) for part in parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            operand = self._compile(node.operand)
            return (lambda look: not operand(look)) if isinstance(node.op, ast.Not) else (lambda look: _negative(operand(look)))
        if isinstance(node, ast.Compare):
            return self._compare(node)
        if isinstance(node, ast.Constant):
            value = node.value
            return lambda look: value
        if isinstance(node, (ast.Tuple, ast.List)):
            items = [self._compile(item) for item in node.elts]
            return lambda look: [item(look) for item in items]
        if isinstance(node, ast.Name):
            name = {"null": "None", "true": "True", "false": "False"}.get(node.id, node.id)
            if name in ("None", "True", "False"):
                constant = {"None": None, "True": True, "False": False}[name]
                return lambda look: constant
            if name not in self._known:
                raise ValueError(f"{cut(self.text, 200)!r} asks for {name}, and there are {', '.join(sorted(self._known))}")
            self.names.add(name)
            return lambda look: look(name)
        if isinstance(node, ast.Attribute):
            inner, field = self._compile(node.value), node.attr
            return lambda look: _field(inner(look), field)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            inner, index = self._compile(node.value), node.slice.value
            return lambda look: _field(inner(look), index)
        told = f"{cut(self.text, 200)!r}: {cut(ast.get_source_segment(self.text.strip(), node) or self.text, 200)!r}"
        raise ValueError(f"{told} is more than an expression here can say; comparisons, and, or, not are known")

    def _compare(self, node: ast.Compare) -> _Node:
        first = self._compile(node.left)
        steps = [(_COMPARE[type(op)], self._compile(right)) for op, right in zip(node.ops, node.comparators, strict=True)]

        def compare(look: Look) -> bool:
            left = first(look)
            for test, right_of in steps:
                right = right_of(look)
                try:
                    if not test(left, right):
                        return False
                except (TypeError, RecursionError):
                    return False
                left = right
            return True

        return compare


def _field(value: Any, name: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, (list, str)) and isinstance(name, int):
        return value[name] if -len(value) <= name < len(value) else None
    return None


def _negative(value: Any) -> Any:
    return -value if isinstance(value, (int, float)) else None
