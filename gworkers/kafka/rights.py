"""Rights that Kafka does not give this client: which, to whom, and the command that gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gworkers.kafka import security
from gworkers.kafka.errors import Kind, classify

#: What a client does with a topic, in words.
_VERBS = {"Read": "read", "Write": "write to", "Describe": "see"}


@dataclass(frozen=True, slots=True)
class Rights:
    """Who asks for what. principal: as Kafka knows this client, "User:shop"; operation: what it does
    with topics, Read or Write."""

    servers: str
    principal: str
    operation: str
    group: str
    transactional_id: str = ""

    @classmethod
    def of(cls, servers: str, options: Mapping[str, Any], operation: str) -> Rights:
        """Those of a client that is made with ``options``."""
        group, transactional_id = str(options.get("group_id") or ""), str(options.get("transactional_id") or "")
        return cls(servers, security.principal(options), operation, group, transactional_id)

    def missing(self, error: Any) -> str | None:
        """A sentence and a command for an error that means a missing right; None for any other."""
        kind = classify(error)
        if kind is Kind.TOPIC_NOT_ALLOWED:
            return self.topics(_topics_of(error))
        if kind is Kind.GROUP_NOT_ALLOWED:
            group = next((argument for argument in error.args if isinstance(argument, str) and argument), self.group)
            return self._sentence(f"use the group {group}", "Read", f"--group {group}")
        if kind is Kind.ID_NOT_ALLOWED:
            name = self.transactional_id
            return self._sentence(f"use the transactional id {name}", "Write", f"--transactional-id {name}")
        if kind is Kind.CLUSTER_NOT_ALLOWED:
            return self._sentence("send each message once (an idempotent producer)", "IdempotentWrite", "--cluster")
        return None

    def topics(self, names: Iterable[str]) -> str:
        found = sorted(names) or ["NAME"]
        what = f"the topic {found[0]}" if len(found) == 1 else f"the topics {', '.join(found)}"
        return self._sentence(f"{_VERBS[self.operation]} {what}", self.operation, " ".join(f"--topic {name}" for name in found))

    def _sentence(self, what: str, operation: str, resource: str) -> str:
        command = f"kafka-acls.sh --bootstrap-server {self.servers} --add --allow-principal '{self.principal}'"
        told = f"{self.principal} has no right to {what}. Whoever administers this Kafka gives it by"
        return f"{told}\n  {command} --operation {operation} {resource}"


def _topics_of(error: BaseException) -> set[str]:
    found: set[str] = set()
    for argument in error.args:
        if isinstance(argument, str):
            found.add(argument)
        elif isinstance(argument, (set, frozenset, list, tuple)):
            found.update(map(str, argument))
    return found
