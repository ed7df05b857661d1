"""The journal: what ran when a process died is told afterwards, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gworkers.offsets.journal import Journal, JournalError, RunningSpan, folder_of, left_behind
from gworkers.offsets.suspects import Suspect, Suspects

DIES = """
import os, sys
from pathlib import Path
from gworkers.offsets.journal import Journal
journal = Journal(Path(sys.argv[1]), 3)
for offset, last in ((7, -1), (20, 22)):
    at = journal.claim()
    journal.enter(at, b"orders/4")
    journal.offsets[at + 1] = last
    journal.offsets[at] = offset
if sys.argv[2] == "child":
    if not os.fork():
        os.execlp("sleep", "sleep", "30")
if sys.argv[2] == "close":
    journal.close()
os.kill(os.getpid(), 9)
"""


def die(folder: Path, how: str) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(folder), how], check=False)


def test_what_ran_is_told_once(tmp_path: Path) -> None:
    die(tmp_path, "plainly")
    ran = [RunningSpan("orders", 4, 20, 22), RunningSpan("orders", 4, 7, 7)]
    assert [sorted(found, key=lambda r: -r.first) for found in left_behind(tmp_path)] == [ran]
    assert [found for found in left_behind(tmp_path) if found] == []


def test_a_process_that_ended_as_it_should_is_not_told_of(tmp_path: Path) -> None:
    die(tmp_path, "close")
    assert [found for found in left_behind(tmp_path) if found] == []


def test_a_living_process_is_not_told_of(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 2)
    pid = os.fork()
    if not pid:
        os._exit(len(list(left_behind(tmp_path))))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    journal.close()


def test_deaths_in_a_row_are_counted_and_cleared(tmp_path: Path) -> None:
    for deaths in (1, 2):
        die(tmp_path, "plainly")
        suspects = Suspects(tmp_path)
        assert suspects.gather() == 1
        found = suspects.of("orders", 4)
        assert found is not None
        assert {offset: (suspect.deaths, suspect.alone) for offset, suspect in found.items()} == dict.fromkeys(
            (7, 20, 21, 22), (deaths, False)
        )
    suspects.clear("orders", 4, [7, 20, 21])
    assert list(suspects.of("orders", 4) or ()) == [22]
    assert suspects.unwritten
    suspects.flush()
    assert not suspects.unwritten
    fresh = Suspects(tmp_path)
    fresh.gather()
    assert list(fresh.of("orders", 4) or ()) == [22]


def test_more_records_than_there_are_cost_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1)
    first, second, third = journal.claim(), journal.claim(), journal.claim()
    assert len({first, second, third}) == 2
    journal.offsets[third] = 5
    for at in (first, second, third):
        journal.release(at)
    assert journal.claim() == first
    journal.close()


def test_thousands_are_cleared_without_rewriting_them(tmp_path: Path) -> None:
    told = {"orders/4": [[offset, 1, 0] for offset in range(7_500)]}
    (tmp_path / "suspects.json").write_text(json.dumps({"version": 2, "generation": 5, "suspects": told}))
    suspects = Suspects(tmp_path)
    suspects.gather()
    before = (tmp_path / "suspects.json").stat()
    begun = time.monotonic()
    for offset in range(7_400):
        suspects.clear("orders", 4, [offset])
        if offset % 100 == 99:
            suspects.flush()
    assert time.monotonic() - begun < 20  # it was minutes
    after = (tmp_path / "suspects.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    with open(tmp_path / "suspects.5.cleared", "a") as log:
        log.write('["orders", 4, [74')  # a process that died while it wrote
    fresh = Suspects(tmp_path)
    fresh.gather()
    assert sorted(fresh.of("orders", 4) or ()) == list(range(7_400, 7_500))


def test_what_others_clear_and_write_is_seen(tmp_path: Path) -> None:
    die(tmp_path, "plainly")
    one, other = Suspects(tmp_path), Suspects(tmp_path)
    assert (one.gather(), other.gather()) == (1, 0)
    other.clear("orders", 4, [7, 20])
    other.flush()
    assert one.gather() == 0
    assert sorted(one.of("orders", 4) or ()) == [21, 22]
    die(tmp_path, "plainly")
    assert other.gather() == 1
    one.clear("orders", 4, [22])
    one.flush()
    fresh = Suspects(tmp_path)
    fresh.gather()
    assert fresh.of("orders", 4) == {7: Suspect(1, False), 20: Suspect(1, False), 21: Suspect(2, False)}
    assert len(list(tmp_path.glob("suspects.*.cleared"))) == 1


def test_the_file_of_the_version_before_is_read(tmp_path: Path) -> None:
    entry = {"topic": "orders", "partition": 4, "offset": 7, "deaths": 2, "alone": True}
    (tmp_path / "suspects.json").write_text(json.dumps({"version": 1, "suspects": [entry]}))
    suspects = Suspects(tmp_path)
    suspects.gather()
    assert suspects.of("orders", 4) == {7: Suspect(2, True)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4096,
        b"{",
        b"[]",
        b"null",
        b'{"version": 9}',
        b'{"version": 2, "generation": "../x", "suspects": {}}',
        b'{"version": 2, "generation": 1, "suspects": {"orders": [[1, 2, 3]]}}',
        b'{"version": 2, "generation": 1, "suspects": {"orders/4": [[-1, 2, 3]]}}',
        b'{"version": 1, "suspects": [{"topic": 1}]}',
        b"[" * 100_000,
    ],
)
def test_suspects_that_cannot_be_read_are_moved_aside(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "suspects.json").write_bytes(content)
    suspects = Suspects(tmp_path)
    assert suspects.gather() == 0
    assert len(suspects) == 0
    assert (tmp_path / "suspects.json.damaged-0").read_bytes() == content
    assert "suspects.json cannot be read: it is damaged" in caplog.text
    die(tmp_path, "plainly")
    assert suspects.gather() == 1


def test_a_journal_that_cannot_be_read_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "running.0").write_bytes(b"something else altogether, of some length")
    (tmp_path / "running.1").write_bytes(b"\0" * 4096)
    (tmp_path / "running.2").write_bytes(b"")
    assert [found for found in left_behind(tmp_path) if found] == []
    assert (tmp_path / "running.0.damaged-0").exists()
    assert caplog.text.count("cannot be read: it is no journal of gworkers, or is damaged") == 1
    journal = Journal(tmp_path, 2)
    assert journal.path.name == "running.0"
    journal.close()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = folder_of(tmp_path / "state", "g")
    for name in ("suspects.lock", "suspects.0.cleared", "running.0", "suspects.new"):
        (folder / name).symlink_to(victim)
    suspects = Suspects(folder)
    with pytest.raises(JournalError, match=r"suspects\.lock cannot be used"):
        suspects.gather()
    with pytest.raises(JournalError, match=r"running\.0 cannot be opened"):
        Journal(folder, 1)
    (folder / "suspects.lock").unlink()
    suspects.clear("t", 0, [1])
    with pytest.raises(JournalError):
        suspects.flush()
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("group", [".", "..", "a/../../b", "...", "a.b"])
def test_no_group_leaves_the_state_directory(tmp_path: Path, group: str) -> None:
    folder = folder_of(tmp_path / "state", group)
    assert folder.resolve().parent == tmp_path / "state"


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"cannot be written: Not a directory; make it, or name another"):
        folder_of(tmp_path / "file", "a/b")
