"""What a running server does at a signal, by the conventions of gunicorn and Sidekiq.

| signal | what it does |
|---|---|
| TERM, INT | drain for ``shutdown.grace`` and stop; a second one ends the process at once |
| QUIT | stop at once: what is finished is committed, what runs will be delivered again |
| HUP | check the configuration; if it is good, drain and begin anew with it, as the same process |
| USR1 | write to the log where each handler stands |
| USR2 | open the log's files anew, after they were moved |
| TSTP, CONT | take nothing new and stay; go on |
| TTIN, TTOU | nothing: they are the master's of several processes |
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import gevent
import gevent.monkey

from gworkers.errors import StopAsked
from gworkers.server import hub_log

log = logging.getLogger("gworkers")

_start = gevent.monkey.get_original("_thread", "start_new_thread")

#: What asks a server to stop.
STOPS = (signal.SIGTERM, signal.SIGINT)

#: Seconds, not 0: the loop looks at what has come only when it waits.
LOOK = 0.001

#: Seconds after which a server that still starts is told again to stop: somebody may have kept the
#: exception to himself, as an ``except:`` of the application or a ``__del__`` does.
AGAIN = 0.2


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """While a server starts, SIGTERM and SIGINT end it at once: there is nothing to drain.

    StopAsked is raised in the greenlet that has called this, whichever one the signal interrupts: in
    kafka-python's own it would be taken for an error of a connection, and the start would go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    starting = gevent.getcurrent()
    loop = gevent.get_hub().loop
    again = loop.timer(AGAIN, repeat=AGAIN)
    asked: list[str] = []
    soon: list[Any] = []

    def stop(number: int, frame: object) -> None:
        asked.append(signal.Signals(number).name)
        again.start(lambda: starting.throw(StopAsked(asked[0])))
        if gevent.getcurrent() is starting:
            raise StopAsked(asked[0])
        soon.append(loop.run_callback(starting.throw, StopAsked(asked[0])))

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # a process that has begun anew was asked before
        yield
        if asked:
            raise StopAsked(asked[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        again.close()
        for callback in soon:
            callback.stop()


class Served(Protocol):
    """Who is told."""

    def asked_to_stop(self, name: str) -> None: ...

    def asked_to_stop_at_once(self, name: str) -> None: ...

    def asked_to_reload(self) -> None: ...

    def tell_stacks(self) -> None: ...

    def be_quiet(self, quiet: bool) -> None: ...

    def asked_for_more(self, name: str, step: int) -> None: ...


class Signals:
    """Tells ``served`` of signals, on the hub, from ``catch`` to ``release``."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._watchers: list[Any] = []

    def catch(self) -> None:
        served = self._served
        for number in STOPS:
            self._on(number, served.asked_to_stop, number.name)
        self._on(signal.SIGQUIT, served.asked_to_stop_at_once, signal.SIGQUIT.name)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            self._on(signal.SIGHUP, served.asked_to_reload)
        self._on(signal.SIGUSR1, served.tell_stacks)
        self._on(signal.SIGUSR2, open_logs_anew)
        self._on(signal.SIGTSTP, served.be_quiet, True)
        self._on(signal.SIGCONT, served.be_quiet, False)
        self._on(signal.SIGTTIN, served.asked_for_more, signal.SIGTTIN.name, 1)
        self._on(signal.SIGTTOU, served.asked_for_more, signal.SIGTTOU.name, -1)

    def _on(self, number: signal.Signals, told: Callable[..., None], *arguments: Any) -> None:
        self._watchers.append(gevent.signal_handler(number, told, *arguments))

    def release(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()

    def keep_for_the_next(self) -> None:
        """Instead of ``release``, of a process that is about to begin anew: who asks it to stop from
        now on is heard by the one that it becomes. What has come before is told first; blocks for a
        moment.

        To block them is not enough: another thread takes what the main one blocks, and would end the
        process or note it where nobody looks any more. It is sent to the main thread once more, where
        it waits through exec.
        """
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        for number in STOPS:
            signal.signal(number, lambda number, frame: signal.pthread_kill(main, number))
        gevent.sleep(LOOK)  # until the loop has looked at what it was told by signals


def open_logs_anew() -> None:
    """For logrotate: every log file that was moved is made anew. The hub takes no lock of a logging
    handler where handlers of messages may hold it for good."""
    if hub_log.active():
        _start(_open_anew, ())
    else:
        _open_anew()


def _open_anew() -> None:
    loggers = [logging.getLogger(), *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    count = 0
    for handler in {handler for logger in loggers for handler in logger.handlers if isinstance(handler, logging.FileHandler)}:
        with suppress(OSError, ValueError):
            handler.acquire()
            try:
                handler.close()  # it opens its file again with the next line
                handler._closed = False  # type: ignore[attr-defined]
                handler.stream = handler._open()
                count += 1
            finally:
                handler.release()
    log.info("SIGUSR2: %d log file%s opened anew", count, "s were" if count != 1 else " was")
