"""What is asked of a running server by signals, by its master and at its admin address, and changes
how it works without ending it."""

from __future__ import annotations

import logging

from gworkers import log_context
from gworkers.config.schema import MOST_CONCURRENCY, Config
from gworkers.handlers.executor import TooFewThreadsError
from gworkers.server import limits
from gworkers.server.process import Process

log = logging.getLogger("gworkers")


class Operating:
    """A part of gworkers.supervisor.server.Server."""

    _config: Config
    process: Process | None

    def tell_stacks(self) -> None:
        found = self.process.pipeline.standing if self.process is not None else []
        log.info("SIGUSR1: %d handlers run", len(found))
        for one in found:
            log.info("runs for %.1f s, at\n%s", one.age, one.stack, extra=log_context.about(one.job))

    def asked_for_more(self, name: str, step: int) -> None:
        """A tenth more handlers, or fewer, but at least one."""
        if self.process is None:
            return
        before = self.process.pipeline.concurrency
        problem = self.resize(max(1, before + step * max(1, before // 10)), name)
        if problem is not None:
            log.warning("%s: %s", name, problem)

    def resize(self, concurrency: int, who: str) -> str | None:
        """Have so many handlers run at once; what stands in the way, or None."""
        config, process = self._config, self.process
        most = min(MOST_CONCURRENCY, config.buffer.messages)
        if process is None or not 1 <= concurrency <= most:
            return f"concurrency {concurrency} is not between 1 and {most}, which buffer.messages allows"
        before = process.pipeline.concurrency
        room = limits.room_for_threads()
        if config.executor == "thread" and room is not None and concurrency - before > room:
            return (
                f"concurrency {concurrency} needs {concurrency - before} threads more, and only {room} can be started: {limits.threads()}"
            )
        try:
            process.pipeline.resize(concurrency)
        except TooFewThreadsError as error:
            return f"only {error.started} threads can be started: {limits.threads()}"
        log.info("%s: concurrency %d from now on, %d before", who, concurrency, before)
        return None

    def find_concurrency(self) -> str | None:
        """Go on to find it after it has been set; what stands in the way, or None."""
        if self.process is None or not self.process.pipeline.find_concurrency():
            return "concurrency is a number in the configuration; write auto there, and reload"
        log.info("an operator: concurrency is found again")
        return None

    def be_quiet(self, quiet: bool, who: str | None = None) -> None:
        if self.process is None or not self.process.pipeline.quiet(quiet):
            return
        if who is not None:
            log.info("%s: %s", who, "nothing new is begun until it is told to go on" if quiet else "going on")
        else:
            log.info("SIGTSTP: nothing new is begun until SIGCONT" if quiet else "SIGCONT: going on")
