"""The journal: what ran when a process died is told afterwards, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gworkers.offsets.journal import Journal, JournalError, RunningSpan, folder_of, left_behind
from gworkers.pipeline.quarantine import Suspects

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


def test_what_is_no_journal_and_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "running.0").write_bytes(b"something else altogether, of some length")
    with pytest.raises(JournalError, match=r"running\.0 is not a journal of gworkers, or is damaged; move it away"):
        list(left_behind(tmp_path))
    (tmp_path / "running.0").unlink()
    (tmp_path / "suspects.json").write_text('{"suspects": [{"topic": 1')
    with pytest.raises(JournalError, match=r"suspects\.json is damaged; move it away"):
        Suspects(tmp_path).gather()
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"cannot be written: Not a directory; make it, or name another"):
        folder_of(tmp_path / "file", "a/b")
