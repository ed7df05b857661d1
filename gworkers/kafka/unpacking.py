"""Uncompressing a batch into no more than there is room for.

A megabyte of gzip can hold a gigabyte of zeros, and whoever may write to a topic may send it. Each
codec is asked for a bounded number of bytes, or for the size it promises, before anything is unpacked.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

#: Kafka's numbers of the codecs.
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4

_XERIAL = b"\x82SNAPPY\0"


class TooLargeError(Exception):
    """There is more in it than ``most`` bytes."""


def unpack(codec: int, data: bytes, most: int) -> bytes:
    """The records of a batch. Raises TooLargeError, and for what is damaged each library's errors."""
    unpacked: bytes = _CODECS[codec](data, most)
    if len(unpacked) > most:
        raise TooLargeError
    return unpacked


def _gzip(data: bytes, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while data:  # there may be several members
        member = zlib.decompressobj(31)
        part = member.decompress(data, most + 1 - size)
        size += len(part)
        parts.append(part)
        if size > most:
            raise TooLargeError
        if not member.eof:
            raise zlib.error("the data end too early")
        data = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _snappy(data: bytes, most: int) -> bytes:
    import snappy  # type: ignore[import-untyped]

    blocks = [data]
    if data.startswith(_XERIAL):
        blocks, at = [], 16
        while at < len(data):
            (length,) = struct.unpack_from("!i", data, at)
            if length < 0 or at + 4 + length > len(data):
                raise ValueError("a block is longer than what is there")
            blocks.append(data[at + 4 : at + 4 + length])
            at += 4 + length
    if sum(map(_promised, blocks)) > most:
        raise TooLargeError
    return b"".join(snappy.decompress(block) for block in blocks)


def _promised(block: bytes) -> int:
    """The size that a block of snappy says it unpacks to; the library holds it to that."""
    size = 0
    for index, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return size
    raise ValueError("a block has no size")


def _lz4(data: bytes, most: int) -> bytes:
    import lz4.frame  # type: ignore[import-untyped]

    parts: list[bytes] = []
    size = 0
    while data:
        frame = lz4.frame.LZ4FrameDecompressor()
        part = frame.decompress(data, max_length=most + 1 - size)
        size += len(part)
        parts.append(part)
        if size > most:
            raise TooLargeError
        if not frame.eof:
            raise ValueError("the data end too early")
        data = frame.unused_data or b""
    return b"".join(parts)


def _zstd(data: bytes, most: int) -> bytes:
    import zstandard

    with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(data, read_across_frames=True) as reader:
        unpacked: bytes = reader.read(most + 1)
    return unpacked


_CODECS: dict[int, Any] = {GZIP: _gzip, SNAPPY: _snappy, LZ4: _lz4, ZSTD: _zstd}
