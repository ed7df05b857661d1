"""This process's place in the group, where it outlives the process.

A member that dies without leaving is waited for by its group until its session ends, 45 s by default,
and its partitions stand still. Whoever starts next on this machine finds its member id in a file that
nobody holds a lock on any more, and has the broker remove it, so that the group goes on at once.

The file's lock is the kernel's: it ends with the process and not before, whatever became of its id. A
file from before the machine started, or from another machine (a volume that moved), has another boot
id: nobody can tell whether its process lives, and its session is waited for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from gworkers.config.load import Loaded
from gworkers.offsets import journal

log = logging.getLogger("gworkers")

#: Files that are looked at: more processes of a group are hardly on one machine.
MOST = 1000
#: No such file is longer, in bytes.
LONGEST = 4096


def folder_of(state: Path | None) -> Path | None:
    """Where the files of members are: in the group's state directory, or a folder of this user's; None
    where that cannot be had."""
    if state is not None:
        return state
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), f"gworkers-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = os.lstat(folder)
    except OSError:
        return None
    return folder if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() else None


def place(loaded: Loaded) -> Path | None:
    """Where what outlives a process of this configuration is kept: in the state directory, or a folder
    of this user's; None where that cannot be had. Raises JournalError."""
    config = loaded.config
    state = loaded.folder / config.state_dir if config.state_dir is not None else None
    try:
        return folder_of(journal.folder_of(state, config.kafka.group) if state is not None else None)
    except journal.JournalError as error:
        if error.no_room:
            return None
        raise


class Members:
    """The members of one group on this machine. ``left_behind`` comes before ``claim``: a process's
    locks end with the first of its descriptors of a file that is closed."""

    def __init__(self, folder: Path, servers: str, group: str) -> None:
        name = sha256(f"{group}\0{servers}".encode()).hexdigest()[:16]
        self._paths = [folder / f"member.{name}.{number}" for number in range(MOST)]
        self._file: int | None = None
        self._boot = boot()

    def left_behind(self) -> list[str]:
        """The ids of members whose processes have died on this machine. Each is told once."""
        return list(self._left_behind())

    def _left_behind(self) -> Iterator[str]:
        for path in self._paths:
            try:
                file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                return  # the first that is not there: the files are made in turn, and none is taken away
            try:
                if not _lock(file):
                    continue
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    told = json.loads(os.pread(file, LONGEST, 0) or b"{}")
                    if told["boot"] == self._boot and isinstance(told["member"], str) and told["member"]:
                        yield told["member"]
                os.ftruncate(file, 0)
            finally:
                os.close(file)

    def claim(self) -> None:
        """Take the first file that nobody holds. Where none can be had, nothing is kept."""
        for path in self._paths:
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError as error:
                log.info("where this process stands in its group is not kept: %s: %s", path, error.strerror)
                return
            if _lock(file):
                self._file = file
                return
            os.close(file)

    def joined(self, member_id: str) -> None:
        """This is who this process is to its group now."""
        if self._file is not None:
            told = json.dumps({"boot": self._boot, "member": member_id, "pid": os.getpid()}).encode()
            with contextlib.suppress(OSError):
                os.pwrite(self._file, told, 0)
                os.ftruncate(self._file, len(told))

    def left(self) -> None:
        """This process has left its group."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
                os.close(self._file)
            self._file = None


def boot() -> str:
    """Which start of which machine this is; empty where it cannot be told."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def _lock(file: int) -> bool:
    """A lock of the process: a child that a handler forked does not keep it when the process dies."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
