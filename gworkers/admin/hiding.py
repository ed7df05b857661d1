"""``admin.values: hidden``: what messages contain is shown to nobody but who may operate the
server."""

from __future__ import annotations

from typing import Any

from gworkers.admin.answer import Request
from gworkers.config.schema import Admin

HIDDEN = "(hidden)"
#: Fields of what the admin address says that come from messages: keys, values, headers, lines of the
#: log, and the words of exceptions, which may repeat them.
FROM_MESSAGES = frozenset({"key", "value", "decoded", "headers", "text", "trace", "log"})


class Hiding:
    """config: whether values are hidden, and whether anybody has a token."""

    def __init__(self, config: Admin) -> None:
        self._hidden = config.values == "hidden"
        self._open = config.token is None

    def hides(self, request: Request) -> bool:
        """Whether who asks may not see them. Without a token for operating nobody may."""
        return self._hidden and (self._open or not request.may_operate)

    def without(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The same without them."""
        return {name: self._plain(name, value) for name, value in facts.items()}

    def _plain(self, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return self.without(value) if name not in FROM_MESSAGES else {}
        if isinstance(value, list):
            return [self.without(each) if isinstance(each, dict) else each for each in value] if name not in FROM_MESSAGES else []
        return HIDDEN if name in FROM_MESSAGES and value is not None else value
