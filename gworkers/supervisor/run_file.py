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
import tempfile
from pathlib import Path
from typing import Any

log = logging.getLogger("gworkers")


def _folder() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base, f"gworkers-{os.getuid()}")


def _file(config: Path) -> Path:
    name = hashlib.sha256(str(config.resolve()).encode()).hexdigest()[:16]
    return _folder() / f"{name}.json"


def write(config: Path, facts: dict[str, Any]) -> None:
    """Leave facts about this process, which runs the configuration file ``config``. Where that
    cannot be done the server goes on without, and says so: nothing in it needs the file."""
    try:
        folder = _folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it is another user's", str(folder))
        target = _file(config)
        temporary = target.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"pid": os.getpid(), "config": str(config.resolve()), **facts}), "utf-8")
        temporary.replace(target)
    except OSError as error:
        log.warning(
            "other commands will not find this server, because %s cannot be written: %s; set XDG_RUNTIME_DIR to a folder of this user's",
            error.filename or _folder(),
            error.strerror or error,
        )


def read(config: Path) -> dict[str, Any] | None:
    """What the server that runs ``config`` left, None when none runs."""
    try:
        facts: dict[str, Any] = json.loads(_file(config).read_text("utf-8"))
        os.kill(int(facts["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return None
    return facts


def remove(config: Path) -> None:
    """Take the file away, if it is this process's."""
    facts = read(config)
    if facts is not None and facts["pid"] == os.getpid():
        with contextlib.suppress(OSError):
            _file(config).unlink()
