"""Which message a line of the log is about."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gworkers import log_context
from gworkers.config import schema
from gworkers.handlers import slot
from gworkers.handlers.job import Job
from gworkers.offsets.journal import NoJournal
from gworkers.server import logs
from tests.support.jobs import job_of, partition_of


@pytest.fixture
def logger() -> Iterator[tuple[logging.Logger, io.StringIO, logging.Handler]]:
    factory = logging.getLogRecordFactory()
    log_context.install()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger("test.context")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger, stream, handler
    logger.removeHandler(handler)
    logging.setLogRecordFactory(factory)


def job() -> Job:
    return job_of(partition_of(topic="orders", number=2), 9, key=b"c-1\xff")


def test_lines_of_a_handler_carry_its_message_in_threads_and_in_greenlets(logger: Any) -> None:
    log, stream, _ = logger

    def in_a_thread() -> None:
        slot.claim_thread(NoJournal()).job = job()
        log.info("from %s", "a thread", extra={"key": "mine", "total": 3})
        slot.release_thread()

    def in_a_greenlet() -> None:
        slot.claim_greenlet(NoJournal()).job = job()
        log.info("from a greenlet")
        slot.release_greenlet()
        log.info("outside")

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    gevent.spawn(in_a_greenlet).join()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    about = {"topic": "orders", "partition": 2, "offset": 9, "key": "c-1\\xff"}
    assert [line["message"] for line in lines] == ["from a thread", "from a greenlet", "outside"]
    assert about.items() <= lines[0].items()
    assert lines[0]["total"] == 3
    assert about.items() <= lines[1].items()
    assert "topic" not in lines[2]


def test_text_lines_name_the_message(logger: Any) -> None:
    log, stream, handler = logger
    handler.setFormatter(logs.TextFormatter())
    log.info("priced", extra=log_context.about(job()))
    log.info("no message")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("INFO test.context [orders 2@9 key=c-1\\xff]: priced")
    assert second.endswith("INFO test.context: no message")


def test_a_dictionary_of_the_users_can_name_the_fields(logger: Any) -> None:
    log, stream, handler = logger
    handler.addFilter(log_context.MessageFilter())
    handler.setFormatter(logging.Formatter("%(topic)s/%(partition)s/%(offset)s %(message)s"))
    log.info("a", extra=log_context.about(job()))
    log.info("b")
    assert stream.getvalue().splitlines() == ["orders/2/9 a", "// b"]


def test_installing_twice_wraps_once_and_keeps_what_was_there() -> None:
    before = logging.getLogRecordFactory()
    try:
        log_context.install()
        once = logging.getLogRecordFactory()
        log_context.install()
        assert logging.getLogRecordFactory() is once
    finally:
        logging.setLogRecordFactory(before)


def test_an_application_that_has_set_up_logging_keeps_it() -> None:
    root = logging.getLogger()
    before, factory, level = list(root.handlers), logging.getLogRecordFactory(), root.level
    own = logging.NullHandler()
    root.handlers = [own]
    try:
        logs.configure(schema.Logging(level="ERROR"))
        assert root.handlers == [own]
        assert root.level == level
    finally:
        root.handlers = before
        logging.setLogRecordFactory(factory)
