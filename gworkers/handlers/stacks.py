"""Where each handler stands at this moment: the message it has, since when, and its stack."""

from __future__ import annotations

import linecache
import os.path
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType

from gworkers.handlers.block import Block
from gworkers.handlers.job import Job
from gworkers.handlers.time_limits import CALLERS
from gworkers.text import cut, safe

#: Characters of a line of code that are shown.
SHOWN = 200

_FILES = tuple(f"{name.replace('.', '/')}.py" for name in CALLERS)


@dataclass(frozen=True, slots=True)
class Standing:
    """One handler that runs. age: seconds since its block began; left: until its time limit, None
    without one; stack: of the application's code, the innermost frame last."""

    job: Job
    age: float
    left: float | None
    stack: str


def standing(blocks: Iterable[Block]) -> Iterator[Standing]:
    """The handlers of these blocks that run now, those that began first before the others."""
    frames = sys._current_frames()
    now = time.perf_counter()
    for block in sorted(blocks, key=lambda block: block.started):
        slot = block.slot
        job = slot.job if slot is not None else None
        if slot is None or job is None:
            continue
        frame = frames.get(slot.thread) if slot.thread else getattr(block.waiter, "gr_frame", None)
        deadline = slot.deadline
        left = deadline - time.monotonic() if deadline is not None else None
        yield Standing(job, now - block.started, left, _stack_of(frame))


def _stack_of(frame: FrameType | None) -> str:
    """As ``traceback.format_stack`` writes it, of the frames that are above ours; of all, where it
    stands in one of ours. A file that was read once is not looked at again, which would be a system
    call for each frame: what runs is the code as it was."""
    lines: list[str] = []
    whole = frame is not None and frame.f_code.co_filename.endswith(_FILES)
    while frame is not None:
        name = frame.f_code.co_filename
        if not whole and name.endswith(_FILES):
            break
        if name not in linecache.cache:
            linecache.lazycache(name, frame.f_globals)
        code = linecache.getline(name, frame.f_lineno).strip()
        lines.append(f'  File "{name}", line {frame.f_lineno}, in {frame.f_code.co_name}' + (f"\n    {code}" if code else ""))
        frame = frame.f_back
    return "\n".join(reversed(lines))


def standing_at(stack: str) -> str:
    """The innermost line of a stack: ``pricing.py:31 price: time.sleep(1)``."""
    lines = stack.splitlines()
    for index in range(len(lines) - 1, -1, -1):
        parts = lines[index].strip().split(", ", 2)
        if len(parts) == 3 and parts[0].startswith("File "):
            short_name = os.path.basename(parts[0].removeprefix("File ").strip('"'))
            code = lines[index + 1].strip() if index + 1 < len(lines) else ""
            name = parts[2].removeprefix("in ")
            return safe(cut(f"{short_name}:{parts[1].removeprefix('line ')} {name}: {code}" if code else f"{short_name} {name}", SHOWN))
    return ""
