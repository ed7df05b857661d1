"""A worker process's side of the two pipes to its master (gworkers.supervisor.master): does what the
master asks, tells it what it waits for, and drains when it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import gevent.os

from gworkers.loop import Fatal, Loop

#: The environment's variable with which the master starts a worker.
VARIABLE = "GWORKERS_WORKER"
#: Seconds between two looks whether the group has been joined.
LOOK_INTERVAL = 0.1


class Asked(Protocol):
    """Who does it: the server."""

    def drain_for(self, who: str) -> None: ...

    def end_at_once(self) -> None: ...

    def asked_to_stop_at_once(self, name: str) -> None: ...

    def tell_stacks(self) -> None: ...

    def be_quiet(self, quiet: bool) -> None: ...


class UnderMaster:
    """number: of this process, from 0; servers: where Kafka is; watchdog: within so many seconds the
    master wants to hear that all is well, None when it does not."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.number: int = facts["number"]
        self.servers: str = facts["servers"]
        self.watchdog: float | None = facts["watchdog"]
        self._asked: int = facts["asked"]
        self._told: int = facts["told"]
        for fd in (self._asked, self._told):
            os.set_inheritable(fd, False)  # a handler's child would keep them open
        gevent.os.make_nonblocking(self._asked)
        self._starting = True
        self._loops: list[Loop] = []

    @classmethod
    def found(cls) -> UnderMaster | None:
        """What the environment says; None where nobody is the master."""
        text = os.environ.pop(VARIABLE, None)
        return cls(json.loads(text)) if text is not None else None

    def listen(self, server: Asked, reopen: Callable[[], None], fatal: Fatal) -> None:
        """From now on do what is asked."""
        verbs: dict[str, Callable[[], None]] = {
            "stop": lambda: self._stop(server, "the master asks"),
            "now": server.end_at_once,
            "quit": lambda: server.asked_to_stop_at_once("the master asks"),
            "stacks": server.tell_stacks,
            "logs": reopen,
            "quiet": lambda: server.be_quiet(True),
            "resume": lambda: server.be_quiet(False),
        }

        def serve() -> None:
            while True:
                words = gevent.os.nb_read(self._asked, 4096).decode().split()
                for word in words:
                    verbs[word]()
                if not words:
                    self._stop(server, "the master process has ended")
                    return

        self._loops.append(Loop("master", serve, fatal, ends=True))
        self._loops[-1].start()

    def _stop(self, server: Asked, who: str) -> None:
        if self._starting:
            os.kill(os.getpid(), signal.SIGTERM)  # which ends a start wherever it stands
        else:
            server.drain_for(who)

    def started(self, joined: Callable[[], bool], fatal: Fatal) -> None:
        """The server serves. joined: whether the group has been joined."""
        self._starting = False
        self.tell(started=True)

        def look() -> None:
            while not joined():
                gevent.sleep(LOOK_INTERVAL)
            self.tell(joined=True)

        self._loops.append(Loop("joined", look, fatal, ends=True))
        self._loops[-1].start()

    def tell(self, **facts: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(self._told, json.dumps(facts).encode() + b"\n")

    def stop(self) -> None:
        for loop in self._loops:
            loop.stop()
