"""What one process of a server does: it has the pipeline of one configuration, with a number of its
own.

    start   suspects and journal ─► clients ─► pipeline ─► watch, progress
    serve   until whoever started it drains it
    stop    drain ─► commit ─► leave the group ─► producer ─► journal

What is done once for all processes (signals, the embedded broker, the admin address, the run file)
is gworkers.supervisor.server. Everything but handlers runs on one native thread, the hub's; with
``executor: thread`` handlers run on ``concurrency`` further native threads.
"""

from __future__ import annotations

import gc
import logging
import time

import gevent

from gworkers.config.load import Loaded
from gworkers.config.schema import Config
from gworkers.errors import ConfigError, Problem, RestartError, UnavailableError, one_line
from gworkers.handlers.executor import Executor, GreenletExecutor, ThreadExecutor, TooFewThreadsError
from gworkers.handlers.hooks import Hooks, run_at_start, run_at_stop
from gworkers.handlers.hub_watchdog import HubWatchdog
from gworkers.handlers.routes import Route
from gworkers.kafka import green
from gworkers.kafka.clients import Clients
from gworkers.kafka.connections import KafkaConnections
from gworkers.loop import Fatal, Loop
from gworkers.offsets import journal
from gworkers.offsets.finished import NoNotes, Notes
from gworkers.offsets.journal import Journal, JournalError, Journaling, NoJournal
from gworkers.pipeline import quarantine
from gworkers.pipeline.pipeline import Pipeline
from gworkers.pipeline.quarantine import NoSuspects, Suspicions
from gworkers.server import limits, members, topics
from gworkers.server.dead_letter_hook import DeadLetterHook
from gworkers.server.members import Members

log = logging.getLogger("gworkers")

#: Seconds that committing, leaving the group and closing the producer may take after the drain.
CLOSE_TIMEOUT = 10.0
EMBEDDED_CLOSE_TIMEOUT = 1.0
#: How long what runs may go on when an error ends the process, in seconds, unless the grace is
#: shorter.
ERROR_GRACE = 5.0
#: How long removing members that died may take, in seconds.
REMOVE_TIMEOUT = 5.0
#: Seconds between two looks who this process is to its group, while it joins and afterwards.
JOINING_INTERVAL = 0.02
MEMBER_INTERVAL = 0.5
#: Seconds between two looks whether everything is settled.
DRAIN_INTERVAL = 0.01
#: How many of the messages that are still running at the end of the grace are named.
NAMED_AT_MOST = 20


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


def _workers_each(config: Config) -> int:
    return 1 if config.executor == "greenlet" else 2


def workers_for(config: Config) -> int:
    """How many worker greenlets: with threads twice as many, so that a thread which is done finds
    its next block waiting."""
    return config.first_concurrency * _workers_each(config)


def _tame_collector() -> None:
    """Keep the garbage collector off the hub: what has been imported stays for good, and looking
    through it held the hub for 50 ms at a time; with fewer rounds, no-op handlers go 20 % faster.
    An application that has set thresholds of its own keeps them."""
    gc.collect()
    gc.freeze()
    if gc.get_threshold() == (700, 10, 10):
        gc.set_threshold(20_000, 20, 20)


class Process:
    """One process. servers: where Kafka is; number: which of the processes this is, from 0; fatal:
    ends all of it.

    Raises GworkersError from the constructor when it cannot be built; nothing runs before
    ``start``.
    """

    def __init__(self, loaded: Loaded, routes: list[Route], hooks: Hooks, servers: str, number: int, fatal: Fatal) -> None:
        self._config = config = loaded.config
        self._hooks = hooks
        self._fatal = fatal
        self._journal: Journal | None = None
        self._watchdog: HubWatchdog | None = None
        suspects = self._look_back(loaded)
        clients = Clients(loaded, servers, number)
        connections = KafkaConnections(clients, config.kafka.connect_timeout)
        self.group = connections.group
        self._members = self._place_in_group(loaded, servers)
        topics.prepare(loaded, routes, clients)
        executor = self._executor(self._journal or NoJournal())
        self._notes = self._note_what_finishes(loaded)
        notes = self._notes or NoNotes()
        self.pipeline = Pipeline(config, routes, executor, workers_for(config), connections, suspects, notes, fatal)
        self._letters: DeadLetterHook | None = None
        if hooks.on_dead_letter is not None:
            self._letters = DeadLetterHook(hooks.on_dead_letter, self.pipeline.events, fatal, threads=config.executor == "thread")
        self._looks = Loop("membership", self._keep_membership, fatal)

    def _look_back(self, loaded: Loaded) -> Suspicions:
        """With a state directory: what ran when processes died before this one; and begin to note
        what runs in this one."""
        config = self._config
        if config.state_dir is None:
            return NoSuspects()
        try:
            folder = journal.folder_of(loaded.folder / config.state_dir, config.kafka.group)
            suspects = quarantine.gather(folder)
            self._journal = Journal(folder, config.most_concurrency * _workers_each(config) + config.max_stuck_handlers + 1)
        except JournalError as error:
            if error.no_room:  # what is to protect the work does not stand in its way
                text = "state_dir: %s; this process goes on without its journal, and messages that kill it are not told from others"
                log.warning(text, error)
                return NoSuspects()
            raise ConfigError(Problem(loaded.document.where(("state_dir",)), "state_dir", str(error))) from None
        suspects.own = self._journal.path
        return suspects

    def _place_in_group(self, loaded: Loaded, servers: str) -> Members | None:
        """Remove members that died on this machine without leaving, and take a place for this one.
        None for a static member, which the group takes back under its name."""
        config = self._config
        folder = members.place(loaded)
        if folder is None or config.kafka.group_instance_id is not None:
            return None
        found = Members(folder, servers, config.kafka.group)
        dead = found.left_behind()
        if dead:
            try:
                self.group.remove(dead, REMOVE_TIMEOUT)
                log.info(
                    "%d member%s of the group died on this machine; the group need not wait for their sessions",
                    len(dead),
                    "s" if len(dead) > 1 else "",
                )
            except Exception as error:
                log.info("members that died on this machine could not be removed, their sessions are waited for: %s", one_line(error))
        found.claim()
        return found

    def _keep_membership(self) -> None:
        """Write down who this process is to its group as soon as that is known, which is before it has
        joined: a group waits for whoever dies while it joins, too."""
        members, membership, known = self._members, self.group.membership, ""
        while members is not None:
            if membership.member_id != known:
                known = membership.member_id
                members.joined(known)
            gevent.sleep(JOINING_INTERVAL if not membership.joined() else MEMBER_INTERVAL)

    def _note_what_finishes(self, loaded: Loaded) -> Notes | None:
        """None with exactly-once, where what is not committed has not happened."""
        folder, boot = members.place(loaded), members.boot()
        if folder is None or not boot or self._config.delivery == "exactly-once":
            return None
        try:
            return Notes(folder, self._config.kafka.group, boot)
        except OSError as error:
            log.info("what finishes between two commits is not noted, and would run again after a crash: %s", error)
            return None

    def _executor(self, notes: Journaling) -> Executor:
        if self._config.executor == "thread":
            return ThreadExecutor(self._config.first_concurrency, notes, self._hooks, self._fatal)
        return GreenletExecutor(notes, self._hooks, self._fatal)

    def start(self) -> None:
        """Begin to take messages. Does not block."""
        run_at_start(self._hooks.process_start, "process_start")
        _tame_collector()
        try:
            room, wanted = limits.room_for_threads(), self._config.first_concurrency
            if self._config.executor == "thread" and room is not None:
                if room < wanted:
                    raise TooFewThreadsError(room, wanted)
                self.pipeline.bound(room)
            self.pipeline.start()
        except TooFewThreadsError as error:
            raise UnavailableError(
                f"concurrency {error.wanted} needs as many threads, and only {error.started} can be started: {limits.threads()}; "
                "raise the limit, or lower concurrency"
            ) from None
        if self._members is not None:
            self._looks.start()
        if self._letters is not None:
            self._letters.start()
        keeper = self.pipeline.time_keeper
        self._watchdog = HubWatchdog(lambda: keeper.beat, self.group.membership.session, self._fatal)
        self._watchdog.start()

    def drain(self, error: BaseException | None, *, at_once: bool = False) -> int:
        """Let what runs finish; returns how many messages were left when the grace was over.
        Blocks. error: why it ends, None when it was asked to; at_once: without any grace."""
        pipeline = self.pipeline
        pipeline.drain()
        grace = self._config.shutdown.grace
        if error is not None and not isinstance(error, RestartError):
            grace = min(ERROR_GRACE, grace)
        deadline = time.monotonic() + (grace if not at_once else 0.0)
        while pipeline.unsettled and not pipeline.over and time.monotonic() < deadline:
            gevent.sleep(DRAIN_INTERVAL)
        unsettled = pipeline.unsettled
        for job in pipeline.running[:NAMED_AT_MOST] if unsettled else ():
            log.warning("still running, will be delivered again: %s offset %d", job.partition.name, job.offset)
        return unsettled

    def stop(self) -> bool:
        """After ``drain``: commit, leave the group, close the connections. Blocks; True when all
        that was settled is committed."""
        self._looks.stop()
        if self._watchdog is not None:
            self._watchdog.stop()
        committed = True
        embedded = self._config.kafka.bootstrap_servers == "embedded"  # what is committed there ends with the server
        try:
            committed = self.pipeline.stop(CLOSE_TIMEOUT if not embedded else EMBEDDED_CLOSE_TIMEOUT) or embedded
        except Exception as error:
            log.warning("closing the connections to Kafka failed: %s: %s", type(error).__name__, error)
        if self._letters is not None:
            self._letters.stop(CLOSE_TIMEOUT)
        run_at_stop(self._hooks.process_stop, "process_stop")
        if self._members is not None and committed:
            self._members.left()
        if self._notes is not None:
            self._notes.close(settled=committed)
        self.close_journal()
        return committed

    def close_journal(self) -> None:
        """It ends as it should: what still runs is not to be blamed for it."""
        if self._journal is not None:
            self._journal.close()
