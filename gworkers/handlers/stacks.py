"""Where each handler stands at this moment: the message it has, since when, and its stack."""

from __future__ import annotations

import os.path
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
        summary = traceback.extract_stack(frame)
        own = max((index + 1 for index, one in enumerate(summary) if one.filename.endswith(_FILES)), default=0)
        deadline = slot.deadline
        left = deadline - time.monotonic() if deadline is not None else None
        yield Standing(job, now - block.started, left, "".join(traceback.format_list(summary[own:] or summary)).rstrip())


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
