"""What can go wrong, as a user is told of it: a sentence, and the status the process ends with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gworkers.text import ERROR_SHOWN, KEY_SHOWN, cut, safe, shortened


class Exit(IntEnum):
    """The statuses of the process; part of the public contract."""

    OK = 0  # asked to stop, and everything was settled
    UNSETTLED = 1  # asked to stop, and the grace ran out; what was not settled is delivered again
    USAGE = 64  # the command line is wrong
    BREAKER = 65  # the dead-letter breaker opened
    UNAVAILABLE = 69  # Kafka, or something else that is needed, could not be reached
    INTERNAL = 70  # an error that stops the process
    RESTART = 75  # the process asks to be started anew
    CONFIG = 78  # the configuration is wrong


class GworkersError(Exception):
    """An error with a sentence for the user and a status for the supervisor. Shown without a stack
    trace."""

    status: Exit = Exit.INTERNAL


class StopAsked(SystemExit):
    """A signal has asked a server to stop that was starting: raised wherever it stands, also in the
    application's own code, and by gevent's hub in the main greenlet. name: the signal's."""

    def __init__(self, name: str) -> None:
        super().__init__(int(Exit.OK))
        self.name = name


class UsageError(GworkersError):
    status = Exit.USAGE


class UnavailableError(GworkersError):
    """Something that is needed cannot be had. ``passing``: it may come back by itself."""

    status = Exit.UNAVAILABLE

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


class NoTopicError(UnavailableError):
    """A topic that a command is about does not exist."""


class FatalError(GworkersError):
    """The pipeline cannot go on without losing or skipping a message."""

    status = Exit.INTERNAL


class RestartError(GworkersError):
    """The process is no longer as it should be, and asks to be started anew."""

    status = Exit.RESTART


class BreakerError(GworkersError):
    """More messages fail for good than ``dead_letters.stop_above`` allows."""

    status = Exit.BREAKER


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration.

    where: "file:line" or "--set"; key: the key's dotted path, may be empty; text: what was expected
    and what was found.
    """

    where: str
    key: str
    text: str

    def __str__(self) -> str:
        parts = [self.where, *([cut(self.key, KEY_SHOWN)] if self.key else []), shortened(self.text, ERROR_SHOWN)]
        return safe(": ".join(parts))


class ConfigError(GworkersError):
    """Everything that is wrong with the configuration, at once."""

    status = Exit.CONFIG

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


# What can be wrong with one message. Their names and texts go into the headers of its dead letter.


class MessageError(Exception):
    """A message that cannot be handled, for a ``reason`` of its own; ``retriable`` says whether
    trying again can help."""

    retriable = False
    reason = "failed"


class DecodeError(MessageError):
    """The value is not what ``decode`` says."""

    reason = "undecodable"


class EncodeError(MessageError):
    """What the handler returned cannot be encoded as ``encode`` says, or has no topic to go to."""

    reason = "unencodable"


class BatchResultError(EncodeError):
    """What the handler said of a batch does not fit the batch."""


class RecordTooLargeError(MessageError):
    """A result is larger than the producer may send."""

    reason = "too-large"


class SendError(MessageError):
    """The broker refused a result for good. ``of_message``: because of what it is; otherwise it can
    be sent again as it is. ``too_large``: because of its size."""

    retriable = True
    of_message = False
    too_large = False
    reason = "refused"


class NoRightError(SendError):
    """This process may not write to a topic of its configuration: no fault of the message. The text
    says how to have the right."""

    retriable = False


class ExpiredError(MessageError):
    """The message is older than the route's ``max_age``, whose choice is the dead letter."""

    reason = "expired"


class PassedOverError(MessageError):
    """No failure: the message is finished without having been handled."""

    reason = "passed-over"


class KilledError(MessageError):
    """The process died again and again while the message ran."""

    reason = "killed"


# How an error is told.


def one_line(error: BaseException) -> str:
    """``ValueError: no such product``, for a log line: whatever its text is, it stays in the line."""
    name = type(error).__name__
    if getattr(error, "errno", None) is not None and getattr(error, "description", None):  # a broker's answer
        told = str(error.args[0]) if error.args and error.args[0] else error.description  # type: ignore[attr-defined]
    else:
        told = message_of(error)
    text = safe(shortened(" ".join(told.split()), ERROR_SHOWN)).removeprefix(f"{name}: ")
    return f"{name}: {text}" if text and text != name else name


def raised_at(error: BaseException) -> str | None:
    """``/srv/shop/pricing.py:31``, the innermost line of code that raised it; None where it was not
    raised."""
    trace = error.__traceback__
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def message_of(error: BaseException) -> str:
    """``str(error)``, which an application's own class may fail to give."""
    try:
        return str(error)
    except Exception as failed:
        return f"its text cannot be had: {type(failed).__name__}"
