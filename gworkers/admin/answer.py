"""What a page of the admin address answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: the query's parameters, the last of each name, and the Authorization header; the
    form that a page has sent; may_operate: whether who asks may do more than read; who: the name of
    the token that was given, and from where; take_time: to be called by what needs more than a
    moment."""

    query: Mapping[str, str]
    authorization: str
    path: str = ""
    form: Mapping[str, str] = field(default_factory=dict)
    may_operate: bool = False
    who: str = ""
    take_time: Callable[[], None] = lambda: None

    def number(self, name: str) -> int | None:
        """A parameter that is a whole number of up to nine digits; None for anything else."""
        text = self.query.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


class BadRequestError(ValueError):
    """A request that cannot be done; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """status: as HTTP's first line has it; kind: the media type of ``body``; stream: what comes after
    it, for as long as somebody listens."""

    status: str
    kind: str
    body: str
    headers: tuple[tuple[str, str], ...] = ()
    stream: Iterator[str] | None = None

    @classmethod
    def of(cls, good: bool, facts: dict[str, Any]) -> Answer:
        """JSON with ``ok``, and 503 when something is not well."""
        return cls("200 OK" if good else "503 Service Unavailable", "application/json", cls.shown(good, facts).body)

    @classmethod
    def shown(cls, good: bool, facts: dict[str, Any]) -> Answer:
        """The same for who wants to see it, well or not."""
        return cls("200 OK", "application/json", json.dumps({"ok": good, **facts}) + "\n")

    def with_facts(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Answer:
        """The same with other facts."""
        return replace(self, body=json.dumps(change(json.loads(self.body))) + "\n")

    @classmethod
    def not_allowed(cls) -> Answer:
        """Without the token of the configuration."""
        told = "a token of admin.token or admin.read_token is needed, as Authorization: Bearer …\n"
        return cls("401 Unauthorized", "text/plain", told, (("WWW-Authenticate", "Bearer"),))

    @classmethod
    def wrong(cls, status: str, why: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        """JSON with ``ok`` false and the reason."""
        return cls(status, "application/json", cls.shown(False, {"why": why}).body, headers)

    @classmethod
    def not_found(cls, pages: Iterable[str]) -> Answer:
        return cls("404 Not Found", "text/plain", f"there are {', '.join(pages)}\n")
