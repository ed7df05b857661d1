"""One process and its life.

    start   logging ─► routes ─► (embedded broker) ─► clients ─► app.setup ─► admin ─► pipeline
    serve   until a signal, a fatal error, or nothing left to do (--until-idle)
    stop    drain ─► commit ─► leave the group ─► producer ─► admin ─► embedded broker

``Server(config).run()`` does it all and returns the exit status. Everything but handlers runs on one native thread, the
hub's; with ``executor: thread`` handlers run on ``concurrency`` further native threads.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event

import gworkers
from gworkers.config.load import Loaded
from gworkers.config.schema import Config
from gworkers.config.units import format_duration
from gworkers.errors import ConfigError, Exit, GworkersError, Problem, RestartError
from gworkers.kafka import embedded, green, options
from gworkers.kafka.clients import Clients
from gworkers.kafka.transactional import Connection
from gworkers.pipeline import application, journal, quarantine
from gworkers.pipeline.executor import Executor, GreenletExecutor, ThreadExecutor
from gworkers.pipeline.hub_guard import HubGuard
from gworkers.pipeline.journal import Journal, JournalError, Nothing, Records
from gworkers.pipeline.pipeline import Pipeline
from gworkers.pipeline.quarantine import Suspects
from gworkers.pipeline.routes import RETRY, Route
from gworkers.server import logs, runtime
from gworkers.server.admin import Admin
from gworkers.server.progress import Progress
from gworkers.server.watch import Watch

log = logging.getLogger("gworkers")

#: Seconds that committing, leaving the group and closing the producer may take after the drain.
CLOSING = 10.0


def check_executor(loaded: Loaded) -> None:
    """Raises ConfigError for the two combinations of executor and patching that cannot work."""
    where = loaded.document.where(("executor",))
    if loaded.config.executor == "thread" and green.patched():
        text = (
            "this process is patched by gevent.monkey, and patched locks hang when native threads contend for them; "
            "do not call monkey.patch_all(), or set executor: greenlet"
        )
        raise ConfigError(Problem(where, "executor", text))
    if loaded.config.executor == "greenlet" and not green.patched():
        text = (
            "executor: greenlet needs a process patched before anything else is imported; "
            "start it with the gworkers command, or call gevent.monkey.patch_all() in the first line of your program"
        )
        raise ConfigError(Problem(where, "executor", text))


def workers_for(config: Config) -> int:
    """How many worker greenlets: with threads twice as many, so that a thread which is done finds its next block waiting."""
    return config.concurrency if config.executor == "greenlet" else 2 * config.concurrency


def _tame_collector() -> None:
    """Keep the garbage collector off the hub: what has been imported stays for good, and looking through it held the hub for 50 ms at
    a time; with fewer rounds, no-op handlers go 20 % faster. An application that has set thresholds of its own keeps them."""
    gc.collect()
    gc.freeze()
    if gc.get_threshold() == (700, 10, 10):
        gc.set_threshold(20_000, 20, 20)


class Server:
    """A server for one configuration.

    config: a Config made in Python, or what ``gworkers.config.load.load`` returned. until_idle: seconds without anything to do after
    which it stops by itself; None serves on. file: the configuration's file, which other commands know it by.
    """

    def __init__(self, config: Config | Loaded, *, until_idle: float | None = None, file: Path | None = None) -> None:
        self._loaded = config if isinstance(config, Loaded) else Loaded.of(config)
        self._config = self._loaded.config
        self._until_idle = until_idle
        self._file = file
        self._stop_asked = Event()
        self._error: BaseException | None = None
        self._signals = 0
        self._committed = True
        self._embedded: embedded.Embedded | None = None
        self._admin: Admin | None = None
        self._progress: Progress | None = None
        self._watch: Watch | None = None
        self._hub_guard: HubGuard | None = None
        self._journal: Journal | None = None
        self._watchers: list[Any] = []
        self.pipeline: Pipeline | None = None
        self.admin_address: str | None = None

    def run(self) -> int:
        """Serve until asked to stop. Returns the exit status; errors are logged as sentences, not raised. Blocks."""
        logs.configure(self._config.logging)
        try:
            self._start()
            self._stop_asked.wait()
            unsettled = self._drain()
        except GworkersError as error:
            for line in str(error).splitlines():
                log.error("%s", line)
            self._error = error
            unsettled = 0
        except Exception as error:
            log.exception("an error inside gworkers; please report it")
            self._error = error
            unsettled = 0
        finally:
            self._close()
        return self._status(unsettled)

    def stop(self) -> None:
        """Ask it to drain and stop. From any greenlet; from another native thread use a signal."""
        self._stop_asked.set()

    def fail(self, error: BaseException) -> None:
        """Stop because of an error; the first one is what the process ends with."""
        if self._error is None:
            self._error = error
            log.error("%s", error)
        self._stop_asked.set()

    # -- start

    def _start(self) -> None:
        check_executor(self._loaded)
        routes = application.load_routes(self._loaded)
        problems = list(options.problems(self._loaded))
        if problems:
            raise ConfigError(*problems)
        suspects = self._look_back()
        self._catch_signals()
        servers = self._servers()
        clients = Clients(self._loaded, servers)
        consumer = clients.consumer()
        exactly_once = self._config.delivery == "exactly-once"
        connect_timeout = self._config.kafka.connect_timeout
        producer = Connection(clients, clients.transactional_id(), connect_timeout) if exactly_once else clients.producer()
        clients.make_topics(consumer, {name: name.rpartition(RETRY)[0] for route in routes for name in route.retry_topics})
        application.run_setup(self._loaded)
        config = self._config
        executor = self._executor(self._journal or Nothing())
        self.pipeline = Pipeline(config, routes, executor, workers_for(config), consumer, producer, self.fail, suspects)
        if self._config.admin.bind is not None:
            self._admin = Admin(self._config.admin.bind, self.pipeline)
            self.admin_address = self._admin.start()
        self._announce(routes, servers)
        if self._file is not None:
            runtime.write(self._file, {"servers": servers, "admin": self.admin_address})
        self._watch = Watch(self.pipeline, consumer, routes, self._until_idle, self.stop)
        _tame_collector()
        self.pipeline.start()
        if self._config.executor == "greenlet":
            workers = self.pipeline.workers
            self._hub_guard = HubGuard(lambda: workers.beat)
            self._hub_guard.start()
        self._watch.start()
        self._progress = Progress(self.pipeline, self._fed())
        self._progress.start()

    def _servers(self) -> str:
        kafka = self._config.kafka
        if kafka.bootstrap_servers != "embedded":
            return kafka.bootstrap_servers
        samples = [
            {"file": str(self._loaded.folder / sample.file), "topic": sample.topic, "key": sample.key} for sample in kafka.embedded.samples
        ]
        self._embedded = embedded.start(samples)
        return self._embedded.servers

    def _fed(self) -> int:
        """How many messages of the samples go through the routes."""
        if self._embedded is None:
            return 0
        consumed = [topic for route in self._config.routes.values() for topic in route.topics]
        return sum(count for topic, count in self._embedded.sampled.items() if topic in consumed)

    def _executor(self, records: Records) -> Executor:
        return ThreadExecutor(self._config.concurrency, records) if self._config.executor == "thread" else GreenletExecutor(records)

    def _look_back(self) -> Suspects | None:
        """With a state directory: what ran when processes died before this one; and begin to note what runs in this one."""
        config = self._config
        if config.state_dir is None:
            return None
        try:
            folder = journal.folder_of(self._loaded.folder / config.state_dir, config.kafka.group)
            suspects = quarantine.gather(folder)
            self._journal = Journal(folder, workers_for(config) + config.max_stuck_handlers + 1)
        except JournalError as error:
            raise ConfigError(Problem(self._loaded.document.where(("state_dir",)), "state_dir", str(error))) from None
        suspects.own = self._journal.path
        return suspects

    def _announce(self, routes: list[Route], servers: str) -> None:
        config = self._config
        log.info("gworkers %s, pid %d, group %s, Kafka at %s", gworkers.__version__, os.getpid(), config.kafka.group, self._where(servers))
        for route in routes:
            source = ", ".join(route.config.topics) or f"topics like {route.config.pattern}"
            target = f" ─► {route.config.output}" if route.config.output else ""
            dead = f", dead letters to {route.config.dead_letter}" if route.config.dead_letter else ", no dead-letter topic"
            log.info("route %s: %s ─► %s%s (order: %s%s)", route.name, source, route.config.handler, target, route.config.order, dead)
        log.info(
            "concurrency %d, executor %s%s",
            config.concurrency,
            config.executor,
            f", admin at {self.admin_address}" if self.admin_address else "",
        )

    def _where(self, servers: str) -> str:
        return f"{servers} (embedded, for a first look: nothing in it outlives this process)" if self._embedded else servers

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._watchers.append(gevent.signal_handler(number, self._signalled, number))

    def _signalled(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("%s again: ending at once; what was running will be delivered again", signal.Signals(number).name)
            self._forget()
            if self._journal is not None:
                self._journal.close()
            os._exit(Exit.UNSETTLED)
        log.info("%s: draining for up to %s", signal.Signals(number).name, format_duration(self._config.shutdown.grace))
        self._stop_asked.set()

    # -- stop

    def _drain(self) -> int:
        """Let what runs finish; returns how many messages were left when the grace was over."""
        pipeline = self.pipeline
        assert pipeline is not None
        pipeline.drain()
        grace = self._config.shutdown.grace
        if self._error is not None and not isinstance(self._error, RestartError):
            grace = min(5.0, grace)
        deadline = time.monotonic() + grace
        while pipeline.unsettled and time.monotonic() < deadline:
            gevent.sleep(0.01)
        unsettled = pipeline.unsettled
        for job in pipeline.workers.running[:20] if unsettled else ():
            log.warning("still running, will be delivered again: %s offset %d", job.partition.name, job.offset)
        return unsettled

    def _close(self) -> None:
        for part in (self._watch, self._progress, self._hub_guard):
            if part is not None:
                part.stop()
        if self.pipeline is not None:
            try:
                self._committed = self.pipeline.stop(CLOSING)
            except Exception as error:
                log.warning("closing the connections to Kafka failed: %s: %s", type(error).__name__, error)
        if self._admin is not None:
            self._admin.stop()
        self._forget()
        if self._journal is not None:
            self._journal.close()
        for watcher in self._watchers:
            watcher.cancel()

    def _forget(self) -> None:
        if self._file is not None:
            runtime.remove(self._file)
        if self._embedded is not None:
            self._embedded.stop()
            self._embedded = None

    def _status(self, unsettled: int) -> int:
        if self._error is not None:
            return int(getattr(self._error, "status", Exit.INTERNAL))
        stats = self.pipeline.stats if self.pipeline is not None else None
        done = stats.done if stats is not None else 0
        if unsettled:
            log.warning("stopped with %d messages unsettled, they will be delivered again; %s done", unsettled, f"{done:,}")
            return int(Exit.UNSETTLED)
        if not self._committed:
            log.warning("stopped: %s done, and the last of them could not be committed; they will be delivered again", f"{done:,}")
            return int(Exit.UNSETTLED)
        log.info("stopped: %s done, everything settled", f"{done:,}")
        return int(Exit.OK)
