"""What all tests share: one Apache Kafka for the whole run, and loud words where it cannot be had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from tests.support import broker, servers

_left_out: list[str] = []

hypothesis.settings.register_profile("gworkers", deadline=None)  # how long an example takes says nothing here
hypothesis.settings.load_profile("gworkers")


@pytest.fixture(scope="session")
def kafka_servers() -> Iterator[str]:
    """host:port of a broker: Apache Kafka, or without Java or Maven the embedded one."""
    given = os.environ.get("GWORKERS_TEST_KAFKA")
    if given:
        yield given
        return
    try:
        kafka = broker.Kafka()
    except broker.NoKafka as error:
        if broker.java_is_wanted():
            pytest.fail(f"CI is set and Apache Kafka cannot be had: {error}")
        _left_out.append(str(error))
        mock = broker.Mock()
        servers.EMBEDDED = True
        yield mock.servers
        mock.stop()
        return
    try:
        kafka.start()
        yield kafka.servers
    finally:
        kafka.stop()


@pytest.fixture(scope="session")
def real_kafka_wanted() -> None:
    """For tests that start brokers of their own: left out, loudly, where Apache Kafka cannot be
    had."""
    try:
        broker.fetch()
    except broker.NoKafka as error:
        if broker.java_is_wanted():
            pytest.fail(f"CI is set and Apache Kafka cannot be had: {error}")
        _left_out.append(str(error))
        pytest.skip("needs Apache Kafka")


@pytest.fixture
def real_kafka(kafka_servers: str) -> str:
    """As kafka_servers, for tests that the embedded broker cannot serve."""
    if servers.EMBEDDED:
        _left_out.append(os.environ.get("PYTEST_CURRENT_TEST", "?").split(" ")[0])
        pytest.skip("needs Apache Kafka")
    return kafka_servers


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In one of several processes: hand what was left out to the one that prints the summary."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = _left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _left_out.extend(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left_out:
        terminalreporter.section("LEFT OUT", sep="!")
        terminalreporter.line(f"Apache Kafka cannot be had ({_left_out[0]}): the tests ran on the embedded broker.")
        for name in _left_out[1:]:
            terminalreporter.line(f"not run: {name}")
