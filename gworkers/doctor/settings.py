"""The configuration and the machine: what contradicts itself, and what there is too little of."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator

from gworkers.config.load import Loaded
from gworkers.config.units import cores, format_duration
from gworkers.doctor.finding import Finding, Level, where_of
from gworkers.server import limits

#: Drivers in C that wait outside of Python, with what makes each of them cooperate.
_DRIVERS = {
    "psycopg2": "psycogreen.gevent.patch_psycopg() in app.setup, psycopg 3, or executor: thread",
    "MySQLdb": "PyMySQL, or executor: thread",
    "pymssql": "executor: thread",
    "cx_Oracle": "oracledb in its thin mode, or executor: thread",
    "ibm_db": "executor: thread",
}


def findings(loaded: Loaded, stop_within: float | None) -> Iterator[Finding]:
    """stop_within: seconds that the supervisor waits after SIGTERM before it kills; None: not said."""
    yield from _times(loaded, stop_within)
    yield from _routes(loaded)
    yield from _drivers(loaded)
    yield from _machine(loaded)


def _times(loaded: Loaded, stop_within: float | None) -> Iterator[Finding]:
    config = loaded.config
    grace = config.shutdown.grace
    if stop_within is not None and stop_within < grace + 10:
        what = (
            f"the supervisor kills after {format_duration(stop_within)}, and stopping may take shutdown.grace, "
            f"{format_duration(grace)}, and 10s"
        )
        wait = format_duration(grace + 15)
        todo = f"have it wait {wait} (stopwaitsecs, TimeoutStopSec, terminationGracePeriodSeconds), or make the grace shorter"
        yield Finding(Level.WARNING, what, where_of(loaded, "shutdown", "grace"), todo)
    for name, route in config.routes.items():
        where = where_of(loaded, "routes", name, "timeout")
        if route.timeout is None:
            yield Finding(Level.NOTE, "a handler that hangs takes its place for good", where, "write how long it may take, for example 30s")
        elif route.timeout > grace:
            longest, left = format_duration(route.timeout), format_duration(grace)
            what = f"a handler may take {longest}, and at a stop it has {left}: it runs again afterwards"
            yield Finding(Level.WARNING, what, where, "make shutdown.grace longer than the longest timeout")


def _routes(loaded: Loaded) -> Iterator[Finding]:
    config = loaded.config
    for name, route in config.routes.items():
        if route.dead_letter is None:
            what = "the process stops at the first message that fails for good"
            yield Finding(Level.WARNING, what, where_of(loaded, "routes", name), "name a dead_letter topic")
        if route.output is not None and route.output in route.topics:
            what = "it sends to a topic that it consumes: each result is a message again"
            yield Finding(Level.WARNING, what, where_of(loaded, "routes", name, "output"), "send elsewhere")
    if config.dead_letters.stop_above is None and any(route.dead_letter for route in config.routes.values()):
        what = "a handler that fails for every message empties the topic into the dead letters"
        todo = "for example stop_above: 100 in 1m, which stops the process with status 65"
        yield Finding(Level.NOTE, what, where_of(loaded, "dead_letters", "stop_above"), todo)
    if config.state_dir is None:
        what = "a message that kills the process does so again and again"
        yield Finding(Level.NOTE, what, where_of(loaded, "state_dir"), "name a folder: with it such a message becomes a dead letter")
    if config.admin.bind is None:
        what = "no health, no metrics, and no command can ask this server anything"
        yield Finding(Level.NOTE, what, where_of(loaded, "admin", "bind"), "for example 127.0.0.1:8080")


def _drivers(loaded: Loaded) -> Iterator[Finding]:
    if loaded.config.executor != "greenlet":
        return
    for module, todo in _DRIVERS.items():
        if module not in sys.modules or (module == "psycopg2" and _cooperates()):
            continue
        what = f"{module} waits in C, outside of gevent: with executor: greenlet its statements run one after the other, for all handlers"
        yield Finding(Level.ERROR, what, f"the application imports {module}", todo)


def _cooperates() -> bool:
    extensions = sys.modules.get("psycopg2.extensions")
    return extensions is not None and extensions.get_wait_callback() is not None


def _machine(loaded: Loaded) -> Iterator[Finding]:
    config = loaded.config
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = limits.wanted_descriptors(config)
    if allowed < wanted:
        open_now = f"a process here may have {allowed} files and connections open (ulimit -n)"
        what = f"{open_now}, and {config.most_concurrency} handlers may need {wanted}"
        yield Finding(Level.WARNING, what, "this machine", "raise it: LimitNOFILE= in a systemd unit, minfds in supervisord.conf")
    room = limits.room_for_threads()
    if config.executor == "thread" and room is not None and room < config.most_concurrency:
        what = f"{config.most_concurrency} threads are wanted, and there is room for the stacks of {room}"
        yield Finding(Level.ERROR, what, "this machine", f"raise the limit, or lower concurrency: {limits.threads()}")
    if config.processes > cores():
        what = f"{config.processes} processes on {cores()} cores"
        yield Finding(Level.NOTE, what, where_of(loaded, "processes"), "for handlers that compute more than one a core gains nothing")
