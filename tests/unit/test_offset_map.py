"""The map of finished offsets in a commit's metadata."""

from __future__ import annotations

import random
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gworkers.offsets import offset_map
from gworkers.offsets.offset_map import ForeignMetadataError, OffsetMap, decode, encode


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, list[int], int]:
    position = draw(st.integers(0, 2**40))
    runs = draw(st.lists(st.integers(1, 200), min_size=1, max_size=60))
    unfinished: list[int] = []
    at = position
    for index, run in enumerate(runs):
        if index % 2 == 0:
            unfinished += range(at, at + run)
        at += run
    return position, unfinished, at


@settings(deadline=None, max_examples=500)
@given(maps())
def test_every_map_comes_back(found: tuple[int, list[int], int]) -> None:
    position, unfinished, end = found
    text = encode(position, unfinished, end)
    assert text is not None
    if len(unfinished) == end - position:
        assert text == ""
    else:
        assert decode(position, text) == OffsetMap(end, tuple(unfinished))


@pytest.mark.parametrize("seed", range(20))
def test_any_pattern_over_59000_offsets_fits(seed: int) -> None:
    draw = random.Random(seed)
    share = draw.choice([0.5, 0.5, draw.random()])
    unfinished = [0, *(offset for offset in range(1, 59_000) if draw.random() < share)]
    text = encode(10**12, [10**12 + offset for offset in unfinished], 10**12 + 59_000)
    assert text is not None
    assert len(text.encode("utf-16-le")) // 2 <= 4096
    assert decode(10**12, text) == OffsetMap(10**12 + 59_000, tuple(10**12 + offset for offset in unfinished))


@pytest.mark.parametrize("span", [10**5, 10**6, 10**9, 10**15, 2**62])
@pytest.mark.parametrize("shape", ["even", "random", "front", "back", "bursts"])
def test_any_span_with_fewer_than_1000_unfinished_fits(span: int, shape: str) -> None:
    draw = random.Random(f"{span} {shape}")
    count = 999
    chosen = {
        "even": lambda: {i * (span // count) for i in range(count)},
        "random": lambda: {0} | {draw.randrange(span - 1) for _ in range(count - 1)},
        "front": lambda: set(range(count)),
        "back": lambda: {0} | set(range(span - count, span - 1)),
        "bursts": lambda: {0} | {draw.randrange(10) * (span // 11) + draw.randrange(90) * (span // 10_000) for _ in range(count - 1)},
    }[shape]()
    unfinished = sorted(chosen)
    text = encode(7, [7 + offset for offset in unfinished], 7 + span)
    assert text is not None
    assert len(text) <= 4096
    assert decode(7, text) == OffsetMap(7 + span, tuple(7 + offset for offset in unfinished))
    assert offset_map.surely_fits(len(unfinished), span)


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 12_000), st.integers(0, 50), st.randoms(use_true_random=False))
def test_what_surely_fits_does_fit(count: int, doublings: int, draw: random.Random) -> None:
    span = max(count + 1, 1000 * 2**doublings)
    if not offset_map.surely_fits(count, span):
        return
    unfinished = sorted({0} | {draw.randrange(span - 1) for _ in range(count - 1)})
    assert encode(0, unfinished, span) is not None


def test_the_smallest_encoding_is_taken() -> None:
    assert len(encode(0, [0], 10_000) or "") < 15
    assert len(encode(0, list(range(5000)), 10_000) or "") < 15
    assert len(encode(0, list(range(0, 10_000, 2)), 10_000) or "") < 30
    draw = random.Random(1)
    half = sorted({0} | {offset for offset in range(10_000) if draw.random() < 0.5})
    assert len(encode(0, half, 10_000) or "") <= 3 + 10_000 / 15 + 10


def test_what_does_not_fit_is_said() -> None:
    draw = random.Random(2)
    assert encode(0, sorted({0} | {draw.randrange(10**6) for _ in range(100_000)}), 10**6) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello", "it is another program's"),
        ("{}", "it is another program's"),
        ("g", "it is another program's"),
        ("gw3\u4e00\u4e01", "it is a newer version's (gw3)"),
        ("gw1\u4e00\u4e01", "it is an older version's (gw1), which does not say what offset it is for"),
        ("gw2", "it is damaged or cut off"),
        ("gw2abc", "it is damaged or cut off"),
        ("gw2\ud7ff\ud7ff", "it is damaged or cut off"),
        ("gw2" + "\u4e00" * 5000, "it has 5003 characters, more than any map"),
    ],
)
def test_foreign_metadata_is_recognised(text: str, why: str) -> None:
    with pytest.raises(ForeignMetadataError) as caught:
        decode(0, text)
    assert str(caught.value).startswith(why)


TOPIC, OTHER = b"t" * 16, b"o" * 16


@settings(deadline=None, max_examples=200)
@given(maps(), st.integers(-(2**20), 2**20).filter(bool))
def test_a_map_is_for_the_offset_it_was_written_for_and_no_other(found: tuple[int, list[int], int], moved: int) -> None:
    position, unfinished, end = found
    text = encode(position, unfinished, end)
    if text:
        with pytest.raises(ForeignMetadataError, match=f"written for offset {position}, and whoever moved the commit") as caught:
            decode(abs(position + moved) if abs(position + moved) != position else position + 1, text)
        assert caught.value.moved


def test_a_map_is_for_the_topic_it_was_written_for_and_no_other_of_its_name() -> None:
    text = encode(5, [5, 7], 9, TOPIC)
    assert text
    wanted = OffsetMap(9, (5, 7))
    assert decode(5, text, TOPIC) == wanted
    assert decode(5, text) == wanted, "a reader that does not know the id believes it"
    assert decode(5, encode(5, [5, 7], 9) or "", OTHER) == wanted, "so it does when the writer did not"
    with pytest.raises(ForeignMetadataError, match="it was written for another topic of this name"):
        decode(5, text, OTHER)


def forged(kind: int, span: int, payload: bytes, base: int = 0) -> str:
    """What somebody who knows the format may write."""
    body = bytes((kind,)) + offset_map._varint(base) + b"\0" + offset_map._varint(len(payload)) + offset_map._varint(span) + payload
    return offset_map.MARK + offset_map._to_text(zlib.crc32(body).to_bytes(4, "big") + body)


def rice(k: int, count: int, values: list[int]) -> bytes:
    return bytes((k,)) + offset_map._varint(count) + offset_map._rice(values, k)


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (0, forged(2, 2**40, rice(62, 1, [2**40]))),  # a trillion unfinished offsets
        (0, forged(2, 2_000_000, rice(20, 1, [2_000_000]))),
        (0, forged(3, 2**34, zlib.compress(bytes(2**20), 9, -15))),  # a deflated bit set of 2 GiB
        (0, forged(0, 2**60, b"")),
        (0, forged(1, 2**40, rice(0, 2**50, []))),
        (0, forged(1, 5, rice(0, 1, [9]))),  # beyond its own end
        (1, forged(1, 2**63, rice(0, 1, [0]), base=1)),  # beyond any offset
        (0, forged(2, 10, rice(0, 2, [0, 3]))),
        (0, forged(1, 10, bytes((64, 1, 0)))),
        (0, forged(7, 10, b"")),
    ],
)
def test_a_hostile_map_costs_nothing_but_its_message(position: int, text: str) -> None:
    tracemalloc.start()
    begun = time.perf_counter()
    with pytest.raises(ForeignMetadataError):
        decode(position, text)
    took, (_, peak) = time.perf_counter() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 1.0
    assert peak < 20 * 2**20


def test_what_the_writer_may_make_the_reader_takes() -> None:
    most = offset_map.MOST_UNFINISHED
    text = encode(3, range(3, 3 + most), 4 + most)
    assert text
    assert len((decode(3, text) or OffsetMap(0, ())).unfinished) == most
    assert encode(3, range(3, 4 + most), 5 + most) is None


def test_no_metadata_is_no_map() -> None:
    assert decode(5, "") is None


@settings(deadline=None, max_examples=300)
@given(maps(), st.data())
def test_a_truncated_or_changed_map_is_recognised(found: tuple[int, list[int], int], data: st.DataObject) -> None:
    position, unfinished, end = found
    text = encode(position, unfinished, end)
    if not text:
        return
    cut = data.draw(st.integers(3, len(text) - 1))
    with pytest.raises(ForeignMetadataError):
        decode(position, text[:cut])
    at = data.draw(st.integers(3, len(text) - 2))  # the last character ends in padding
    other = chr(0x4E00 + (ord(text[at]) - 0x4E00 + data.draw(st.integers(1, 0x7FFF))) % 0x8000)
    with pytest.raises(ForeignMetadataError):
        decode(position, text[:at] + other + text[at + 1 :])


@given(st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0xCDFF), max_size=50))
def test_noise_behind_the_mark_never_crashes(noise: str) -> None:
    with pytest.raises(ForeignMetadataError):
        decode(0, "gw1" + noise)
