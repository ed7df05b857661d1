"""Which offsets beyond the committed one are finished, as text for the commit's metadata. Pure;
docs/offset-map.md has it byte by byte.

The broker keeps 4,096 UTF-16 units of metadata with each committed offset. A map says, for the
offsets from the committed position up to ``end``, which are unfinished; every other one in between
is finished (or was never there: compaction and transaction markers leave holes). Whoever gets the
partition next runs the unfinished ones and what begins at ``end``, and nothing twice.

The map names the offset that it is relative to, and the topic's id where that is known: whoever
moves a commit (MirrorMaker 2, kafka-consumer-groups, any tool) takes its metadata along, and a map
of other offsets would make messages be skipped. What a reader takes is bounded as what the writer
makes is, because others can write a group's commits as well.

The smallest of four encodings is taken. The two extremes bound what fits: a bit a span of at least
59,000 offsets whatever its pattern, and Golomb-Rice coded gaps (Rice, 1971) any span at all with
fewer than 1,000 unfinished.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

#: Units of metadata that the broker takes (offset.metadata.max.bytes), and what is left for bytes
#: behind the mark at 15 bits a unit.
UNITS = 4096
MARK = "gw2"
CAPACITY_BITS = (UNITS - len(MARK)) * 15

#: Spans up to this fit as a bit set, whatever the pattern.
SURE_SPAN = 59_000

#: The most offsets that a map names unfinished, and the longest span that is written as a bit set:
#: beyond it not even a thousandfold repetition would fit, and the bit set would take long to make.
MOST_UNFINISHED = 1_000_000
MOST_BITS = CAPACITY_BITS * 8
#: The longest span there is: an offset is a signed 64-bit number.
MOST_SPAN = 2**63 - 1

#: 15 bits a character, from U+4E00 on: all of them single UTF-16 units, none of them a surrogate.
_BASE = 0x4E00

_BITS, _UNFINISHED_GAPS, _RUNS, _DEFLATED = range(4)

#: Bytes of a topic's id, a UUID.
_ID = 16

#: Bits of everything but the payload: checksum, encoding, base, topic's id, length and span,
#: padding to a byte and to a character.
_OVERHEAD_BITS = 8 * (4 + 1 + 9 + 1 + _ID + 3 + 9) + 8 + 15


class ForeignMetadataError(Exception):
    """Metadata that holds no map for this offset; the text says why. moved: it is a map of ours, of
    other offsets or another topic."""

    def __init__(self, text: str, *, moved: bool = False) -> None:
        super().__init__(text)
        self.moved = moved


@dataclass(frozen=True, slots=True)
class OffsetMap:
    """unfinished: offsets below ``end`` that are not finished, in rising order. From ``end`` on
    nothing is known to be finished."""

    end: int
    unfinished: tuple[int, ...]


def with_finished(position: int, found: OffsetMap | None, finished: Collection[int]) -> OffsetMap | None:
    """The map of ``position``'s commit, None where it had none, with further offsets finished."""
    more = {offset for offset in finished if position <= offset < position + MOST_UNFINISHED}
    if not more:
        return found
    known_end = found.end if found is not None else position
    end = max(known_end, max(more) + 1)
    unfinished = [*(found.unfinished if found is not None else ()), *range(known_end, end)]
    return OffsetMap(end, tuple(offset for offset in unfinished if offset not in more))


# -- bits


def _rice(values: Sequence[int], k: int) -> bytes:
    """Each value as value >> k ones, a zero, and its k low bits; the first bit of a byte is its
    highest."""
    if k:
        form, low = f"0{k}b", (1 << k) - 1
        text = "".join([f"{'1' * (value >> k)}0{value & low:{form}}" for value in values])
    else:
        text = "".join(["1" * value + "0" for value in values])
    size = -(-len(text) // 8)
    return int(text.ljust(size * 8, "0") or "0", 2).to_bytes(size, "big")


def _unrice(data: bytes, k: int, count: int) -> Iterator[int]:
    text = f"{int.from_bytes(data, 'big'):0{len(data) * 8}b}" if data else ""
    at = 0
    for _ in range(count):
        zero = text.index("0", at)
        high = zero - at
        at = zero + 1 + k
        if at > len(text):
            raise ValueError("the bits end too early")
        yield high << k | (int(text[zero + 1 : at], 2) if k else 0)


def _best_k(total: int, count: int) -> int:
    """The Rice parameter for ``count`` values that add up to ``total``: about the logarithm of
    their mean."""
    return max(0, (total // max(1, count)).bit_length() - 1)


def _rice_bits(values: Sequence[int], k: int) -> int:
    return sum(value >> k for value in values) + len(values) * (k + 1)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
        if shift > 70:
            raise ValueError("a number has no end")


# -- encodings


def _gaps(offsets: Sequence[int]) -> list[int]:
    """How many offsets lie between one and the next, the first counted from -1."""
    return [b - a - 1 for a, b in zip((-1, *offsets[:-1]), offsets, strict=True)]


def _runs(unfinished: Sequence[int], span: int) -> list[int]:
    """Lengths of alternating runs, unfinished first, each less one but the first; they add up to
    the span."""
    runs: list[int] = []
    end = 0  # of the unfinished run that is open
    length = 0
    for offset in unfinished:
        if offset == end:
            length += 1
        else:
            runs += (length, offset - end)
            length = 1
        end = offset + 1
    runs.append(length)
    if end < span:
        runs.append(span - end)
    return [runs[0], *(run - 1 for run in runs[1:])]


def _rice_payload(values: Sequence[int]) -> bytes:
    k = _best_k(sum(values), len(values))
    return bytes((k,)) + _varint(len(values)) + _rice(values, k)


def _bit_set(unfinished: Sequence[int], span: int) -> bytes:
    """A set bit is a finished offset."""
    data = bytearray(b"\xff" * (span // 8) + (bytes([0xFF << (8 - span % 8) & 0xFF]) if span % 8 else b""))
    for offset in unfinished:
        data[offset >> 3] &= ~(0x80 >> (offset & 7))
    return bytes(data)


def _to_text(data: bytes) -> str:
    parts = []
    for start in range(0, len(data), 15):
        piece = data[start : start + 15]
        count = -(-len(piece) * 8 // 15)
        number = int.from_bytes(piece, "big") << (count * 15 - len(piece) * 8)
        parts += [chr(_BASE + (number >> shift & 0x7FFF)) for shift in range((count - 1) * 15, -1, -15)]
    return "".join(parts)


def _to_bytes(text: str) -> bytes:
    out = bytearray()
    for start in range(0, len(text), 8):
        piece = text[start : start + 8]
        number = 0
        for character in piece:
            digit = ord(character) - _BASE
            if not 0 <= digit < 0x8000:
                raise ValueError(f"unexpected character {character!r}")
            number = number << 15 | digit
        size = len(piece) * 15 // 8
        out += (number >> (len(piece) * 15 - size * 8)).to_bytes(size, "big")
    return bytes(out)


def encode(position: int, unfinished: Sequence[int], end: int, topic_id: bytes | None = None, units: int = UNITS) -> str | None:
    """The metadata for a commit of ``position``: "" when nothing beyond it is finished, None when
    the map does not fit.

    unfinished: the unfinished offsets from ``position`` up to ``end``, rising; end: the offset
    after the highest finished one; topic_id: 16 bytes, None where it is not known.
    """
    span = end - position
    if span <= 0 or span == len(unfinished):
        return ""
    if len(unfinished) > MOST_UNFINISHED:
        return None
    relative = [offset - position for offset in unfinished]
    most = (units - len(MARK)) * 15
    gaps, runs = _gaps(relative), _runs(relative, span)
    sizes = {
        _UNFINISHED_GAPS: _rice_bits(gaps, _best_k(sum(gaps), len(gaps))),
        _RUNS: _rice_bits(runs, _best_k(sum(runs), len(runs))),
    }
    candidates: dict[int, bytes] = {}
    if span <= MOST_BITS:
        plain = _bit_set(relative, span)
        candidates = {_BITS: plain, _DEFLATED: zlib.compress(plain, 6, -15)}
        sizes |= {kind: len(payload) * 8 for kind, payload in candidates.items()}
    kind = min(sizes, key=lambda kind: sizes[kind])
    if sizes[kind] > most:
        return None
    payload = candidates[kind] if kind in candidates else _rice_payload(gaps if kind == _UNFINISHED_GAPS else runs)
    identity = _varint(position) + (bytes((_ID,)) + topic_id if topic_id is not None else b"\0")
    body = bytes((kind,)) + identity + _varint(len(payload)) + _varint(span) + payload
    text = MARK + _to_text(zlib.crc32(body).to_bytes(4, "big") + body)
    return text if len(text) <= units else None


def decode(position: int, text: str, topic_id: bytes | None = None) -> OffsetMap | None:
    """The map in the metadata of ``position``'s commit; None when it is empty. topic_id: 16 bytes,
    None where it is not known.

    Raises ForeignMetadataError for anything else. Takes time and memory in proportion to the text
    and to MOST_UNFINISHED at most.
    """
    if not text:
        return None
    if not text.startswith(MARK):
        if text.startswith("gw1"):
            raise ForeignMetadataError("it is an older version's (gw1), which does not say what offset it is for", moved=True)
        if text.startswith(MARK[:2]) and text[2:3].isdigit():
            raise ForeignMetadataError(f"it is a newer version's ({text[:3]})")
        raise ForeignMetadataError("it is another program's")
    if len(text) > UNITS:
        raise ForeignMetadataError(f"it has {len(text)} characters, more than any map")
    try:
        data = _to_bytes(text[len(MARK) :])
        checksum, body = data[:4], data[4:]
        kind = body[0]
        base, at = _read_varint(body, 1)
        size = body[at]
        of_topic = body[at + 1 : at + 1 + size] or None
        length, at = _read_varint(body, at + 1 + size)
        span, at = _read_varint(body, at)
        payload = body[at : at + length]
        if len(payload) != length or zlib.crc32(body[: at + length]) != int.from_bytes(checksum, "big"):
            raise ValueError("its checksum is wrong")
        if base != position:
            raise ForeignMetadataError(f"it was written for offset {base}, and whoever moved the commit took it along", moved=True)
        if topic_id is not None and of_topic is not None and topic_id != of_topic:
            raise ForeignMetadataError("it was written for another topic of this name", moved=True)
        if span > MOST_SPAN - position:
            raise ValueError("it reaches beyond any offset")
        relative = _unfinished(kind, payload, span)
    except (ValueError, IndexError, zlib.error, OverflowError, MemoryError) as error:
        raise ForeignMetadataError(f"it is damaged or cut off: {error}") from None
    return OffsetMap(position + span, tuple(position + offset for offset in relative))


def _unfinished(kind: int, payload: bytes, span: int) -> list[int]:
    if kind in (_BITS, _DEFLATED):
        if span > MOST_BITS:
            raise ValueError("the bit set is longer than any")
        size = -(-span // 8)
        if kind == _DEFLATED:
            payload = zlib.decompressobj(-15).decompress(payload, size + 1)
        if len(payload) != size:
            raise ValueError("the bit set has another length")
        return [offset for offset in range(span) if not payload[offset >> 3] & (0x80 >> (offset & 7))]
    if kind not in (_UNFINISHED_GAPS, _RUNS):
        raise ValueError(f"the encoding {kind} is not known")
    k = payload[0]
    if k > 63:
        raise ValueError("the parameter is too large")
    count, at = _read_varint(payload, 1)
    if count > CAPACITY_BITS:
        raise ValueError("it names more than there is room for")
    values = list(_unrice(payload[at:], k, count))
    found: list[int] = []
    if kind == _UNFINISHED_GAPS:
        offset = -1
        for gap in values:
            offset += gap + 1
            found.append(offset)
        if offset >= span:
            raise ValueError("an offset lies beyond the end")
        return found
    lengths = [values[0], *(value + 1 for value in values[1:])] if values else []
    if sum(lengths) != span:
        raise ValueError("the runs do not add up")
    if sum(lengths[::2]) > MOST_UNFINISHED:
        raise ValueError("it names more unfinished offsets than any")
    at = 0
    for index, run in enumerate(lengths):
        if index % 2 == 0:
            found.extend(range(at, at + run))
        at += run
    return found


def surely_fits(unfinished: int, span: int) -> bool:
    """Whether the map of any ``unfinished`` offsets in a span of ``span`` fits: a bound, and
    monotone, so that as long as it holds for what has been read it holds for whatever becomes of
    it."""
    if span <= SURE_SPAN:
        return True
    gaps = span // (unfinished + 1)
    k = max(0, gaps.bit_length() - 1)
    return (unfinished + 1) * (k + 1) + (span >> k) + _OVERHEAD_BITS <= CAPACITY_BITS
