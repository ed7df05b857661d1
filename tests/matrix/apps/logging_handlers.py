"""Handlers of the standard library's logging, all at once."""

import io
import logging
import logging.handlers
import os
import queue

log = logging.getLogger("orders")
log.setLevel(logging.INFO)
log.propagate = False
for handler in (
    logging.StreamHandler(io.StringIO()),
    logging.handlers.RotatingFileHandler(os.environ["LOG_FILE"], maxBytes=200_000, backupCount=2),
    logging.handlers.TimedRotatingFileHandler(os.environ["LOG_FILE"] + ".timed"),
    logging.handlers.WatchedFileHandler(os.environ["LOG_FILE"] + ".watched"),
    logging.handlers.MemoryHandler(50, target=logging.NullHandler()),
    logging.handlers.QueueHandler(queue.Queue()),
    logging.handlers.SysLogHandler(("127.0.0.1", 9)),
):
    log.addHandler(handler)


def handle(value: str) -> str:
    for _ in range(3):
        log.info("order %s", value)
    return str(int(value) * 2)
