"""What a master has others do, who know more than it does: the check of a changed configuration, the
admin address. And the run file, by which commands find it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from gworkers.supervisor.lines import read_now


class Reload:
    """The check of the configuration as it is now, by a process of its own; its last line is a
    plan."""

    def __init__(self, command: Sequence[str], selector: selectors.BaseSelector) -> None:
        self._command = command
        self._selector = selector
        self._process: subprocess.Popen[bytes] | None = None
        self._output = b""

    def begin(self) -> None:
        """Unless one is under way."""
        if self._process is None:
            self._output = b""
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdout.fileno(), False)
            self._selector.register(self._process.stdout.fileno(), selectors.EVENT_READ, ("reload", None))

    def take(self, fd: int) -> bool:
        """Read what it says; False at the end, or when there is nothing more for now."""
        data = read_now(fd)
        self._output += data or b""
        if data == b"":
            self._selector.unregister(fd)
        return bool(data)

    def ended(self) -> tuple[bool, list[str]] | None:
        """Whether the configuration is good, and what was said of it; once, when it has ended."""
        process = self._process
        if process is None or process.poll() is None:
            return None
        assert process.stdout is not None
        fd = process.stdout.fileno()
        while fd in self._selector.get_map() and self.take(fd):
            pass
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        process.stdout.close()
        self._process = None
        return process.returncode == 0, self._output.decode("utf-8", "replace").strip().splitlines()


class AdminHelper:
    """The process that answers at the admin address (gworkers.admin.of_master)."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self.status = 0  # with which it ended

    def start(self) -> str | None:
        """Blocks until it listens; its address, None where that cannot be had."""
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            self.status = process.wait()
            return None
        self._process = process
        return str(json.loads(line)["admin"])

    def tell(self, addresses: Mapping[int, str | None]) -> None:
        """Where the processes are."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(json.dumps(addresses).encode() + b"\n")
                self._process.stdin.flush()

    def ended(self) -> bool:
        """Whether it has died, once."""
        if self._process is None or self._process.poll() is None:
            return False
        self._process = None
        return True

    def end(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)


def write_run_file(plan: Mapping[str, Any], address: str | None) -> None:
    """As gworkers.supervisor.run_file reads it. Where it cannot be written, commands do not find this
    server."""
    facts = {"pid": os.getpid(), "config": plan["config"], "servers": plan["servers"], "admin": address}
    path = plan["run_file"]
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        file = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(file, "w", encoding="utf-8") as new:
            new.write(json.dumps(facts))
        os.replace(f"{path}.new", path)
