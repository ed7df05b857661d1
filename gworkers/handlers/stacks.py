"""Where each handler stands at this moment: the message it has, since when, and its stack."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gworkers.handlers.block import Block
from gworkers.handlers.job import Job
from gworkers.handlers.time_limits import CALLERS

_FILES = tuple(f"{name.replace('.', '/')}.py" for name in CALLERS)


@dataclass(frozen=True, slots=True)
class Standing:
    """One handler that runs. age: seconds since its block began; stack: of the application's code, the
    innermost frame last."""

    job: Job
    age: float
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
        yield Standing(job, now - block.started, "".join(traceback.format_list(summary[own:] or summary)).rstrip())
