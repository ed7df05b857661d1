"""The very end of the process: nothing that the application has left running holds it up for longer
than the grace.

Python waits at its end for threads that are no daemons and for children of multiprocessing, as long
as that takes. A supervisor sees a process that has said "stopped" and is still there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from types import FrameType

import gevent.monkey

_sleep = gevent.monkey.get_original("time", "sleep")
_start = gevent.monkey.get_original("_thread", "start_new_thread")

#: After how many seconds it is said who holds the process up.
SAID_AFTER = 2.0


def end_within(seconds: float, status: int) -> None:
    """From now on the process has ``seconds`` to end as Python does; then it ends with ``status``
    all the same. What holds it up is named on standard error."""
    with contextlib.suppress(RuntimeError):  # no thread is left to be had
        _start(_watch, (max(seconds, SAID_AFTER), status))


def _watch(seconds: float, status: int) -> None:
    ends = time.monotonic() + seconds
    _sleep(SAID_AFTER)
    for name in _left():
        _write(f"{name} of the application still runs and holds up the end of the process, for {seconds:.0f} s at the most")
    while time.monotonic() < ends:
        _sleep(0.1)
    _write(
        f"the process ends, though {' and '.join(_left()) or 'something'} of the application has not ended; make it a daemon, or stop it"
    )
    os._exit(status)


def _left() -> list[str]:
    """Who keeps Python from ending, as far as it can be told."""
    frames = sys._current_frames()
    main = threading.main_thread()
    found = [
        f"the thread {thread.name!r}{_at(frames.get(thread.ident or 0))}"
        for thread in list(threading._active.values())  # type: ignore[attr-defined]  # enumerate() would take a lock
        if thread is not main and not thread.daemon and thread.is_alive()
    ]
    with contextlib.suppress(Exception):
        found += [f"the child process {child.name!r} (pid {child.pid})" for child in multiprocessing.active_children() if not child.daemon]
    return found


def _at(frame: FrameType | None) -> str:
    """The innermost line that is not the standard library's."""
    while frame is not None and frame.f_code.co_filename.startswith(os.path.dirname(os.__file__)) and frame.f_back is not None:
        frame = frame.f_back
    return f", at {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def _write(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"gworkers: {text}\n".encode("utf-8", "backslashreplace"))
