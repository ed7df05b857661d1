"""The messages that ran when processes of a group died on this machine, kept in the state directory.

``suspects.json`` says who was suspected when it was written: by topic and partition the offset, at
how many deaths in a row the message ran, and whether it was alone at the last. ``suspects.N.cleared``,
where N is the number of that writing, has a line for those that are suspected no more. So clearing
one of thousands appends a line and rewrites nothing. Both are shared by the group's processes under a
lock.

What cannot be read, after a power cut or because somebody else wrote it, is moved aside and told: it
is a memory of accidents, and no reason not to start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gworkers.offsets import journal
from gworkers.offsets.journal import JournalError

VERSION = 2

#: The most that is kept: what is beyond it cannot have run at once.
MOST_SUSPECTS = 1_000_000
MOST_BYTES = 200 * 2**20


@dataclass(frozen=True, slots=True)
class Suspect:
    """deaths: in a row at which this message was running; alone: nothing else ran at the last."""

    deaths: int
    alone: bool


#: By topic and partition the suspects, by offset.
Known = dict[tuple[str, int], dict[int, Suspect]]


class Suspects:
    """The files of one group. Raises JournalError when the folder cannot be written or locked.

    ``gather`` and ``flush`` block for as long as they write, and for the lock; the others do not.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "suspects.json"
        self._known: Known = {}
        self._generation = 0
        self._seen: tuple[Any, ...] | None = None  # how the files looked when they were last read
        self._cleared: list[tuple[str, int, list[int]]] = []  # not yet written
        self.own: Path | None = None  # the journal of this process

    def gather(self) -> int:
        """Take up what ran in processes that have died since, and what others have cleared. Returns
        how many processes those were."""
        deaths = 0
        with self._locked():
            self._read()
            for ran in journal.left_behind(self._folder, self.own):
                if ran:
                    deaths += 1
                    self._suspect(ran)
                    self._write()
        return deaths

    def of(self, topic: str, number: int) -> dict[int, Suspect] | None:
        """The suspects of one partition by offset; None when there are none."""
        return self._known.get((topic, number)) or None

    def clear(self, topic: str, number: int, offsets: list[int]) -> None:
        """These are suspected no more; ``flush`` writes it down."""
        self._forget(topic, number, offsets)
        self._cleared.append((topic, number, offsets))

    @property
    def unwritten(self) -> bool:
        """Whether ``flush`` has something to write."""
        return bool(self._cleared)

    def flush(self) -> None:
        """Write down who was cleared."""
        cleared, self._cleared = self._cleared, []
        if cleared:
            lines = "".join(json.dumps([topic, number, offsets]) + "\n" for topic, number, offsets in cleared)
            with self._locked():
                self._read()  # others may have written it anew
                for topic, number, offsets in cleared:
                    self._forget(topic, number, offsets)
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(self._log(self._generation), flags, 0o600)
                try:
                    os.write(file, lines.encode())
                finally:
                    os.close(file)
                self._seen = self._look()

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def _forget(self, topic: str, number: int, offsets: list[int]) -> None:
        of_partition = self._known.get((topic, number), {})
        for offset in offsets:
            of_partition.pop(offset, None)
        if not of_partition:
            self._known.pop((topic, number), None)

    def _suspect(self, ran: list[journal.RunningSpan]) -> None:
        alone = len(ran) == 1 and ran[0].first == ran[0].last
        for span in ran:
            of_partition = self._known.setdefault((span.topic, span.partition), {})
            for offset in range(span.first, span.last + 1):
                before = of_partition.get(offset)
                of_partition[offset] = Suspect(1 + (before.deaths if before else 0), alone)

    # -- the files

    def _log(self, generation: int) -> Path:
        return self._folder / f"suspects.{generation}.cleared"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            file = os.open(self._folder / "suspects.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
            finally:
                os.close(file)
        except OSError as error:
            raise JournalError(f"{error.filename or self._path} cannot be used: {os.strerror(error.errno or 0)}", error) from None

    def _look(self) -> tuple[Any, ...]:
        found: list[Any] = []
        for path in (self._path, self._log(self._generation)):
            try:
                status = path.stat()
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
            except FileNotFoundError:
                found.append(None)
        return tuple(found)

    def _read(self) -> None:
        if self._seen is not None and self._seen == self._look():
            return
        self._known, self._generation = {}, 0
        try:
            if self._path.stat().st_size > MOST_BYTES:
                raise ValueError("it is larger than it can be")
            self._generation, self._known = _parse(json.loads(self._path.read_bytes()))
            if len(self) > MOST_SUSPECTS:
                raise ValueError("it names more than can have run at once")
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            journal.aside(self._path, f"it is damaged, or another version's ({type(error).__name__})")
        with contextlib.suppress(FileNotFoundError):
            for line in self._log(self._generation).read_bytes()[:MOST_BYTES].splitlines():
                try:
                    topic, number, offsets = json.loads(line)
                    self._forget(topic, number, [offset for offset in offsets if isinstance(offset, int)])
                except (ValueError, TypeError, RecursionError):
                    break  # the last line of a process that died while it wrote
        self._seen = self._look()

    def _write(self) -> None:
        """Anew and whole: after a power cut there is either this one or the one before."""
        before, self._generation = self._generation, self._generation + 1
        told = {
            f"{topic}/{number}": [[offset, one.deaths, int(one.alone)] for offset, one in of_partition.items()]
            for (topic, number), of_partition in self._known.items()
        }
        text = json.dumps({"version": VERSION, "generation": self._generation, "suspects": told}, separators=(",", ":"))
        file, name = tempfile.mkstemp(prefix="suspects.", suffix=".new", dir=self._folder)
        try:
            with open(file, "wb") as new:
                new.write(text.encode())
                new.flush()
                os.fsync(new.fileno())
            os.replace(name, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        with contextlib.suppress(FileNotFoundError):
            self._log(before).unlink()
        self._seen = self._look()


def _parse(told: Any) -> tuple[int, Known]:
    """The generation and the suspects of a file. Raises ValueError, KeyError, TypeError and the like
    for what is none."""
    known: Known = {}
    if told["version"] == 1:
        for one in told["suspects"]:
            _put(known, one["topic"], one["partition"], one["offset"], one["deaths"], one["alone"])
        return 0, known
    if told["version"] != VERSION:
        raise ValueError("another version")
    for label, entries in told["suspects"].items():
        topic, _, number = label.rpartition("/")
        for offset, deaths, alone in entries:
            _put(known, topic, int(number), offset, deaths, alone)
    generation = told["generation"]
    if not isinstance(generation, int) or not 0 <= generation < 2**63:
        raise ValueError("no generation")
    return generation, known


def _put(known: Known, topic: Any, number: Any, offset: Any, deaths: Any, alone: Any) -> None:
    if not (isinstance(topic, str) and all(type(value) is int and 0 <= value < 2**63 for value in (number, offset, deaths))):
        raise TypeError("no suspect")
    known.setdefault((topic, number), {})[offset] = Suspect(deaths, bool(alone))
