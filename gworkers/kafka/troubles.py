"""Why a broker could not be reached, as the client saw it itself.

kafka-python logs the true reason of a failed TLS handshake or login, and raises "Unable to
bootstrap", after it has tried again and again until its time was up. Here the error of the last
attempt at each address is kept, until one succeeds; and a client that is being made gives up as soon
as every bootstrap server has refused it for a reason that no waiting can change.

This file knows the inside of kafka-python; gworkers/kafka/versions.py says of which versions.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Iterator
from typing import Any

from gworkers.kafka import green
from gworkers.kafka.errors import Kind, classify

_last: dict[str, tuple[int, BaseException]] = {}
_count = itertools.count()


def keep() -> None:
    """From now on keep them. Further calls do nothing."""
    manager = green.module("kafka.net.manager").KafkaConnectionManager
    connect = manager._connect
    if getattr(connect, "kept", False):
        return

    async def _connect(self: Any, node: Any, conn: Any, *args: Any, **kwargs: Any) -> None:
        await connect(self, node, conn, *args, **kwargs)
        address = f"{node.host}:{node.port}"
        if conn.init_future.failed():
            error = conn.init_future.exception
            _last[address] = next(_count), error
            if not self.bootstrapped and _for_good(error):
                _give_up(self, node.node_id, error)
        else:
            _last.pop(address, None)

    _connect.kept = True  # type: ignore[attr-defined]
    manager._connect = _connect


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was made of, and what it came from."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [argument for argument in one.args if isinstance(argument, BaseException)]
        waiting += [one.__cause__, one.__context__]


def _for_good(error: BaseException) -> bool:
    """Whether trying again at once leads nowhere: TLS or the login failed, not the network."""
    if classify(error) in (Kind.NOT_LET_IN, Kind.NO_MECHANISM, Kind.NO_LOGIN_HERE):
        return True
    return any(isinstance(one, ssl.SSLError) for one in chain(error))


def _give_up(manager: Any, node: Any, error: BaseException) -> None:
    """kafka-python keeps errors of logins by node and raises them when the node is wanted again."""
    refused = manager.__dict__.setdefault("gworkers_refused", {})
    refused[node] = error
    if all(broker.node_id in refused for broker in manager.cluster.bootstrap_brokers()):
        manager._auth_failures.update(refused)


def latest() -> tuple[str, BaseException] | None:
    """The address at which an attempt failed last, and its error; None when the last one at every
    address succeeded."""
    if not _last:
        return None
    address, (_, error) = max(_last.items(), key=lambda item: item[1][0])
    return address, error


def forget() -> None:
    """A new attempt begins: what was before it does not count."""
    _last.clear()
