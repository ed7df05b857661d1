"""What a dead letter looks like, and the breaker that opens when there are too many of them.

A dead letter is the message as it came: key, value and its own headers, unchanged. Its timestamp is
the time of sending: by that its topic's retention counts, and a letter must outlive the message.
Headers are added as Spring Kafka's DeadLetterPublishingRecoverer writes them (``kafka_dlt-…``; numbers
in binary, big-endian; the original timestamp among them), so that tools made for those read ours,
and with the prefix ``gworkers-`` what Spring has no name for.
"""

from __future__ import annotations

import struct
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable

from gworkers.errors import MessageError, message_of
from gworkers.handlers.job import Job, Row
from gworkers.handlers.routes import Route
from gworkers.message import HandlerTimeout, Reject

#: Prefixes of what an earlier failure may have added: it is replaced, not repeated.
SPRING = "kafka_dlt-"
OURS = "gworkers-"

#: The headers without which a letter is of no use.
NEEDED = frozenset(
    {SPRING + f"original-{name}" for name in ("topic", "partition", "offset", "timestamp")} | {OURS + "reason", OURS + "failed-at"}
)

#: The most that one header may take, in bytes: a stack trace must not make a letter too large to
#: send.
HEADER_BYTES = 4096


def cause_of(error: BaseException) -> BaseException:
    """The application's own exception where one of ours wraps it."""
    return error.__cause__ if isinstance(error, MessageError) and error.__cause__ is not None else error


def reason_of(job: Job) -> str:
    """One word for why a job failed: what MessageErrors say of themselves; rejected, no-value or
    failed for the handler's own errors."""
    error = job.error
    if isinstance(error, MessageError):
        return error.reason
    if isinstance(error, HandlerTimeout):
        return "timed-out"
    if isinstance(error, Reject):
        return "rejected"
    return "no-value" if job.value is None else "failed"


def _name_of(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _stack_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # an exception whose text cannot be had
        return "".join(traceback.format_tb(error.__traceback__))


def _cut(text: str, *, end: bool = False) -> bytes:
    value = text.encode("utf-8", "replace")
    return value[-HEADER_BYTES:] if end else value[:HEADER_BYTES]


def letter(job: Job, topic: str, group: str) -> Row:
    """The row to send for a job that failed for good."""
    error = job.error or RuntimeError("unknown")
    cause = cause_of(error)
    origin = job.origin
    now = int(time.time() * 1000)
    topic_was, number, offset = job.source
    told: dict[str, bytes] = {
        SPRING + "original-topic": topic_was.encode(),
        SPRING + "original-partition": struct.pack(">i", number),
        SPRING + "original-offset": struct.pack(">q", offset),
        SPRING + "original-timestamp": struct.pack(">q", job.timestamp),
        SPRING + "original-timestamp-type": job.timestamp_type.encode(),
        SPRING + "original-consumer-group": group.encode(),
        SPRING + "exception-fqcn": _name_of(cause).encode(),
        SPRING + "exception-message": _cut(message_of(error)),
        SPRING + "exception-stacktrace": _cut(_stack_of(cause), end=True),  # its end says what happened, its beginning how we got there
        OURS + "reason": reason_of(job).encode(),
        OURS + "route": job.partition.route.name.encode(),
        OURS + "attempts": str(job.attempt).encode(),
        OURS + "failed-at": str(now).encode(),
    }
    if origin is not None:
        told[OURS + "first-failure"] = str(origin.first_failure).encode()
    if cause.__cause__ is not None:
        told[SPRING + "exception-cause-fqcn"] = _name_of(cause.__cause__).encode()
    headers = [(name, value) for name, value in job.headers if not name.startswith((SPRING, OURS))]
    return topic, None, job.key, job.value, [*headers, *told.items()], None


#: How often a letter that is too large is made smaller before it is given up.
SHEDDABLE = 4


def shed(row: Row, step: int) -> Row:
    """A letter that was too large, made smaller; what was left out stands in ``gworkers-shed``.

    step: 1 leaves out the stack trace and cuts the error's text, 2 the message's own headers too, 3
    all that is not needed to tell where it came from and why it failed, 4 all but the reason.
    """
    topic, partition, key, value, headers, timestamp = row
    kept = []
    for name, content in headers:
        ours = name.startswith((SPRING, OURS))
        if (
            name in (SPRING + "exception-stacktrace", OURS + "shed")
            or (step > 1 and not ours)
            or (step > 2 and name not in (NEEDED if step == 3 else (OURS + "reason",)))
        ):
            continue
        kept.append((name, (content or b"")[:200] if name == SPRING + "exception-message" else content))
    left_out = ["stacktrace", "headers", "all but the origin", "origin"][:step]
    return topic, partition, key, value, [*kept, (OURS + "shed", ", ".join(left_out).encode())], timestamp


class NeverSucceeded:
    """Whether all that a route has had since the start are dead letters, ``most`` of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._letters: Counter[str] = Counter()

    def lets_through(self, route: Route) -> bool:
        """Note one more letter; False when it is one too many."""
        if self._letters[route.name] >= self.most and self.most:
            return route.figures.succeeded
        self._letters[route.name] += 1
        return True


class Breaker:
    """Opens, for good, at the first dead letter above ``count`` within ``seconds``."""

    def __init__(self, count: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.count = count
        self.seconds = seconds
        self.open = False
        self._now = now
        self._times: deque[float] = deque()

    def lets_through(self) -> bool:
        """Note one more dead letter; False when it is one too many, and from then on."""
        now = self._now()
        times = self._times
        while times and times[0] <= now - self.seconds:
            times.popleft()
        if self.open or len(times) >= self.count:
            self.open = True
            return False
        times.append(now)
        return True
