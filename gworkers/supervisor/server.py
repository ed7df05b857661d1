"""A server: what is done once for all of its processes, of which there is one, this very process.

    start   logging ─► routes ─► signals ─► (embedded broker) ─► process ─► admin ─► run file
    serve   until a signal, a fatal error, or nothing left to do (--until-idle)
    stop    the process drains and stops ─► admin ─► run file ─► embedded broker

``Server(config).run()`` does it all and returns the exit status.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gevent
from gevent.event import Event

import gworkers
from gworkers.admin import addresses, sending
from gworkers.admin.health import alive
from gworkers.admin.sending import Sending
from gworkers.config.load import Loaded
from gworkers.config.schema import Config
from gworkers.config.units import format_duration
from gworkers.errors import ConfigError, Exit, GworkersError, StopAsked, UnavailableError
from gworkers.handlers import loading
from gworkers.handlers.routes import Route
from gworkers.kafka import embedded, versions
from gworkers.loop import Loop, after
from gworkers.server import limits, logs
from gworkers.server.hub_log import HubLog
from gworkers.server.problems import problems_of
from gworkers.server.process import Process, check_executor
from gworkers.server.progress import Progress
from gworkers.server.watch import Watch
from gworkers.supervisor import run_file
from gworkers.supervisor.admin_address import AdminAddress
from gworkers.supervisor.notify import Notify
from gworkers.supervisor.operating import Operating
from gworkers.supervisor.recycling import Recycling
from gworkers.supervisor.signals import STOPS, Signals, open_logs_anew, stopped_by_signals
from gworkers.supervisor.under_master import UnderMaster

log = logging.getLogger("gworkers")

#: Seconds between two words to the service manager.
TELL_INTERVAL = 10.0


class Server(Operating):
    """A server for one configuration.

    config: a Config made in Python, or what ``gworkers.config.load.load`` returned. until_idle:
    seconds without anything to do after which it stops by itself; None serves on. file: the
    configuration's file, which other commands know it by; given: the options that name it to a
    command. check: says what is wrong with the file as it is now, for a reload; may block the calling
    greenlet. master: whose worker process this is.
    """

    def __init__(
        self,
        config: Config | Loaded,
        *,
        until_idle: float | None = None,
        file: Path | None = None,
        given: Sequence[str] | None = None,
        check: Callable[[], str | None] | None = None,
        master: UnderMaster | None = None,
    ) -> None:
        self._loaded = config if isinstance(config, Loaded) else Loaded.of(config)
        self._config = self._loaded.config
        self._until_idle = until_idle
        self._file = file
        self._given = given
        self._check = check
        self._master = master
        self.begin_anew = False  # the configuration has changed: whoever has started this is to start it again
        self._stop_asked = Event()
        self._error: BaseException | None = None
        self._signals = Signals(self)
        self._hub_log = HubLog()
        self._notify = Notify(os.environ if master is None else {})
        self._telling: Loop | None = None
        self.log_held = False  # something holds the log: whoever waits for it at the end waits for ever
        self._asked = 0
        self._at_once = False
        self._stop_began: float | None = None
        self._embedded: embedded.Embedded | None = None
        self._admin: AdminAddress | None = None
        self._progress: Progress | None = None
        self._watch: Watch | None = None
        self._recycling: Recycling | None = None
        self._sending: Sending | None = None
        self.process: Process | None = None
        self.admin_address: str | None = None

    def run(self) -> int:
        """Serve until asked to stop. Returns the exit status; errors are logged as sentences, not
        raised. Blocks."""
        logs.configure(self._config.logging, self._master.number if self._master is not None else None)
        if self._config.executor == "thread":
            self._hub_log.start()
        try:
            return self._serve()
        finally:
            self.log_held = not self._hub_log.stop(logs.WRITTEN_WITHIN)

    def _serve(self) -> int:
        unsettled, committed = 0, True
        try:
            with stopped_by_signals():
                if self._master is not None:
                    self._master.listen(self, open_logs_anew, self.fail)
                process = self._start()
                signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until somebody drains when they come
            self._signals.catch()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            process.start()
            self._begin_telling(process)
            self._stop_asked.wait()
            self._stop_began = time.monotonic()
            self._notify.stopping()
            unsettled = process.drain(self._error, at_once=self._at_once)
        except GworkersError as error:
            logs.last_words(str(error))
            self._error = error
        except StopAsked as signalled:
            log.info("%s: stopped before it had begun", signalled.name)
        except Exception as error:
            told = limits.exhausted(error)
            if told is not None:
                logs.last_words(told)
                self._error = UnavailableError(told)
            else:
                logs.enable()
                log.exception("an error inside gworkers; please report it")
                self._error = error
        finally:
            committed = self._close()
        status = self._status(unsettled, committed)
        if self._master is not None:
            self._master.tell(ended=status)
            self._master.stop()
        if self.begin_anew:
            self._signals.keep_for_the_next()
        else:
            self._signals.release()
        return status

    def _begin_telling(self, process: Process) -> None:
        """From now on whoever has started this process hears how it is."""
        watchdog = self._notify.watchdog
        if self._master is not None:
            self._master.started(process.group.membership.joined, self.fail)
            watchdog = self._master.watchdog
        self._notify.ready("serving")
        if watchdog is None and not self._notify:
            return
        interval = min(TELL_INTERVAL, watchdog / 3 if watchdog is not None else TELL_INTERVAL)

        def tell() -> None:
            while True:
                gevent.sleep(interval)
                snapshot = process.pipeline.snapshot()
                if self._progress is not None:
                    self._notify.status(self._progress.figures(snapshot))
                if watchdog is not None and alive(snapshot):
                    self._notify.well()
                    if self._master is not None:
                        self._master.tell(well=True)

        self._telling = Loop("notify", tell, self.fail).start()

    def stop(self) -> None:
        """Ask it to drain and stop. From any greenlet; from another native thread use a signal."""
        self._stop_asked.set()

    @property
    def grace_left(self) -> float:
        """Seconds of ``shutdown.grace`` that the stop has not used."""
        asked = self._stop_began if self._stop_began is not None else time.monotonic()
        return max(0.0, self._config.shutdown.grace - (time.monotonic() - asked))

    def fail(self, error: BaseException) -> None:
        """Stop because of an error; the first one is what the process ends with."""
        if self._error is None:
            self._error = error
            logs.last_words(str(error))
        self._stop_asked.set()

    # -- start

    def _start(self) -> Process:
        check_executor(self._loaded)
        versions.check()
        limits.check_descriptors(self._config)
        routes = loading.load_routes(self._loaded, begin=True)
        hooks = loading.load_hooks(self._loaded)
        logs.enable()
        problems = problems_of(self._loaded)
        if problems:
            raise ConfigError(*problems)
        servers = self._servers()
        number = self._master.number if self._master is not None else 0
        process = self.process = Process(self._loaded, routes, hooks, servers, number, self.fail)
        if self._config.admin.bind is not None:
            self._admin = AdminAddress(self._loaded, process, hooks.ready, self, self._master, self._given)
            self.admin_address = self._admin.start()
        self._announce(routes, servers)
        if self._file is not None and self._master is None:
            run_file.write(self._file, {"servers": servers, "admin": self.admin_address})
        snapshot = process.pipeline.snapshot
        self._watch = Watch(snapshot, process.group, routes, self._until_idle, self.stop, self.fail)
        self._progress = Progress(snapshot, self._fed(), self._title(number), self.fail)
        self._recycling = Recycling(self._config.recycle, lambda: snapshot().done, self._recycle, self.fail)
        self._sending = Sending(
            self._config, sending.targets_of(self._config, self._master.number if self._master else None), snapshot, self.fail
        )
        self._watch.start()
        self._progress.start()
        self._sending.start()
        if self._embedded is None:  # what it holds ends with it
            self._recycling.start()
        return process

    def _servers(self) -> str:
        if self._master is not None:
            return self._master.servers
        kafka = self._config.kafka
        if kafka.bootstrap_servers != "embedded":
            return kafka.bootstrap_servers
        self._embedded = embedded.start(embedded.samples_of(self._loaded))
        return self._embedded.servers

    def _title(self, number: int) -> str:
        name = f"worker {number}" if self._master is not None else "server"
        return f"{name} of {self._config.kafka.group}"

    def _fed(self) -> int:
        """How many messages of the samples go through the routes."""
        if self._embedded is None:
            return 0
        consumed = [topic for route in self._config.routes.values() for topic in route.topics]
        return sum(count for topic, count in self._embedded.sampled.items() if topic in consumed)

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
            config.first_concurrency,
            config.executor,
            f", admin at {self.admin_address}{addresses.page_at(config.admin.page, self.admin_address)}" if self.admin_address else "",
        )

    def _where(self, servers: str) -> str:
        return f"{servers} (embedded, for a first look: nothing in it outlives this process)" if self._embedded else servers

    def _recycle(self, why: str) -> None:
        if self._master is not None:
            self._master.tell(recycle=why)
            return
        self._drain_to_begin_anew(why)

    def replace(self, who: str) -> None:
        """Drain, and have another process in this one's place."""
        self._recycle(f"{who}: replace")

    def reload(self, who: str) -> None:
        """As ``asked_to_reload``, and does not block."""
        after(0.0, "reload", self.fail, self.asked_to_reload, who)

    def _drain_to_begin_anew(self, why: str) -> None:
        log.info("%s: draining for up to %s, then beginning anew", why, format_duration(self._config.shutdown.grace))
        self.begin_anew = True
        self._stop_asked.set()

    # -- what signals ask for

    def asked_to_stop(self, name: str) -> None:
        self._asked += 1
        if self._asked > 1:
            log.warning("%s again: ending at once; what was running will be delivered again", name)
            self.end_at_once()
        self.drain_for(name)

    def drain_for(self, who: str) -> None:
        """Drain and stop; however often it is asked for."""
        self.begin_anew = False
        if not self._stop_asked.is_set():
            log.info("%s: draining for up to %s", who, format_duration(self._config.shutdown.grace))
            self._stop_asked.set()

    def end_at_once(self) -> None:
        """The process ends here and now."""
        self._forget()
        if self.process is not None:
            self.process.close_journal()
        self._hub_log.flush(logs.WRITTEN_WITHIN)
        os._exit(Exit.UNSETTLED)

    def asked_to_stop_at_once(self, name: str) -> None:
        self._asked += 1
        log.info("%s: stopping at once; what runs will be delivered again", name)
        self._at_once, self.begin_anew = True, False
        self._stop_asked.set()

    def asked_to_reload(self, who: str = "SIGHUP") -> None:
        if self._check is None:
            log.warning("%s: this server was not started from a file, and has nothing to read anew", who)
            return
        wrong = self._check()
        if wrong is not None:
            log.error("%s: the configuration is as it was, because the new one is not right:", who)
            logs.last_words(wrong)
            return
        self._notify.reloading()
        self._drain_to_begin_anew(who)

    # -- stop

    def _close(self) -> bool:
        """True when all that was settled is committed."""
        for part in (self._watch, self._progress, self._recycling, self._telling, self._sending):
            if part is not None:
                part.stop()
        committed = self.process.stop() if self.process is not None else True
        if self._admin is not None:
            self._admin.stop()
        self._forget()
        return committed

    def _forget(self) -> None:
        if self._file is not None and self._master is None:
            run_file.remove(self._file)
        if self._embedded is not None:
            self._embedded.stop()
            self._embedded = None

    def _status(self, unsettled: int, committed: bool) -> int:
        if self._error is not None:
            return int(getattr(self._error, "status", Exit.INTERNAL))
        done = self.process.pipeline.snapshot().done if self.process is not None else 0
        if unsettled:
            log.warning("stopped with %d messages unsettled, they will be delivered again; %s done", unsettled, f"{done:,}")
            return int(Exit.UNSETTLED)
        if not committed:
            log.warning("stopped: %s done, and the last of them could not be committed; they will be delivered again", f"{done:,}")
            return int(Exit.UNSETTLED)
        log.info("stopped: %s done, everything settled", f"{done:,}")
        return int(Exit.OK)
