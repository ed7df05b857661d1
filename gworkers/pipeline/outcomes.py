"""What becomes of a job whose handler has ended, or whose results were refused: sent, tried again,
dead-lettered.

    complete ─► send or finish (gworkers.pipeline.delivery)
       │ error
       └─► fail ─► another attempt, here (gworkers.pipeline.retries) or from a retry topic
                └─► no attempt left: its dead letter, or the end of the process

Everything here runs on the hub's thread and none of it waits. Of a partition that is gone or going
nothing is tried again: its jobs are given back.
"""

from __future__ import annotations

import logging
from types import TracebackType

from gworkers import log_context
from gworkers.config.schema import Config
from gworkers.errors import (
    BreakerError,
    FatalError,
    MessageError,
    NoRightError,
    PassedOverError,
    RecordTooLargeError,
    SendError,
    UnavailableError,
    one_line,
    raised_at,
)
from gworkers.events import Events
from gworkers.handlers.job import Job, Row
from gworkers.handlers.time_limits import CALLERS
from gworkers.loop import Fatal, Loop
from gworkers.pipeline import dead_letters, retry_topics
from gworkers.pipeline.delivery import Delivery
from gworkers.pipeline.ledger import Ledger
from gworkers.pipeline.retries import Retries, delay_of, hopeless
from gworkers.pipeline.scheduler import Scheduler
from gworkers.text import KEY_SHOWN, cut, text_of

log = logging.getLogger(__name__)

#: Kinds of failures that are counted; of more those are forgotten that have not come for the longest.
MOST_KINDS = 1_000
#: Characters of an error that are kept while a message waits for its next attempt.
WHY_SHOWN = 200


class Outcomes:
    """See the head of this file."""

    def __init__(
        self,
        config: Config,
        delivery: Delivery,
        scheduler: Scheduler,
        retries: Retries,
        ledger: Ledger,
        events: Events,
        fatal: Fatal,
    ) -> None:
        self._group = config.kafka.group
        above = config.dead_letters.stop_above
        self._breaker = dead_letters.Breaker(above.count, above.seconds) if above is not None else None
        self._never = dead_letters.NeverSucceeded(config.dead_letters.never_succeeded if above is None else 0)
        self._delivery = delivery
        self._scheduler = scheduler
        self._retries = retries
        self._ledger = ledger
        self._events = events
        self._fatal = fatal
        self._kinds: dict[tuple[str, str, str | None], int] = {}  # how often each kind has failed for good; seen last at the end
        self._loop = Loop("refusals", self._take_refusals, fatal)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def _take_refusals(self) -> None:
        while True:
            self.fail(self._delivery.refusals.take())

    # -- a handler has ended

    def complete(self, job: Job) -> bool:
        """A job's handler has ended, one way or the other. True when it is tried again here."""
        if not job.partition.active:
            self._events.fenced.send(job)
            self._ledger.give_back((job,))
            return False
        if job.error is not None:
            return self.fail(job)
        job.partition.route.figures.succeeded = True
        if job.rows:
            try:
                self._delivery.send(job)
            except RecordTooLargeError as error:
                job.error = error
                return self.fail(job)
        else:
            self._delivery.finish(job)
        return False

    def complete_batch(self, jobs: list[Job], whole: list[Job]) -> None:
        """The handler of a batch has ended. ``whole``: the jobs that failed because it raised; with
        no attempt left each gets one alone.

        Where the batch is of a key or a partition in its order, those after one that is tried again
        wait behind it with what became of them: their results are sent after its own.
        """
        following = {follower for job in jobs for follower in job.followers}
        together = set(whole) if len(whole) > 1 else set()
        for index, job in enumerate(jobs):
            if job in following:
                continue
            if job in together and job.error is not None and self._counts(job) and delay_of(job) is None:
                log.info("the batch failed, the next attempt is alone: %s", one_line(job.error), extra=log_context.about(job))
                self._retry_alone(job)
                self._events.retried.send(job, 0.0)
                self._retries.add(job, 0.0)
            elif not self.complete(job):
                continue
            if job.partition.route.batch_of_lane:
                rest = jobs[index + 1 :]
                for later in rest:
                    if later.error is not None and delay_of(later) is not None:
                        later.attempt += 1
                        later.error = None
                    elif later in together:
                        self._retry_alone(later)
                        later.attempt += 1
                self._scheduler.put_behind(rest)
                return

    @staticmethod
    def _counts(job: Job) -> bool:
        return job.partition.active and not job.partition.closing

    @staticmethod
    def _retry_alone(job: Job) -> None:
        """Have the next attempt be one more than there are, which is one alone (batches.alone)."""
        job.attempt = max(job.attempt, job.partition.route.config.retry.attempts - 1)
        job.error = None

    # -- it has failed

    def fail(self, job: Job) -> bool:
        """A job's handler, or the sending of its results, has failed. True when it is tried again
        here."""
        if job.followers:
            followers, job.followers = job.followers, ()
            for follower in followers:
                follower.rows, follower.error = None, job.error
                self.fail(follower)
        partition = job.partition
        error = job.error
        assert error is not None
        rows, job.rows = job.rows, None
        if not self._counts(job):
            self._ledger.give_back((job,))
            return False
        if not isinstance(error, PassedOverError):
            partition.route.figures.failure(error)
        if isinstance(error, NoRightError):
            self._ledger.give_back((job,))
            self._fatal(UnavailableError(str(error)))
            return False
        if isinstance(error, PassedOverError):
            self._events.passed_over.send(job)
            self._delivery.finish(job)
            return False
        if job.dead:
            self._letter_failed(job, rows or [], error)
            return False
        delay = delay_of(job)
        if delay is not None:
            self._retry(job, error, delay)
            return True
        topic = partition.route.next_topic(partition.topic) if not hopeless(job) else None
        if topic is not None:
            self._retry_from(topic, job, error)
            return False
        topic = partition.route.config.dead_letter
        if topic is None:
            self._log_failure(job, error, "has no dead_letter topic to go to")
            self._stop_for(job, f"{one_line(error)}, and the route has no dead_letter topic to put it")
            return False
        self._dead_letter(job, topic, error)
        return False

    def _retry(self, job: Job, error: BaseException, delay: float) -> None:
        attempts = job.partition.route.config.retry.attempts
        log.info(
            "attempt %d of %d failed, the next in %.1f s: %s",
            job.attempt,
            attempts,
            delay,
            one_line(error),
            extra=log_context.about(job),
        )
        self._events.retried.send(job, delay)
        job.error = None
        self._retries.add(job, delay, cut(one_line(error), WHY_SHOWN))

    def _retry_from(self, topic: str, job: Job, error: BaseException) -> None:
        log.info("attempt %d failed, the next is from %s: %s", job.attempt, topic, one_line(error), extra=log_context.about(job))
        job.rows = [retry_topics.row(job, topic, self._group)]
        job.error = None
        try:
            self._delivery.send(job)
        except MessageError as too_large:
            job.error = too_large
            self.fail(job)
            return
        self._events.retry_sent.send(job, topic)

    def _dead_letter(self, job: Job, topic: str, error: BaseException) -> None:
        if (too_many := self._too_many(job)) is not None:
            self._ledger.give_back((job,))
            last = f"the last at {_where(job)}: {one_line(error)}"
            self._fatal(BreakerError(f"{too_many}; {last}; look at {topic} and at what has changed"))
            return
        self._log_failure(job, error, f"goes to {topic}")
        self._events.failed.send(job, error)
        self._send_letter(job, dead_letters.letter(job, topic, self._group))

    def _too_many(self, job: Job) -> str | None:
        """Why this dead letter is one too many."""
        breaker, route = self._breaker, job.partition.route
        if breaker is not None and not breaker.lets_through():
            seconds = f"{breaker.seconds:g} s"
            return f"more than {breaker.count} messages failed for good within {seconds}, which dead_letters.stop_above forbids"
        if not self._never.lets_through(route):
            told = "nothing of it has succeeded (dead_letters.never_succeeded: 0 goes on all the same)"
            return f"the first {self._never.most} messages of the route {route.name} failed for good, and {told}"
        return None

    def _log_failure(self, job: Job, error: BaseException, then: str) -> None:
        """An error with its trace, the first time that this exception comes from this line of code;
        after that a line that counts them."""
        kind = job.partition.route.name, type(error).__name__, raised_at(error)
        times = self._kinds[kind] = self._kinds.pop(kind, 0) + 1
        if len(self._kinds) > MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]
        after = f"{job.attempt} attempt{'s' if job.attempt > 1 else ''}"
        told, about = one_line(error), log_context.about(job)
        if times == 1:
            log.error("failed for good after %s and %s: %s", after, then, told, exc_info=_info(error), extra=about)
        else:
            log.warning("failed for good after %s and %s: %s (%d of this kind)", after, then, told, times, extra=about)

    def _send_letter(self, job: Job, row: Row) -> None:
        job.dead += 1
        job.rows = [row]
        job.error = None
        try:
            self._delivery.send(job)
        except RecordTooLargeError as too_large:
            job.error = too_large
            self.fail(job)

    def _letter_failed(self, job: Job, rows: list[Row], error: BaseException) -> None:
        """A letter that is too large sheds what is not the message; for anything else the process
        ends, because the message has nowhere to go."""
        too_large = isinstance(error, RecordTooLargeError) or (isinstance(error, SendError) and error.too_large)
        if too_large and rows and job.dead <= dead_letters.SHEDDABLE:
            self._send_letter(job, dead_letters.shed(rows[0], job.dead))
            return
        self._stop_for(job, f"its dead letter cannot be sent to {job.partition.route.config.dead_letter}: {error}")

    def _stop_for(self, job: Job, why: str) -> None:
        self._ledger.give_back((job,))  # nothing will come of it here: the drain need not wait for it
        self._fatal(FatalError(f"the message at {_where(job)} failed for good: {why}"))


def _info(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    """For a log record: the trace from the application's own code on. None for what is found here,
    which is said by its sentence."""
    if isinstance(error, MessageError):
        return None
    trace = error.__traceback__
    own = trace
    while own is not None and own.tb_frame.f_globals.get("__name__") in CALLERS:
        own = own.tb_next
    return type(error), error, own or trace


def _where(job: Job) -> str:
    key = f", key {cut(text_of(job.key) or '', KEY_SHOWN)!r}" if job.key is not None else ""
    return f"{job.partition.topic}, partition {job.partition.number}, offset {job.offset}{key}"
