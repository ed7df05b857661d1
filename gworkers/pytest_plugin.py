"""Fixtures for the tests of an application, there wherever gworkers is installed.

- ``gworkers_application``: makes an Application (gworkers.testing) of a configuration, with its start
  and stop hooks called around the test;
- ``gworkers_kafka``: host:port of a Kafka: that of ``--gworkers-kafka``, or the embedded broker (the
  extra ``embedded``), for tests that start a whole server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gworkers.config.schema import Config
    from gworkers.testing import Application


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gworkers")
    group.addoption("--gworkers-kafka", metavar="HOST:PORT", help="The Kafka of the fixture gworkers_kafka; embedded without it.")


@pytest.fixture
def gworkers_application() -> Iterator[Callable[..., Application]]:
    """Called with a file, a dictionary or a Config, and ``overrides=``."""
    from gworkers.testing import Application

    with ExitStack() as stack:

        def make(config: str | Path | Mapping[str, Any] | Config, **more: Any) -> Application:
            return stack.enter_context(Application(config, **more))

        yield make


@pytest.fixture(scope="session")
def gworkers_kafka(pytestconfig: pytest.Config) -> Iterator[str]:
    """host:port; with the embedded broker topics come into being when they are asked for."""
    given = pytestconfig.getoption("--gworkers-kafka")
    if given:
        yield str(given)
        return
    from gworkers.kafka import embedded

    started = embedded.start([])
    try:
        yield started.servers
    finally:
        started.stop()
