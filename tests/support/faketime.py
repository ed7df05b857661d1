"""libfaketime, which lies to a process about the time of day: built by pip, once a checkout."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.support.broker import ROOT

#: The one of Debian 12 (0.9.10) breaks time.sleep, whose clock_nanosleep it answers with EINVAL.
VERSION = "3.0.1"
FOLDER = ROOT / ".cache" / f"faketime-{VERSION}"


class NoFaketime(Exception):
    """It cannot be had here; the text says why."""


def library() -> Path:
    """To be preloaded. Raises NoFaketime."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (found := list(FOLDER.rglob("libfaketime.so.1"))):
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(FOLDER), f"libfaketime=={VERSION}"]
            done = subprocess.run(command, capture_output=True, text=True)
            found = list(FOLDER.rglob("libfaketime.so.1"))
            if not found:
                raise NoFaketime(f"pip cannot build it: {done.stderr.strip().splitlines()[-1:]}")
    return found[0]


def environment(file: Path) -> dict[str, str]:
    """For a process whose time of day is as much off as ``file`` says, ``+3600`` for instance, from
    one moment to the next; its monotonic clock is right."""
    return {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
