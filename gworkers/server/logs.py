"""How the process talks: lines for people or JSON for machines, on standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
import re
import sys
import time
from collections import deque
from typing import Any

from gworkers import log_context
from gworkers.config import schema
from gworkers.server import hub_log
from gworkers.text import ERROR_SHOWN, safe_json, safe_lines, shortened

#: kafka-python says the same trouble many times a second; what a user must know of it, gworkers
#: says itself.
QUIET = {"kafka": logging.CRITICAL}

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "gworkers", "taskName"}


#: Seconds after which the log is taken for held by something.
WRITTEN_WITHIN = 1.0

#: The most characters of one message and of one stack trace that are written.
MESSAGE_SHOWN = 64_000
TRACE_SHOWN = 32_000


def _trace(text: str) -> str:
    """A stack trace, of a length that somebody reads: an exception's own text may have megabytes."""
    return shortened("\n".join(shortened(line, ERROR_SHOWN) for line in text.split("\n")), TRACE_SHOWN)


class TextFormatter(logging.Formatter):
    """``2026-11-23 10:20:30.123 INFO shop.pricing [orders 2@117 key=c-9]: priced``

    Further lines of a message and of a stack trace are indented: only a record begins at the left.
    """

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(about)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        found = getattr(record, "gworkers", None)
        record.about = ""
        if found is not None:
            key = f" key={found['key']}" if found["key"] is not None else ""
            record.about = f" [{found['topic']} {found['partition']}@{found['offset']}{key}]"
        record.message = safe_lines(shortened(record.getMessage(), MESSAGE_SHOWN))
        record.asctime = self.formatTime(record)
        text = self.formatMessage(record)
        if record.exc_info:
            text += "\n  " + safe_lines(_trace(self.formatException(record.exc_info)))
        if record.stack_info:
            text += "\n  " + safe_lines(record.stack_info)
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, topic, partition, offset, key, and what
    ``extra=`` held."""

    def __init__(self, process: int | None = None) -> None:
        super().__init__()
        self._process = process  # its number among several

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"time": stamp, "level": record.levelname, "logger": record.name}
        if self._process is not None:
            line["process"] = self._process
        line["message"] = shortened(record.getMessage(), MESSAGE_SHOWN)
        line.update(getattr(record, "gworkers", {}))
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD and k not in line})
        if record.exc_info:
            line["exception"] = _trace(self.formatException(record.exc_info))
        return safe_json(json.dumps(line, ensure_ascii=False, default=str))


#: The last lines, as they were written.
tail: deque[str] = deque(maxlen=200)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever sys.stderr is at the time, and lets the progress line make room."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        tail.append(text)
        return text


_LOGIN = re.compile(r"""auth_bytes=b?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def hide_logins() -> None:
    """Take out of kafka-python's lines (it logs whole requests at DEBUG) what it logs in with."""
    inner = logging.getLogRecordFactory()
    if getattr(inner, "hides_logins", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = inner(*args, **kwargs)
        if record.name.startswith("kafka"):
            message = record.getMessage()
            if "auth_bytes" in message:
                record.msg, record.args = _LOGIN.sub("auth_bytes=(hidden)", message), None
        return record

    factory.hides_logins = True  # type: ignore[attr-defined]
    factory.gworkers = getattr(inner, "gworkers", False)  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)


def enable() -> None:
    """Let this program's loggers speak again: ``logging.config.dictConfig`` of an application
    disables by default all that were there before it."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and (name == "gworkers" or name.startswith("gworkers.")):
            logger.disabled = False
    hub_log.take_over()


def last_words(text: str) -> None:
    """Log why the process ends; on standard error itself where no handler would write it there."""
    enable()
    logger = logging.getLogger("gworkers")
    for line in text.split("\n"):
        logger.error("%s", line)
    if not _heard(logger) or not hub_log.written(WRITTEN_WITHIN):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write("".join(f"gworkers: {line}\n" for line in text.split("\n")))
            sys.stderr.flush()


def _heard(logger: logging.Logger) -> bool:
    """Whether an error of this logger reaches the terminal or a file."""
    if not logger.isEnabledFor(logging.ERROR):
        return False
    at: logging.Logger | None = logger
    while at is not None:
        if any(handler.level <= logging.ERROR and not isinstance(handler, logging.NullHandler) for handler in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False


def configure(config: schema.Logging, process: int | None = None) -> None:
    """Set logging up, unless the application has done so itself: handlers that are on the root
    logger already stay alone. process: its number, where there are several."""
    log_context.install()
    hide_logins()
    if config.config is not None:
        logging.config.dictConfig({"disable_existing_loggers": False, **config.config})
    elif not logging.getLogger().handlers:
        handler = _Stderr()
        handler.setFormatter(JsonFormatter(process) if config.format == "json" else TextFormatter())
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(config.level)
    for name, level in QUIET.items():
        if logging.getLogger(name).level == logging.NOTSET and config.level != "DEBUG":
            logging.getLogger(name).setLevel(level)
