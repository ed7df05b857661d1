"""A C extension that holds the interpreter's lock while it works: the regular expressions' engine."""

import re

pattern = re.compile(r"(a|b|ab)*c")


def handle(value: str) -> str:
    return f"{value} {pattern.search('ab' * 9 + value) is None}"
