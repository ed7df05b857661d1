"""What the page asks of Kafka, by the commands that people have: each a child process, so that nothing
of it costs the server's own."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import gevent
from gevent import subprocess

from gworkers.loop import Fatal, Loop
from gworkers.text import cut

#: Seconds that a command which only reads may take, and bytes that it may say.
PATIENCE = 30.0
MOST = 8 * 2**20
#: As many commands run at once; others are refused.
AT_ONCE = 4
#: Operations that are remembered when they have ended.
REMEMBERED = 20
#: Characters of an operation's last words that are shown.
SHOWN = 2000


class CommandError(Exception):
    """A command that did not do what was asked; the text is its own sentence."""


class Operation:
    """Something that takes a while. said: its last words; status: how it ended, None while it runs."""

    def __init__(self, number: int, what: str, who: str, process: Any) -> None:
        self.number = number
        self.what = what
        self.who = who
        self.began = time.time()
        self.said = ""
        self.status: int | None = None
        self._process = process

    @property
    def runs(self) -> bool:
        return self.status is None

    @property
    def last_words(self) -> str:
        """The last line that it said."""
        return next((line for line in reversed(self.said.splitlines()) if line.strip()), "")

    def stop(self) -> None:
        """It ends at the next letter; what it has sent it has noted."""
        if self.runs:
            self._process.send_signal(signal.SIGINT)

    def listen(self) -> None:
        """Until it ends. Blocks the calling greenlet."""
        while data := self._process.stdout.read1(4096):
            text = (self.said + data.decode("utf-8", "replace")).replace("\r", "\n")
            self.said = "\n".join(line for line in text.split("\n")[-20:] if line.strip() or line == "")[-SHOWN:]
        self.status = self._process.wait()


class Commands:
    """given: the options that name the configuration, None where there is no file of it."""

    def __init__(self, given: Sequence[str] | None, fatal: Fatal) -> None:
        self.given = given
        self._fatal = fatal
        self._running = 0
        self.operations: list[Operation] = []

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """What a command says as JSON, an object a line. Blocks the calling greenlet; raises
        CommandError."""
        return [json.loads(line) for line in self.text(*arguments).splitlines() if line.startswith("{")]

    def start(self, what: str, who: str, *arguments: str, then: Callable[[], None], given: bytes | None = None) -> Operation:
        """Have it run on; ``then`` is called at its end. given: its standard input. Raises
        CommandError."""
        if sum(one.runs for one in self.operations) >= AT_ONCE:
            raise CommandError(f"{AT_ONCE} operations run already; wait for one of them to end, or stop it")
        process = subprocess.Popen(
            self._command(arguments),
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(),
        )
        number = self.operations[-1].number + 1 if self.operations else 1
        operation = Operation(number, what, who, process)
        self.operations = [*[one for one in self.operations if one.runs], *[one for one in self.operations if not one.runs]][:REMEMBERED]
        self.operations.sort(key=lambda one: one.number)
        self.operations.append(operation)

        def follow() -> None:
            if given is not None:
                with suppress(OSError):
                    process.stdin.write(given)
                    process.stdin.close()
            operation.listen()
            then()

        Loop(f"operation {number}", follow, self._fatal, ends=True).start()
        return operation

    def stop(self) -> None:
        for one in self.operations:
            one.stop()

    def _command(self, arguments: Sequence[str]) -> list[str]:
        if self.given is None:
            raise CommandError("this server was started from Python, without a configuration file that a command could be given")
        at = arguments.index("--") if "--" in arguments else len(arguments)  # after it are no options
        return [sys.executable, "-m", "gworkers", *arguments[:at], *self.given, *arguments[at:]]

    def text(self, *arguments: str) -> str:
        """What it says. Blocks the calling greenlet; raises CommandError."""
        command = self._command(arguments)
        if self._running >= AT_ONCE:
            raise CommandError("several looks at Kafka run already; try again in a moment")
        self._running += 1
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,
            )
            try:
                with gevent.Timeout(PATIENCE, CommandError(f"Kafka has not said all of it within {PATIENCE:.0f} s")):
                    said = process.stdout.read(MOST + 1)
                    if len(said) > MOST:
                        raise CommandError(f"more than {MOST >> 20} MiB; ask for less at a time")
                    wrong = process.stderr.read(SHOWN)
                    status = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                process.stdout.close()
                process.stderr.close()
        finally:
            self._running -= 1
        if status:
            raise CommandError(_sentence(wrong.decode("utf-8", "replace")) or f"the command ended with status {status}")
        return str(said.decode("utf-8", "replace"))


def _sentence(text: str) -> str:
    """The last line that a command said, without what stands before each of its errors."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("Try ", "Usage: "))]
    return cut(re.sub(r"^(Error|gworkers): ", "", lines[-1]), 500) if lines else ""


def _environment() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
