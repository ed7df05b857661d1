"""What has finished since the last commit, in a file that outlives the process.

A commit says what is finished, once in a while; what finished after it would run again when the
process is killed. So each finished offset is noted in ``<folder>/finished.<group>.N``, which is mapped
into memory: a store and no system call, and the kernel keeps the page when the process dies. Whoever
gets the partition next on this machine passes over what is noted there.

A note counts only as long as nobody else has had a say: with each assignment stands the commit that it
began with and those that this process has sent since, as digests of offset and metadata, and if the
group's commit is none of them (somebody reset it, another member went on), what is noted is not looked
at. A commit is noted before it is sent, because nobody can tell whether one that was under way when
the process died has arrived.

The file: a head; the assignments; two halves of notes, each the number of an assignment and an offset.
Notes go into one half until a commit of everything is built, from then on into the other, whose notes
that commit's predecessor has made needless. A note never becomes false, so whoever reads while it is
written reads nothing wrong. After the machine has crashed pages may be missing: notes of another boot
are not looked at.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import BinaryIO, Protocol

MAGIC = b"gwfinish"
VERSION = 1
#: magic, version, how many notes each half holds, how many entries have been used, the boot's id
HEAD = struct.Struct("=8sqqqq16s")
COUNTS = 2  # of the first half, as an index of words
USED = 4
HEAD_BYTES = 64

#: An assignment: which partition of which topic, and the digests of up to four commits.
COMMITS = 4
ENTRY = struct.Struct(f"=16s{COMMITS}q")
ENTRIES = 4096
#: Notes in each half. When a half is as full as CROWDED, a commit is wanted.
HALF = 65_536
CROWDED = HALF * 3 // 4
BYTES = HEAD_BYTES + ENTRIES * ENTRY.size + 2 * HALF * 8
#: A note is the number of the assignment and, in its lower bits, the offset.
OFFSET_BITS = 48

#: Files of processes that died which are kept.
KEPT = 8
#: Files that are looked at.
MOST_FILES = 10_000


class Left:
    """What files said when they were read."""

    def __init__(self, files: Sequence[memoryview]) -> None:
        self._files = files
        self._entries: dict[bytes, list[tuple[int, int, tuple[int, ...]]]] = {}  # partition → file, entry, commits
        self._notes: dict[int, dict[int, list[int]]] = {}  # file → entry → offsets, once it was asked for
        for number, data in enumerate(files):
            used = min(max(0, HEAD.unpack_from(data)[USED]), ENTRIES)
            region = data[HEAD_BYTES : HEAD_BYTES + used * ENTRY.size]
            for entry, (partition, *commits) in enumerate(ENTRY.iter_unpack(region)):
                if any(commits):
                    self._entries.setdefault(partition, []).append((number, entry, tuple(commits)))

    def finished(self, label: bytes, topic_id: bytes | None, offset: int, metadata: str) -> set[int]:
        """The offsets of a partition, whose commit is this, that were noted as finished."""
        found: set[int] = set()
        entries = self._entries.get(_partition(label, topic_id), ()) if topic_id is not None else ()
        commit = _commit(offset, metadata)
        for file, entry, commits in entries:
            if commit in commits:
                found.update(self._notes_of(file).get(entry, ()))
        return found

    def _notes_of(self, file: int) -> dict[int, list[int]]:
        if file not in self._notes:
            notes = self._notes[file] = {}
            words = self._files[file].cast("q")
            for half in (0, 1):
                at = _at(half)
                for note in words[at : at + min(max(0, words[COUNTS + half]), HALF)]:
                    notes.setdefault(note >> OFFSET_BITS, []).append(note & ((1 << OFFSET_BITS) - 1))
        return self._notes[file]


class Noting(Protocol):
    """What the pipeline wants of notes. A commit is (mark, offset, metadata)."""

    def left(self) -> Left:
        """What has been noted on this machine so far, by this process and others."""

    def begin(self, label: bytes, topic_id: bytes | None, offset: int | None, metadata: str) -> int:
        """An assignment begins, with this commit of the group (offset None: with none). Returns the
        mark for its notes; with 0 nothing of it is noted."""

    def end(self, mark: int) -> None:
        """The assignment is over."""

    def add(self, notes: Sequence[int]) -> bool:
        """Note ``mark | offset`` as finished. True when a commit is wanted, because little room is
        left."""

    def committing(self, commits: Iterable[tuple[int, int, str]], *, everything: bool) -> None:
        """Before these commits are sent. everything: all that has been noted so far is in them."""

    def committed(self, commits: Iterable[tuple[int, int, str]], *, everything: bool) -> None:
        """They are acknowledged."""


class NoNotes:
    """Where nothing is noted."""

    def left(self) -> Left:
        return Left([])

    def begin(self, label: bytes, topic_id: bytes | None, offset: int | None, metadata: str) -> int:
        return 0

    def end(self, mark: int) -> None:
        pass

    def add(self, notes: Sequence[int]) -> bool:
        return False

    def committing(self, commits: Iterable[tuple[int, int, str]], *, everything: bool) -> None:
        pass

    def committed(self, commits: Iterable[tuple[int, int, str]], *, everything: bool) -> None:
        pass


class Notes:
    """This process's own file, and what others have left in the folder. Raises OSError when it cannot
    be made."""

    def __init__(self, folder: Path, group: str, boot: str) -> None:
        self._pattern = _pattern(group)
        self._folder = folder
        self._boot = blake2b(boot.encode(), digest_size=16).digest()
        self._bytes = self._room()
        self._words = self._bytes.cast("q")
        self._half = 0
        self._counts = [0, 0]
        self._needless = True  # what is in the other half
        self._switches = 0
        self._entries = iter(range(1, ENTRIES))  # that have not been used yet
        self._retired: deque[tuple[int, int]] = deque()  # the switch after which an entry may be used again
        self._commits: dict[int, list[int]] = {}  # mark → the digests that stand in its entry
        HEAD.pack_into(self._bytes, 0, MAGIC, VERSION, 0, 0, 0, self._boot)

    # -- one file a process

    def _room(self) -> memoryview:
        """BYTES of zeros that outlive the process."""
        self._clear_away()
        self._file, self.path = self._own()
        try:
            os.posix_fallocate(self._file, 0, BYTES)  # a full disk is told now, not by SIGBUS later
            return memoryview(mmap.mmap(self._file, BYTES))
        except OSError:
            os.unlink(self.path)
            os.close(self._file)
            raise

    def _own(self) -> tuple[int, Path]:
        for number in range(MOST_FILES):
            path = self._folder / f"{self._pattern}.{number}"
            with contextlib.suppress(FileExistsError):
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file, path
        raise FileExistsError(f"{self._folder} holds {MOST_FILES} files of this kind")

    def _clear_away(self) -> None:
        """Of the processes that have died keep the last ones' files."""
        dead: list[tuple[float, Path]] = []
        for path, file in _of_the_dead(self._folder, self._pattern):
            with contextlib.suppress(OSError):
                head = file.read(HEAD_BYTES)
                if len(head) < HEAD.size or HEAD.unpack_from(head)[-1] != self._boot:
                    path.unlink()
                else:
                    dead.append((os.fstat(file.fileno()).st_mtime, path))
        for _, path in sorted(dead)[:-KEPT]:
            with contextlib.suppress(OSError):
                path.unlink()

    def close(self, *, settled: bool) -> None:
        """settled: all is committed, and the file says nothing more."""
        if settled:
            with contextlib.suppress(OSError):
                self.path.unlink()

    # -- what has been left

    def left(self) -> Left:
        found = [memoryview(bytes(self._bytes))]
        for path in self._folder.glob(f"{self._pattern}.*"):
            if path != self.path:  # closing it a second time would give its lock away
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    data = file.read(BYTES)
                    if len(data) == BYTES and HEAD.unpack_from(data)[::5] == (MAGIC, self._boot):
                        found.append(memoryview(data))
        return Left(found)

    # -- what is noted

    def begin(self, label: bytes, topic_id: bytes | None, offset: int | None, metadata: str) -> int:
        if topic_id is None or (offset or 0) >> (OFFSET_BITS - 1):
            return 0
        if self._retired and self._retired[0][0] <= self._switches:
            entry = self._retired.popleft()[1]
        else:
            entry = next(self._entries, 0)
        if not entry:
            return 0
        mark = entry << OFFSET_BITS
        self._commits[mark] = [_commit(offset, metadata)] if offset is not None else []
        ENTRY.pack_into(self._bytes, HEAD_BYTES + entry * ENTRY.size, bytes(16), *(0,) * COMMITS)
        self._write(mark)
        at = HEAD_BYTES + entry * ENTRY.size
        self._bytes[at : at + 16] = _partition(label, topic_id)
        self._words[USED] = max(self._words[USED], entry + 1)
        return mark

    def end(self, mark: int) -> None:
        if self._commits.pop(mark, None) is not None:
            self._retired.append((self._switches + 2, mark >> OFFSET_BITS))

    def add(self, notes: Sequence[int]) -> bool:
        half = self._half
        begin = self._counts[half]
        end = begin + len(notes)
        if end > HALF:
            return True  # no commit has come through for long: what finishes now may run again
        at = _at(half)
        self._words[at + begin : at + end] = memoryview(array("q", notes))
        self._counts[half] = self._words[COUNTS + half] = end
        return end > CROWDED

    def committing(self, commits: Iterable[tuple[int, int, str]], *, everything: bool) -> None:
        for mark, offset, metadata in commits:
            if mark in self._commits:
                self._commits[mark] = [*self._commits[mark], _commit(offset, metadata)][-COMMITS:]
                self._write(mark)
        if everything and self._needless:
            self._half = half = 1 - self._half
            self._counts[half] = self._words[COUNTS + half] = 0
            self._switches += 1
            self._needless = False

    def committed(self, commits: Iterable[tuple[int, int, str]], *, everything: bool) -> None:
        for mark, offset, metadata in commits:
            digests, digest = self._commits.get(mark, []), _commit(offset, metadata)
            if digest in digests:
                self._commits[mark] = digests[digests.index(digest) :]
                self._write(mark)
        if everything:
            self._needless = True

    def _write(self, mark: int) -> None:
        digests = self._commits[mark]
        at = HEAD_BYTES + (mark >> OFFSET_BITS) * ENTRY.size + 16
        struct.pack_into(f"={COMMITS}q", self._bytes, at, *digests, *(0,) * (COMMITS - len(digests)))


def forget(folder: Path, group: str) -> None:
    """What processes of a group noted that have died is needed no more: somebody has said where the
    group goes on."""
    for path, _ in _of_the_dead(folder, _pattern(group)):
        with contextlib.suppress(OSError):
            path.unlink()


def _of_the_dead(folder: Path, pattern: str) -> Iterator[tuple[Path, BinaryIO]]:
    """The files whose processes have died, each held by a lock of this one for its turn."""
    for path in list(folder.glob(f"{pattern}.*")):
        with contextlib.suppress(OSError), open(path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path, file


def _pattern(group: str) -> str:
    return f"finished.{sha256(group.encode()).hexdigest()[:16]}"


def _at(half: int) -> int:
    """Where a half begins, in words."""
    return (HEAD_BYTES + ENTRIES * ENTRY.size) // 8 + half * HALF


def _partition(label: bytes, topic_id: bytes) -> bytes:
    return blake2b(label, key=topic_id, digest_size=16).digest()


def _commit(offset: int, metadata: str) -> int:
    """Never 0, which stands for none."""
    digest = blake2b(f"{offset} {metadata}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) or 1
