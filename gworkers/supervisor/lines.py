"""What processes write, passed on as one stream of whole lines."""

from __future__ import annotations

import contextlib
import os
import selectors
from collections import deque

#: A longer line is passed on in pieces, in bytes.
LONGEST_LINE = 1_000_000
#: The last lines of a process that are kept.
LAST_LINES = 12


def read_now(fd: int) -> bytes | None:
    """What is there; b"" at the end, None when nothing is there yet."""
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def readable(fd: int) -> bool:
    with selectors.SelectSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(0))


def write_all(fd: int, data: bytes) -> None:
    """That nobody reads it is no reason to end."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]


class Lines:
    """Passes on what a process writes to one of its outputs, each line with the process's number; a
    line of JSON says it itself. to: this process's descriptor; last: the last lines are put there."""

    def __init__(self, number: int, to: int, last: deque[str], *, json: bool) -> None:
        self._prefix = b"[%d] " % number
        self._to = to
        self._last = last
        self._json = json
        self._rest = b""  # the beginning of a line that has not come whole

    def take(self, fd: int) -> bool:
        """Read what is there. False at the end."""
        data = read_now(fd)
        *lines, rest = (self._rest + (data or b"")).split(b"\n")
        if rest and (data == b"" or len(rest) >= LONGEST_LINE):
            lines.append(rest)
            rest = b""
        self._rest = rest
        text = b""
        for line in lines:
            self._last.append(line.decode("utf-8", "replace"))
            text += (line if self._json and line.startswith(b"{") else self._prefix + line) + b"\n"
        write_all(self._to, text)
        return data != b""
