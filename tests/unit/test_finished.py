"""Notes of what has finished are found again as long as the group's commit is one of ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gworkers.offsets import finished
from gworkers.offsets.finished import KEPT, Notes
from gworkers.offsets.offset_map import OffsetMap, with_finished

TOPIC = b"t" * 16
LABEL = b"orders/0"


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path, "group", "boot")


def left(notes: Notes, offset: int, metadata: str = "", label: bytes = LABEL, topic: bytes | None = TOPIC) -> set[int]:
    return notes.left().finished(label, topic, offset, metadata)


def test_what_is_noted_is_found_beyond_the_commit_it_began_with(notes: Notes) -> None:
    mark = notes.begin(LABEL, TOPIC, 10, "map")
    notes.add([mark | 12, mark | 14])
    assert left(notes, 10, "map") == {12, 14}
    assert left(notes, 10) == set()
    assert left(notes, 11, "map") == set()
    assert left(notes, 10, "map", label=b"orders/1") == set()
    assert left(notes, 10, "map", topic=b"u" * 16) == set()
    assert left(notes, 10, "map", topic=None) == set()


def test_a_commit_counts_from_before_it_is_sent_and_ends_those_before_it_when_it_is_acknowledged(notes: Notes) -> None:
    mark = notes.begin(LABEL, TOPIC, 10, "")
    notes.add([mark | 12])
    notes.committing([(mark, 11, "a")], everything=True)
    notes.add([mark | 13])
    assert left(notes, 10) == left(notes, 11, "a") == {12, 13}
    notes.committed([(mark, 11, "a")], everything=True)
    assert left(notes, 10) == set()
    assert left(notes, 11, "a") == {12, 13}
    notes.committing([(mark, 14, "")], everything=True)
    notes.add([mark | 20])
    assert left(notes, 11, "a") == left(notes, 14) == {13, 20}  # 12 was in a commit that is acknowledged


def test_commits_that_failed_may_have_arrived(notes: Notes) -> None:
    mark = notes.begin(LABEL, TOPIC, 1, "")
    for offset in range(2, 20):
        notes.add([mark | offset])
        notes.committing([(mark, offset, "")], everything=True)
    assert left(notes, 19) == left(notes, 16) == set(range(2, 20))
    notes.committed([(mark, 19, "")], everything=True)
    assert left(notes, 18) == set()


def test_a_partition_that_has_been_elsewhere_begins_with_nothing(notes: Notes) -> None:
    first = notes.begin(LABEL, TOPIC, 10, "")
    notes.add([first | 12])
    notes.end(first)
    assert left(notes, 10) == {12}  # nobody has committed since
    second = notes.begin(LABEL, TOPIC, 5, "")  # somebody has reset it
    notes.add([second | 6])
    assert left(notes, 5) == {6}


def test_entries_are_used_again_when_no_note_is_of_them(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = [notes.begin(b"topic/%d" % number, TOPIC, 0, "") for number in range(finished.ENTRIES)]
    assert marks[-1] == 0  # the first entry is nobody's
    notes.add([marks[0] | 7])
    notes.end(marks[0])
    assert notes.begin(LABEL, TOPIC, 0, "") == 0
    for offset in (1, 2):
        notes.committing([(marks[1], offset, "")], everything=True)
        notes.committed([(marks[1], offset, "")], everything=True)
    again = notes.begin(LABEL, TOPIC, 0, "")
    assert again == marks[0]
    assert left(notes, 0) == set()


def test_when_a_half_is_full_a_commit_is_wanted_and_nothing_more_is_noted(notes: Notes) -> None:
    mark = notes.begin(LABEL, TOPIC, 0, "")
    assert not notes.add([mark | offset for offset in range(finished.CROWDED)])
    assert notes.add([mark | finished.CROWDED])
    rest = range(finished.CROWDED + 1, finished.HALF)
    assert notes.add([mark | offset for offset in rest])
    assert notes.add([mark | finished.HALF])
    assert left(notes, 0) == set(range(finished.HALF))


def test_others_notes_are_found_and_another_boots_are_not(notes: Notes, tmp_path: Path) -> None:
    mark = notes.begin(LABEL, TOPIC, 10, "")
    notes.add([mark | 12])
    assert left(Notes(tmp_path, "group", "boot"), 10) == {12}
    assert left(Notes(tmp_path, "another", "boot"), 10) == set()
    assert left(Notes(tmp_path, "group", "another"), 10) == set()


def test_of_the_dead_the_last_ones_files_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 4):
        one = Notes(tmp_path, "group", "boot")
        os.close(one._file)  # as if its process had died
        os.utime(one.path, (1_000_000 + number,) * 2)
    last = Notes(tmp_path, "group", "boot")
    kept = sorted(int(path.stat().st_mtime) - 1_000_000 for path in tmp_path.iterdir() if path != last.path)
    assert kept == list(range(4, KEPT + 4))


def test_one_that_has_settled_everything_leaves_nothing(notes: Notes, tmp_path: Path) -> None:
    notes.close(settled=True)
    assert not list(tmp_path.iterdir())


@given(
    position=st.integers(0, 50),
    span=st.integers(0, 40),
    holes=st.sets(st.integers(0, 39)),
    more=st.sets(st.integers(0, 120), min_size=1),
    mapped=st.booleans(),
)
def test_the_map_with_more_finished_calls_just_those_finished(
    position: int, span: int, holes: set[int], more: set[int], mapped: bool
) -> None:
    unfinished = tuple(sorted(position + hole for hole in holes if hole < span))
    found = OffsetMap(position + span, unfinished) if mapped else None
    both = with_finished(position, found, more)
    before = {offset for offset in range(position, position + span) if mapped and offset not in unfinished}
    after = set() if both is None else {offset for offset in range(position, both.end) if offset not in both.unfinished}
    assert after == before | {offset for offset in more if offset >= position}
