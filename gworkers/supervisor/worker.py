"""One number of a master's plan, and the process that has it now."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from gworkers.supervisor.lines import LAST_LINES, Lines, read_now, readable

#: How a process ends at a signal that asks for its stop and that it does not listen to any more.
_STOPS = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGQUIT)


class Worker:
    """number: from 0; json: whether its lines are. The master reads its flags, and writes those that
    say what it means to do."""

    def __init__(self, number: int, selector: selectors.BaseSelector, *, json: bool) -> None:
        self.number = number
        self.last: deque[str] = deque(maxlen=LAST_LINES)  # what it wrote last
        self.began = 0.0  # time.monotonic()
        self.well = 0.0  # when it last said so
        self.started = self.joined = False
        self.admin: str | None = None  # its address
        self.deaths = 0  # in a row, each after a short life
        self.due: float | None = None  # when it is to be started again
        self.retiring = False  # it was asked to end, to be replaced or for good
        self.asked_at: float | None = None  # when it was asked to end first
        self.over = False  # ended as it should, with nothing left to do
        self.told: int | None = None  # the pipe's end at which it tells facts
        self._last_word: int | None = None  # the status that it has said it ends with
        self._selector = selector
        self._json = json
        self._process: subprocess.Popen[bytes] | None = None
        self._ask: int | None = None  # the pipe's end
        self._outputs: dict[int, Lines] = {}

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def begin(self, command: Sequence[str], servers: str, watchdog: float | None) -> None:
        """Start a process. Raises OSError."""
        asked, ask = os.pipe()
        tell, told = os.pipe()
        facts = {"number": self.number, "asked": asked, "told": told, "servers": servers, "watchdog": watchdog}
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, "GWORKERS_WORKER": json.dumps(facts)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(asked, told),
                start_new_session=True,  # a Ctrl-C on the terminal is for the master
            )
        except OSError:
            for end in (ask, tell):
                os.close(end)
            raise
        finally:
            os.close(asked)
            os.close(told)
        self._process, self._ask, self.told = process, ask, tell
        self._last_word = None
        self.began = time.monotonic()
        self.started = self.joined = self.retiring = False
        self.admin = self.asked_at = None
        assert process.stdout is not None
        assert process.stderr is not None
        for to, stream in ((1, process.stdout), (2, process.stderr)):
            self._outputs[stream.fileno()] = Lines(self.number, to, self.last, json=self._json)
            self._watch(stream.fileno(), "lines")
        self._watch(tell, "told")

    def _watch(self, fd: int, what: str) -> None:
        os.set_blocking(fd, False)
        self._selector.register(fd, selectors.EVENT_READ, (what, self))

    def ask(self, what: str) -> None:
        """One of the words of gworkers.supervisor.under_master."""
        if self._ask is not None:
            with contextlib.suppress(OSError):
                os.write(self._ask, f"{what}\n".encode())

    def end(self, what: str = "stop") -> None:
        """Have it end: by asking, or by a signal while it does not listen yet."""
        self.due = None
        self.asked_at = self.asked_at or time.monotonic()
        if self._process is not None and not self.started:
            self._process.terminate()
        else:
            self.ask(what)

    def kill(self) -> None:
        """It does not end otherwise."""
        if self._process is not None:
            self._process.kill()

    def take_facts(self, data: bytes) -> list[dict[str, Any]]:
        """What it tells, a JSON object a line, noted as far as it is about itself. A line is shorter
        than a pipe's atomic write."""
        found: list[dict[str, Any]] = [json.loads(line) for line in data.splitlines()]
        for facts in found:
            self.started = self.started or "started" in facts
            self.joined = self.joined or "joined" in facts
            self.well = time.monotonic() if "well" in facts else self.well
            self.admin = facts.get("admin", self.admin)
            self._last_word = facts.get("ended", self._last_word)
        return found

    def take_lines(self, fd: int) -> None:
        if not self._outputs[fd].take(fd):
            del self._outputs[fd]
            self._selector.unregister(fd)

    def ended(self) -> int | None:
        """Its status, once, when its process has ended, and what it wrote has been passed on."""
        status = self._process.poll() if self._process is not None else None
        if self._process is None or status is None:
            return None
        for fd in list(self._outputs):
            while fd in self._outputs and readable(fd):
                self.take_lines(fd)
            if fd in self._outputs:  # a child of its own holds it open
                del self._outputs[fd]
                self._selector.unregister(fd)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._ask is not None:
            os.close(self._ask)
        self._process = self._ask = None
        if status in _STOPS:  # one that came after it had ended as it should, as with systemd's KillMode=control-group
            self.take_facts((read_now(self.told) if self.told is not None else None) or b"")
            status = self._last_word if self._last_word is not None else status
        return status
