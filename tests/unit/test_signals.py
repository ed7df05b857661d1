"""A signal during the start, whatever it interrupts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import gevent
import pytest
from gevent.event import Event

from gworkers.errors import StopAsked
from gworkers.supervisor.signals import stopped_by_signals


def _asked() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _begin(start: Callable[[], object]) -> None:
    with stopped_by_signals():
        start()


def test_it_ends_a_start_that_waits_while_another_greenlet_keeps_every_exception() -> None:
    """As kafka-python's input and output do."""
    interrupted = []

    def keep() -> None:
        try:
            _asked()
            for _ in range(1000):
                time.monotonic()
        except BaseException as error:
            interrupted.append(error)

    def start() -> None:
        gevent.spawn(keep)
        Event().wait(10)

    with pytest.raises(StopAsked):
        _begin(start)
    assert not interrupted


def _keep_to_oneself() -> None:
    with suppress(BaseException):
        _asked()
        time.sleep(1)


def test_it_ends_a_start_that_has_kept_the_exception_and_waits() -> None:
    def start() -> None:
        _keep_to_oneself()
        Event().wait(10)

    with pytest.raises(StopAsked):
        _begin(start)


def test_it_ends_a_start_that_has_kept_the_exception_and_is_through() -> None:
    with pytest.raises(StopAsked) as raised:
        _begin(_keep_to_oneself)
    assert raised.value.name == "SIGTERM"


def test_nothing_is_thrown_afterwards() -> None:
    """The signal interrupts the hub, and the start is through before it is told."""
    before = signal.getsignal(signal.SIGTERM)
    with suppress(StopAsked), stopped_by_signals():
        done = Event()
        gevent.get_hub().loop.run_callback(done.set)
        gevent.get_hub().loop.run_callback(_asked)
        done.wait(10)
    assert signal.getsignal(signal.SIGTERM) is before
    gevent.sleep(0.5)
