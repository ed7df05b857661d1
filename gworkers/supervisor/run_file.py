"""What a running server leaves for the other commands: where its embedded broker and its admin
address are.

One small file for a configuration, in a folder of the user's own; written when the addresses are
known, removed at the end. A file whose process has ended is ignored.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

#: No such file is longer.
MOST_CHARACTERS = 100_000

log = logging.getLogger("gworkers")


def _folder() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base, f"gworkers-{os.getuid()}")


def path_of(config: Path) -> Path:
    """Where it is, for the configuration file ``config``."""
    name = hashlib.sha256(str(config.resolve()).encode()).hexdigest()[:16]
    return _folder() / f"{name}.json"


def write(config: Path, facts: dict[str, Any]) -> None:
    """Leave facts about this process, which runs the configuration file ``config``. Where that
    cannot be done the server goes on without, and says so: nothing in it needs the file."""
    try:
        folder = _folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_owner(os.lstat(folder), str(folder))
        file, temporary = tempfile.mkstemp(dir=folder)
        with open(file, "w", encoding="utf-8") as new:
            new.write(json.dumps({"pid": os.getpid(), "config": str(config.resolve()), **facts}))
        os.replace(temporary, path_of(config))
    except OSError as error:
        log.warning(
            "other commands will not find this server, because %s cannot be written: %s; set XDG_RUNTIME_DIR to a folder of this user's",
            error.filename or _folder(),
            error.strerror or error,
        )


def read(config: Path) -> dict[str, Any] | None:
    """What the server that runs ``config`` left, None when none runs."""
    try:
        _check_owner(os.lstat(_folder()), str(_folder()))
        with open(os.open(path_of(config), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8") as file:
            _check_owner(os.fstat(file.fileno()), file.name)
            facts: dict[str, Any] = json.loads(file.read(MOST_CHARACTERS))
        if not (isinstance(facts, dict) and type(facts["pid"]) is int and facts["pid"] > 0 and isinstance(facts["servers"], str)):
            return None
        os.kill(facts["pid"], 0)
    except (OSError, ValueError, KeyError, OverflowError, RecursionError):
        return None
    return facts


def _check_owner(status: os.stat_result, name: object) -> None:
    """Raises PermissionError for what another user has made: it is neither written nor believed."""
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it is another user's", str(name))


def remove(config: Path) -> None:
    """Take the file away, if it is this process's."""
    facts = read(config)
    if facts is not None and facts["pid"] == os.getpid():
        with contextlib.suppress(OSError):
            path_of(config).unlink()
