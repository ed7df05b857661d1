"""Inputs that are nearly right: examples, changed here and there by chance."""

from __future__ import annotations

import random
from collections.abc import Sequence

#: Numbers at which something may overflow, as bytes and as text.
_EDGES = [0, 1, 127, 128, 255, 256, 2**15 - 1, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


def of_bytes(draw: random.Random, examples: Sequence[bytes], longest: int = 100_000) -> bytes:
    """One of the examples with a few changes, or two of them spliced, or nothing but noise."""
    if draw.random() < 0.02:
        return draw.randbytes(draw.choice((0, 1, 10, 100, 1000)))
    data = bytearray(draw.choice(examples))
    if draw.random() < 0.1:
        other = draw.choice(examples)
        data = data[: draw.randint(0, len(data))] + other[draw.randint(0, len(other)) :]
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 8))):
        at = draw.randint(0, len(data))
        kind = draw.randint(0, 6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randint(0, 7)
        elif kind == 1 and at < len(data):
            data[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randint(0, 255)))
        elif kind == 2:
            del data[at : at + draw.choice((1, 2, 4, 8, 100))]
        elif kind == 3:
            data[at:at] = draw.randbytes(draw.choice((1, 2, 4, 8)))
        elif kind == 4:
            width = draw.choice((1, 2, 4, 8))
            data[at : at + width] = (draw.choice(_EDGES) % 256**width).to_bytes(width, draw.choice(("big", "little")))
        elif kind == 5:
            piece = bytes(data[at : at + draw.choice((1, 4, 16, 100))])
            data[at:at] = piece * draw.choice((1, 2, 10, 1000))
        else:
            data = data[:at]
    return bytes(data[:longest])


def of_text(draw: random.Random, examples: Sequence[str], words: Sequence[str], longest: int = 20_000) -> str:
    """One of the examples with a few changes: characters, and whole words of the language."""
    text = draw.choice(examples)
    if draw.random() < 0.1:
        other = draw.choice(examples)
        text = text[: draw.randint(0, len(text))] + other[draw.randint(0, len(other)) :]
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 8))):
        at = draw.randint(0, len(text))
        kind = draw.randint(0, 5)
        if kind == 0:
            piece = draw.choice(words)
        elif kind == 1:
            piece = chr(draw.choice((draw.randint(0, 127), draw.randint(128, 0x2FFF), draw.randint(0xD7F0, 0x10FFFF))))
        elif kind == 2:
            piece = str(draw.choice(_EDGES) * draw.choice((1, -1)))
        elif kind == 3:
            piece = text[at : at + draw.choice((1, 5, 30))] * draw.choice((1, 2, 10, 300))
        else:
            text = text[:at] + text[at + draw.choice((1, 2, 5, 30)) :]
            continue
        text = text[:at] + piece + text[at if draw.random() < 0.5 else at + len(piece) :]
    return text[:longest]
