"""What is running now, in a file that outlives the process: who kills it can be told afterwards.

``<state_dir>/<group>/running.N`` is mapped into memory, one file a process, held by a lock for as
long as the process lives. It has a head and a fixed entry for each thread or greenlet that runs
handlers: the offset, -1 while nothing runs, the last offset of a batch, and the topic and
partition. Beginning a message is one store into it and no system call; the kernel keeps the page
when the process dies.

At the start the files of processes that died are read: what ran in them is suspected
(gworkers.pipeline.quarantine).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

log = logging.getLogger(__name__)

MAGIC = b"gwjournl"
VERSION = 1
#: Bytes of an entry, and of the head: offset and last as 64-bit integers, then ``topic/partition``,
#: padded with zeros.
ENTRY = 288
LABEL = ENTRY - 16
WORDS = ENTRY // 8
#: The head: magic, version, whether a process runs (or died running), its pid.
HEAD = struct.Struct("=8sqqq")
RUNNING = 2  # the head's word for it, as an index

#: A journal is never larger, in bytes.
MOST_BYTES = 64 * 2**20

#: A batch may be larger than what is suspected of it: beyond this the span is of holes.
MOST_OF_A_BATCH = 10_000


class JournalError(Exception):
    """Why a state directory cannot be used, as a sentence. no_room: the disk is full, which may
    be over some time."""

    def __init__(self, text: str, cause: OSError | None = None) -> None:
        super().__init__(text)
        self.no_room = cause is not None and cause.errno in (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class RunningSpan:
    """What one entry said when its process died: the messages from ``first`` to ``last`` of one
    partition ran."""

    topic: str
    partition: int
    first: int
    last: int


class Journaling(Protocol):
    """Where an executor notes what it runs. ``offsets[at]`` is set to the offset of each message as
    it begins, and to -1 after the last; ``offsets[at + 1]`` to the last offset of a batch, before.
    """

    offsets: Any

    def claim(self) -> int:
        """An entry for one thread or greenlet."""

    def release(self, at: int) -> None: ...

    def enter(self, at: int, label: bytes) -> None:
        """What follows in this entry is of the partition with this label, ``topic/number``."""


class NoJournal:
    """Stands in for the journal of a process without a state directory: the same steps, and nothing
    is kept."""

    def __init__(self) -> None:
        self.offsets = [-1, -1]

    def claim(self) -> int:
        return 0

    def release(self, at: int) -> None:
        pass

    def enter(self, at: int, label: bytes) -> None:
        pass


class Journal:
    """This process's own file. Raises JournalError when the folder or the file cannot be had."""

    def __init__(self, folder: Path, entries: int) -> None:
        self._file, self.path = _own(folder)
        size = ENTRY * (entries + 2)
        try:
            os.ftruncate(self._file, 0)
            os.posix_fallocate(self._file, 0, size)  # a full disk is told now, not by SIGBUS in the middle of a message
        except OSError as error:
            raise JournalError(f"{self.path} cannot be made {size} bytes large: {os.strerror(error.errno or 0)}", error) from None
        self._bytes = memoryview(mmap.mmap(self._file, size))
        self.offsets = self._bytes.cast("q")
        for index in range(entries + 1):
            self.offsets[(index + 1) * WORDS] = -1
        self._free = [(index + 1) * WORDS for index in range(entries)]
        self._spare = (entries + 1) * WORDS  # for whoever finds none free: it never names a partition, so it says nothing
        HEAD.pack_into(self._bytes, 0, MAGIC, VERSION, 1, os.getpid())

    def claim(self) -> int:
        return self._free.pop() if self._free else self._spare

    def release(self, at: int) -> None:
        if at != self._spare:
            self._free.append(at)

    def enter(self, at: int, label: bytes) -> None:
        if at != self._spare:
            self._bytes[at * 8 + 16 : at * 8 + ENTRY] = label.ljust(LABEL, b"\0")

    def close(self) -> None:
        """The process ends as it should: what still runs is not to be blamed for it."""
        self.offsets[RUNNING] = 0


def folder_of(state_dir: Path, group: str) -> Path:
    """Where the state of one consumer group is kept. Made when it is not there. Raises
    JournalError."""
    name = quote(group, safe="")
    folder = state_dir / (name if name.strip(".") else name.replace(".", "%2E"))  # "." and ".." are other folders
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, probe = tempfile.mkstemp(prefix=".writable.", dir=folder)
        os.close(file)
        os.unlink(probe)
    except OSError as error:
        text = f"the folder {folder} cannot be written: {os.strerror(error.errno or 0)}; make it, or name another"
        raise JournalError(text, error) from None
    return folder


def left_behind(folder: Path, own: Path | None = None) -> Iterator[list[RunningSpan]]:
    """For each process that died: what ran in it. Each is told once, so that what is told has to be
    kept before the next is asked for.

    Called before a Journal is made, which may use one of these files anew. A file that is no journal
    (after a power cut it may be empty, or of zeros) is moved aside. Raises JournalError when files
    cannot be locked.
    """
    for path in sorted(folder.glob("running.*")):
        if path == own:
            continue  # closing it a second time would give its lock away
        with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
            if not _lock(file.fileno()):
                continue
            data = file.read(MOST_BYTES)
            why = _no_journal(data)
            if why is not None:
                if data.strip(b"\0"):
                    aside(path, why)
                    continue
                data = b""  # all zeros: it was made, and nothing of it had reached the disk
            if not data:
                continue
            yield _ran(data)
            file.seek(0)
            file.write(HEAD.pack(MAGIC, VERSION, 0, 0))


def _no_journal(data: bytes) -> str | None:
    """Why this is no journal; None when it is one."""
    magic, version, _, _ = HEAD.unpack_from(data) if len(data) >= HEAD.size else (b"", 0, 0, 0)
    if magic != MAGIC:
        return "it is no journal of gworkers, or is damaged"
    if version != VERSION:
        return f"it was written by another version of gworkers (format {version}, this one reads {VERSION})"
    return None


def _ran(data: bytes) -> list[RunningSpan]:
    if not HEAD.unpack_from(data)[2]:
        return []
    found = []
    for start in range(ENTRY, len(data) - ENTRY + 1, ENTRY):
        offset, last = struct.unpack_from("=qq", data, start)
        topic, _, number = data[start + 16 : start + ENTRY].rstrip(b"\0").decode("utf-8", "replace").rpartition("/")
        if offset >= 0 and topic and number.isascii() and number.isdecimal() and len(number) < 10:
            found.append(RunningSpan(topic, int(number), offset, min(max(offset, last), offset + MOST_OF_A_BATCH - 1)))
    return found


def _own(folder: Path) -> tuple[int, Path]:
    """The first file that no living process holds."""
    for number in range(10_000):
        path = folder / f"running.{number}"
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"{path} cannot be opened: {os.strerror(error.errno or 0)}", error) from None
        if _lock(file):
            return file, path
        os.close(file)
    raise JournalError(f"{folder} holds the journals of 10,000 running processes; name a folder of its own for each configuration")


def _lock(file: int) -> bool:
    """A lock of the process: a child that a handler forked does not keep it when the process dies."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise JournalError(f"the file system does not lock files: {os.strerror(error.errno or 0)}; name a folder on another") from None
    return True


def aside(path: Path, why: str) -> None:
    """Move a file away that cannot be read, and say so."""
    for number in range(100):
        target = path.with_name(f"{path.name}.damaged-{number}")
        if not os.path.lexists(target):
            break
    with contextlib.suppress(OSError):
        os.rename(path, target)
        log.warning("%s cannot be read: %s; it was moved to %s, and what it recorded is not known", path, why, target.name)
