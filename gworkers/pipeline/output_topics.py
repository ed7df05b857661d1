"""The topics that results go to: looked up when they are first named, watched for partitions that come
and go, and refused where nothing can be sent to them.

A topic of the configuration that does not exist is waited for: somebody will make it. One that a
handler has named may be of the message's content, and nobody may ever make it: after a while its
messages fail.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import gevent

from gworkers.errors import NoRightError, SendError, one_line
from gworkers.handlers.job import Job, Row
from gworkers.kafka.errors import Kind, PartitionGoneError, classify
from gworkers.kafka.protocols import ProducerClient, TopicPartition
from gworkers.loop import Fatal, Loop, after

log = logging.getLogger(__name__)

#: Seconds between two looks for a topic that is not there, and between two looks for partitions that
#: were added.
LOOK_INTERVAL = 0.5
GROWTH_INTERVAL = 1.0
#: How long results for a topic that a handler has named wait for it to exist, in seconds.
NAMED_BY_HANDLER = 10.0
#: How long a topic that cannot be had is believed to be so, in seconds.
REFUSED_FOR = 5.0


class Topic:
    """An output topic: its partitions once they are known, and the rows that wait until then."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.partitions: list[TopicPartition] = []  # by number
        self.of_key: dict[bytes, int] = {}
        self.waiting: list[tuple[Row, Job]] | None = []  # None once the partitions are known
        self.next = 0  # for rows without a key: they go round
        self.most = 0  # the most partitions that it ever had
        self.error: SendError | None = None  # why nothing can be sent to it
        self.no_right: str | None = None  # the sentence when it is because this client may not

    def has(self, count: int) -> None:
        """It has so many partitions."""
        self.partitions = [TopicPartition(self.name, number) for number in range(count)]
        self.most = max(self.most, count)
        self.of_key.clear()

    def configured(self, job: Job) -> bool:
        """Whether the job's route names it; otherwise the handler has."""
        return self.name in job.partition.route.targets

    def refusal(self, job: Job) -> SendError:
        """Why the job's rows cannot be sent to it; only where ``error`` is."""
        assert self.error is not None
        return NoRightError(self.no_right) if self.no_right is not None and self.configured(job) else self.error


class OutputTopics:
    """See the head of this file. send: has a row sent once its topic is known; refuse: says that a
    job's row is not."""

    def __init__(
        self, client: ProducerClient, send: Callable[[Topic, Row, Job], None], refuse: Callable[[Job, SendError], None], fatal: Fatal
    ) -> None:
        self.client = client
        self._send = send
        self._refuse = refuse
        self._fatal = fatal
        self._topics: dict[str, Topic] = {}
        self._look_ups: set[Loop] = set()

    def stop(self) -> None:
        for loop in tuple(self._look_ups):
            loop.stop()

    def __iter__(self) -> Iterator[Topic]:
        return iter(list(self._topics.values()))

    def named(self, name: str) -> Topic:
        """The topic, which is looked up from now on when it is new."""
        return self._topics.get(name) or self._look_up(name)

    def _look_up(self, name: str) -> Topic:
        topic = self._topics[name] = Topic(name)
        loop = Loop(f"look-up of {name}", lambda: self._find_partitions(topic), self._fatal, ends=True)
        self._look_ups.add(loop)
        loop.greenlet.link(lambda _: self._look_ups.discard(loop))
        loop.start()
        return topic

    def _find_partitions(self, topic: Topic) -> None:
        """Ask until the topic is there; say so once when it is not. Its rows wait meanwhile, and
        with them the buffer."""
        said = False
        begun = time.monotonic()
        while True:
            count = 0
            try:
                count = self.client.partitions_for(topic.name)
            except Exception as error:
                if classify(error) not in (Kind.PASSING, Kind.TIMED_OUT):
                    self._give_up(topic, f"results cannot be sent to {topic.name}: {one_line(error)}", self.client.no_right(error))
                    return
            if count:
                break
            if time.monotonic() - begun >= NAMED_BY_HANDLER and self._strangers_fail(topic):
                return
            if not said and any(topic.configured(job) for _, job in topic.waiting or ()):
                said = True
                log.warning(
                    "the topic %s does not exist, and the broker does not make it; results for it wait until somebody does", topic.name
                )
            gevent.sleep(LOOK_INTERVAL)
        if said:
            log.info("the topic %s is there now", topic.name)
        topic.has(count)
        waiting, topic.waiting = topic.waiting or [], None
        for row, job in waiting:
            self._send(topic, row, job)

    def _strangers_fail(self, topic: Topic) -> bool:
        """Fail the messages whose handlers have named a topic that does not exist. True when nothing
        else waits for it."""
        told = f"results cannot be sent to {topic.name}: there is no such topic, and the broker does not make it"
        kept = [(row, job) for row, job in topic.waiting or () if topic.configured(job)]
        if not kept:
            self._give_up(topic, told, None)
            return True
        strangers = [job for _, job in topic.waiting or () if not topic.configured(job)]
        topic.waiting = kept
        for job in strangers:
            self._refuse(job, _of_message(told))
        return False

    def _give_up(self, topic: Topic, why: str, no_right: str | None) -> None:
        """Refuse what waits for the topic, and what comes for it in the next seconds; whoever comes
        then looks again."""
        topic.no_right = no_right
        waiting, topic.waiting, topic.error = topic.waiting or [], None, _of_message(why)
        after(REFUSED_FOR, f"look-up of {topic.name}", self._fatal, self._topics.pop, topic.name, None)
        for _, job in waiting:
            self._refuse(job, topic.refusal(job))

    def compare(self) -> None:
        """Take up partitions that were added, or that are gone because a topic was made anew with
        fewer."""
        for topic in self:
            if topic.waiting is not None or topic.error is not None:
                continue
            count, had = self.client.known_partitions(topic.name), len(topic.partitions)
            if count and count != had:
                topic.has(count)
            if 0 < count < had:
                log.warning("%s has %d partitions in place of %d: it was made anew; results go to those", topic.name, count, had)
            if count and topic.most > count:
                self.client.discard_partitions(topic.name, count, PartitionGoneError())


def _of_message(text: str) -> SendError:
    refusal = SendError(text)
    refusal.of_message = True
    return refusal
