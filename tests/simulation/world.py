"""One schedule: the real pipeline in simulated processes, a simulated Kafka, and what befalls them.

Real are the stages of gworkers.pipeline, the offsets and their notes, the routes with their codecs,
the executors' blocks and time limits. Simulated are Kafka (cluster.py), its clients (clients.py),
time and the greenlets' order (loop.py), and the threads of ``executor: thread``, which are greenlets
that may lose their turn wherever a thread's doings are seen from outside.
"""

from __future__ import annotations

import contextlib
import gc
import linecache
import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gevent
import gevent.queue

from gworkers.codecs import CODECS
from gworkers.config.schema import Config
from gworkers.errors import RestartError
from gworkers.handlers.executor import GreenletExecutor, ThreadExecutor, interrupt_greenlet
from gworkers.handlers.hooks import Hooks
from gworkers.handlers.partition import Partition
from gworkers.handlers.routes import Route, compile_route
from gworkers.handlers.slot import Slot, claim_greenlet, release_greenlet, running_job
from gworkers.handlers.time_limits import TimeLimit
from gworkers.kafka import green
from gworkers.kafka.protocols import Committed, TopicPartition
from gworkers.message import Message, Record, Reject, Retry
from gworkers.offsets import finished
from gworkers.offsets.finished import Left, NoNotes, Notes
from gworkers.offsets.suspects import Suspect
from gworkers.pipeline import quarantine, time_keeper
from gworkers.pipeline.pauses import Selection
from gworkers.pipeline.pipeline import Pipeline
from gworkers.pipeline.quarantine import NoSuspects
from tests.simulation.clients import Network, SimGroup, SimProducer, SimTransactional
from tests.simulation.cluster import Cluster
from tests.simulation.loop import Change, Loop, Owner, changed, run, virtual
from tests.simulation.plan import Fault, Plan
from tests.simulation.truth import Message as TrueMessage
from tests.simulation.truth import Truth, ViolationError

SOURCE, OUTPUT, DEAD, GROUP = "in", "out", "dead", "group"
#: Seconds between two looks whether all is settled, and how long all may take to stop.
LOOK = 0.25
STOP_LIMIT = 60.0


class _Finished(deque[Any]):
    """Where threads put blocks: after that, before the next step, a thread may lose its turn."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self._draw = draw

    def append(self, block: Any) -> None:
        super().append(block)
        if self._draw.random() < 0.3:
            gevent.sleep(self._draw.choice((0.0, 0.001, 0.02)))


class _Pool:
    """In place of gevent's threadpool."""

    maxsize = 0

    def spawn(self, run: Any) -> None:
        gevent.spawn(run)


class SimThreads(ThreadExecutor):
    """``executor: thread`` with greenlets for threads. An interrupt is raised where one waits."""

    def __init__(self, threads: int, journal: Any, fatal: Any, draw: random.Random) -> None:
        super().__init__(threads, journal, Hooks(), fatal)
        self._pool = _Pool()
        self._inbox = gevent.queue.SimpleQueue()
        self._finished = _Finished(draw)
        self._greenlets: dict[Any, Any] = {}  # slot → the greenlet that is its thread

    def claim(self, journal: Any) -> Slot:
        slot = claim_greenlet(journal)
        self._greenlets[slot] = gevent.getcurrent()
        return slot

    release = staticmethod(release_greenlet)

    def may_interrupt(self, limit: TimeLimit) -> bool:
        return True

    def interrupt(self, block: Any, limit: TimeLimit) -> None:
        interrupt_greenlet(block, limit, self._greenlets.get(block.slot))


class _Journal:
    """What runs in one process, which whoever comes after it can read."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self._labels: dict[int, bytes] = {}

    def claim(self) -> int:
        self.offsets += [-1, -1]
        return len(self.offsets) - 2

    def release(self, at: int) -> None:
        self.offsets[at] = -1

    def enter(self, at: int, label: bytes) -> None:
        self._labels[at] = label

    def ran(self) -> list[tuple[str, int, int]]:
        found = []
        for at, label in self._labels.items():
            if self.offsets[at] >= 0:
                topic, _, number = label.decode().rpartition("/")
                last = max(self.offsets[at], self.offsets[at + 1])
                found += [(topic, int(number), offset) for offset in range(self.offsets[at], last + 1)]
        return found


class _Suspects:
    """The suspects of a machine, in memory. See gworkers.offsets.suspects."""

    unwritten = False

    def __init__(self, world: World) -> None:
        self._world = world

    def gather(self) -> int:
        dead, self._world.left = self._world.left, []
        for ran in dead:
            for topic, number, offset in ran:
                known = self._world.suspects.setdefault((topic, number), {})
                before = known.get(offset)
                known[offset] = Suspect(1 + (before.deaths if before else 0), len(ran) == 1)
        return len(dead)

    def of(self, topic: str, number: int) -> dict[int, Suspect] | None:
        return self._world.suspects.get((topic, number)) or None

    def clear(self, topic: str, number: int, offsets: list[int]) -> None:
        for offset in offsets:
            self._world.suspects.get((topic, number), {}).pop(offset, None)

    def flush(self) -> None: ...


class _Notes(Notes):
    """The notes of a machine, in memory: a schedule's few would take longer as files than all the rest
    of it."""

    def __init__(self, world: World) -> None:
        self._machine = world.noted
        super().__init__(Path(), GROUP, "boot")

    def _room(self) -> memoryview:
        self._own_bytes = bytearray(finished.BYTES)
        self._machine.append(self._own_bytes)
        return memoryview(self._own_bytes)

    def left(self) -> Left:
        return Left([memoryview(bytes(noted)) for noted in self._machine])

    def close(self, *, settled: bool) -> None:
        if settled:
            self._machine[:] = [noted for noted in self._machine if noted is not self._own_bytes]


class _Connections:
    def __init__(self, cluster: Cluster, network: Network, plan: Plan, number: int) -> None:
        self.group = SimGroup(cluster, network)
        self._make = (cluster, network, plan.rows)
        self._name = f"{GROUP}-{number}"

    @property
    def producer(self) -> Any:
        return SimProducer(*self._make)

    @property
    def transactions(self) -> Any:
        return SimTransactional(*self._make, self._name)


class Process:
    """One life of one of the processes."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.owner = Owner(f"process {number}")
        self.network = Network(world.loop, world.draw, self.owner, world.plan.latency, world.plan.loss)
        self.pipeline: Pipeline | None = None
        self.covered: WeakKeyDictionary[Partition, Committed] = WeakKeyDictionary()  # what each assignment began with
        self.group: SimGroup | None = None
        self.journal = _Journal()
        self.notes: Any = NoNotes()
        self.error: BaseException | None = None
        self.ended = False
        self.stopping = False

    def start(self, dead: list[str]) -> None:
        """``dead``: member ids to be removed first. As a step of this process."""
        plan, world = self.world.plan, self.world
        connections: Any = _Connections(world.cluster, self.network, plan, self.number)
        self.group = connections.group
        if dead and plan.removes:
            with contextlib.suppress(Exception):
                self.group.remove(dead, 5)
        if plan.notes and plan.delivery == "at-least-once":
            self.notes = _Notes(world)
        suspects: Any = NoSuspects()
        if plan.state:
            suspects = _Suspects(world)
            suspects.gather()
        executor: Any
        if plan.executor == "thread":
            executor = SimThreads(plan.concurrency, self.journal, self.fail, world.draw)
        else:
            executor = GreenletExecutor(self.journal, Hooks(), self.fail)
        try:
            self.pipeline = Pipeline(world.config, world.routes(self), executor, plan.workers, connections, suspects, self.notes, self.fail)
        except Exception as failure:
            if type(failure).__name__ != "KafkaTimeoutError":
                raise
            self.over(crashed=True)
            return
        self.pipeline._runner.blocks = _Ordered()  # type: ignore[assignment]
        self.pipeline.events.assigned.subscribe(self._begins)
        self.pipeline.start()

    def fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            gevent.spawn(self._end)

    def ask_to_stop(self) -> None:
        if not self.stopping:
            gevent.spawn(self._end)

    def _begins(self, partitions: list[Partition]) -> None:
        assert self.group is not None
        for partition in partitions:
            found = self.group.covered.get(TopicPartition(partition.topic, partition.number))
            if found is not None:
                self.covered[partition] = found

    def _end(self) -> None:
        if self.stopping or self.pipeline is None:
            return
        self.stopping = True
        pipeline = self.pipeline
        pipeline.drain()
        deadline = self.world.loop.now + (5.0 if self.error is not None else 20.0)
        while pipeline.unsettled and not pipeline.over and self.world.loop.now < deadline:
            gevent.sleep(0.01)
        delivery: Any = pipeline._delivery
        ledger = pipeline._ledger
        out = len(pipeline._runner.blocks) + len(delivery.refusals) + delivery._producer.unacknowledged
        left = pipeline.unsettled or pipeline.over or out
        committed = pipeline.stop(10.0)
        if not left and (ledger.messages or ledger.bytes):
            raise ViolationError(f"process {self.number} has nothing left, and counts {ledger.messages} messages and {ledger.bytes} bytes")
        if isinstance(self.notes, Notes):
            self.notes.close(settled=committed)
        self.over(crashed=False)

    def over(self, *, crashed: bool) -> None:
        self.ended = True
        self.world.ended(self, crashed=crashed)

    def kill(self) -> None:
        """kill -9."""
        self.owner.dead = True
        if self.group is not None and not self.group._closed:
            self.group._closed = True
            self.world.cluster.waiting.remove(self.group._told)
        self.ended = True
        self.world.ended(self, crashed=True)


class _Ordered(dict[Any, None]):
    """A set in the order of its making: one that goes by addresses would not replay."""

    add = dict.setdefault

    def discard(self, one: Any) -> None:
        self.pop(one, None)


class World:
    """See the head of this file. Made inside ``virtual``."""

    def __init__(self, plan: Plan, loop: Loop, draw: random.Random, *, telling: bool) -> None:
        self.plan = plan
        self.telling = telling
        self.loop = loop
        self.draw = draw
        self.noted: list[bytearray] = []
        self.truth = Truth(plan)
        self.cluster = Cluster(loop, session=plan.session, rebalance=15.0, eager=plan.eager)
        self.config = _config(plan)
        self.processes: dict[int, Process] = {}
        self.suspects: dict[tuple[str, int], dict[int, Suspect]] = {}
        self.left: list[list[tuple[str, int, int]]] = []
        self.members: dict[int, list[str]] = {}  # that died without leaving, by process
        self._make_topics()

    def _make_topics(self) -> None:
        plan, cluster, truth = self.plan, self.cluster, self.truth
        cluster.make(SOURCE, plan.partitions, consumed=True)
        cluster.make(OUTPUT, plan.outputs)
        cluster.make(DEAD, 1)
        self._retry = [f"{SOURCE}.retry.{int(1000 * delay)}ms" for delay in plan.retry_topics]
        for topic in self._retry:
            cluster.make(topic, 1, consumed=True)
        cluster.on_commit = truth.committed
        if self.telling:
            cluster.say = self.say

        def records(found: list[tuple[Any, Any]]) -> None:
            for tp, record in found:
                if tp.topic == DEAD:
                    truth.lettered(record)
                elif tp.topic in self._retry:
                    truth.put_off(record)
            truth.appeared([(tp, record) for tp, record in found if tp.topic == OUTPUT])

        cluster.on_records = records

    def say(self, text: str) -> None:
        self.truth.trace.append(f"{self.loop.now:9.3f}  {text}")

    # -- the application

    def routes(self, process: Process) -> list[Route]:
        bytes_codec = CODECS["bytes"]
        return [compile_route("route", self.config.routes["route"], self._handler(process), bytes_codec.decode, bytes_codec.encode)]

    def _handler(self, process: Process) -> Any:
        truth = self.truth

        def one(message: Message, partition: Any, covered: Committed | None, offset: int) -> list[Record]:
            found = truth.by_offset[message.topic, message.partition, message.offset]
            if self.telling:
                self.say(f"process {process.number} runs {found}, attempt {message.attempt}")
            try:
                truth.begins(partition, found, offset, covered)
            except ViolationError as error:  # raised here it would be the message's own failure
                self.broken(error)
            try:
                return self._handle(process, found, message)
            finally:
                truth.ends(partition, found)

        def single(message: Message) -> list[Record]:
            job = running_job()
            assert job is not None
            return one(message, job.partition, process.covered.get(job.partition), job.offset)

        def batch(messages: list[Message]) -> list[list[Record]]:
            job = running_job()
            assert job is not None
            covered = process.covered.get(job.partition)
            return [one(m, (job.partition, m.offset), covered, m.offset) for m in messages]

        return batch if self.plan.batch else single

    def _handle(self, process: Process, found: TrueMessage, message: Message) -> list[Record]:
        msg = found.msg
        duration = msg.durations[min(message.attempt, len(msg.durations)) - 1]
        if self.plan.batch:
            duration /= 4
        if duration:
            gevent.sleep(duration)
        if msg.how == "kill" and found.kills < msg.fails:
            found.kills += 1
            self.say(f"{found} kills process {process.number}")
            process.kill()
            gevent.sleep(1e9)
        if msg.how != "kill" and message.attempt <= msg.fails:
            if msg.how == "reject":
                raise Reject("no")
            if msg.how == "retry":
                raise Retry(delay=0.3)
            raise ValueError("no")
        headers = [(msg.refused, b"")] if msg.refused else []
        found.ended = True
        return [
            Record(f"{found.tp.topic}/{found.tp.partition}/{found.offset}/{number}".encode(), headers=headers)
            for number in range(msg.results)
        ]

    # -- what befalls them

    def begin(self) -> None:
        plan, loop = self.plan, self.loop
        for msg in plan.messages:
            loop.later(msg.at, None, self._feed, msg)
        for number in range(plan.processes):
            loop.later(plan.late if number else 0.0, None, self._start, number)
        for fault in plan.faults:
            loop.later(fault.at, None, self._befall, fault)
        loop.later(1.0, None, self._watch)
        loop.later(5.0, None, self._expire)
        loop.after_each = self._check

    def _feed(self, msg: Any) -> None:
        tp = TopicPartition(SOURCE, min(msg.partition, self.plan.partitions - 1))
        key = b"k%d" % msg.key if msg.key is not None else None
        log = self.cluster.logs[tp]
        value = b"v"
        before = log.end
        record = self.cluster.feed(tp, (SOURCE, None, key, value, [], None), msg.hole)
        self.truth.came(tp, record, msg)
        self.say(f"{SOURCE}[{tp.partition}]@{record.offset} comes{' behind a hole' if record.offset > before else ''}")

    def _start(self, number: int) -> None:
        before = self.processes.get(number)
        if before is not None and not before.ended:
            return
        process = self.processes[number] = Process(self, number)
        self.say(f"process {number} starts")
        self.loop.later(0.0, process.owner, self._spawn, process, self.members.pop(number, []))

    @staticmethod
    def _spawn(process: Process, dead: list[str]) -> None:
        def start() -> None:
            try:
                process.start(dead)
            except gevent.GreenletExit:
                raise
            except BaseException as error:
                process.world.broken(error)

        gevent.spawn(start)

    def broken(self, error: BaseException) -> None:
        self.loop.broken(error)

    def ended(self, process: Process, *, crashed: bool) -> None:
        error = process.error
        self.say(f"process {process.number} {'is killed' if crashed else 'has ended'}{f': {error}' if error else ''}")
        if error is not None and not isinstance(error, RestartError):
            self.broken(ViolationError(f"process {process.number} ended with {type(error).__name__}: {error}"))
        if crashed:
            if process.group is not None and process.group.membership.member_id:
                self.members.setdefault(process.number, []).append(process.group.membership.member_id)
            if self.plan.state and (ran := process.journal.ran()):
                self.left.append(ran)
        if not self.done:
            self.loop.later(0.1 + self.draw.random(), None, self._start, process.number)

    done = False

    def _befall(self, fault: Fault) -> None:
        process = self.processes.get(fault.process)
        if process is None or process.ended:
            return
        self.say(f"process {fault.process}: {fault.what} {fault.seconds}")
        if fault.what == "kill":
            process.kill()
        elif fault.what == "stop":
            process.owner.stopped = True
            self.loop.later(fault.seconds, None, self._go_on, process)
        elif fault.what in ("resize", "pause"):
            if process.pipeline is not None and not process.stopping:
                self.loop.later(0.0, process.owner, self._operate, process.pipeline, fault)
        elif fault.what == "end":
            self.loop.later(0.0, process.owner, process.ask_to_stop)
        else:
            process.network.down = self.loop.now + fault.seconds

    def _operate(self, pipeline: Pipeline, fault: Fault) -> None:
        if fault.what == "resize":
            pipeline.resize(self.draw.choice((1, 2, 5, 12)))
        else:
            pipeline.pauses.pause(Selection())
            self.loop.later(fault.seconds, self.loop.current, pipeline.pauses.resume, Selection())

    def _go_on(self, process: Process) -> None:
        if not process.owner.dead:
            self.say(f"process {process.number} goes on")
            self.loop.go_on(process.owner)

    def _expire(self) -> None:
        self.cluster.expire(SimTransactional.timeout)
        self.loop.later(5.0, None, self._expire)

    def _watch(self) -> None:
        """Once all is settled and committed: have every process stop."""
        faults_over = all(fault.at < self.loop.now - (fault.seconds if fault.what == "stop" else 0) for fault in self.plan.faults)
        if len(self.truth.by_offset) == len(self.plan.messages) and faults_over and not self.truth.unsettled and self._committed():
            self.done = True
            self._watch_end(self.loop.now + STOP_LIMIT)
            return
        self.loop.later(LOOK, None, self._watch)

    def _ask_to_stop(self) -> None:
        for process in self.processes.values():
            if not process.ended and process.pipeline is not None:
                self.loop.later(0.0, process.owner, process.ask_to_stop)

    def _committed(self) -> bool:
        for tp, messages in self.truth.messages.items():
            committed = self.cluster.committed.get(tp)
            if committed is None or committed.offset <= messages[-1].offset:
                return False
        return True

    def _watch_end(self, deadline: float) -> None:
        if all(process.ended for process in self.processes.values()):
            self.loop.over = True
        elif self.loop.now > deadline:
            self.broken(ViolationError("a process was asked to stop and does not end"))
        else:
            self._ask_to_stop()
            self.loop.later(LOOK, None, self._watch_end, deadline)

    # -- after each step

    def _check(self) -> None:
        for process in self.processes.values():
            pipeline = process.pipeline
            if pipeline is None or process.ended:
                continue
            ledger = pipeline._ledger
            if ledger.messages < 0 or ledger.bytes < 0:
                raise ViolationError(f"process {process.number} counts {ledger.messages} messages and {ledger.bytes} bytes")
            if ledger.messages > self.plan.buffer:
                raise ViolationError(f"process {process.number} holds {ledger.messages} messages, more than buffer.messages")


def _config(plan: Plan) -> Config:
    route: dict[str, Any] = {
        "topics": [SOURCE],
        "handler": "simulated:handler",
        "pass": "message",
        "output": OUTPUT,
        "order": plan.order,
        "dead_letter": DEAD,
        "retry": {
            "attempts": plan.attempts,
            "backoff": f"{plan.backoff}s",
            "jitter": 0.2,
            "topics": [f"{int(1000 * delay)}ms" for delay in plan.retry_topics],
        },
    }
    if plan.timeout:
        route["timeout"] = f"{plan.timeout}s"
    if plan.rate:
        route["rate"] = plan.rate
    if plan.batch:
        route["batch"] = {"max_messages": plan.batch, "max_wait": f"{plan.batch_wait}s", "by": plan.batch_by}
    return Config.model_validate(
        {
            "kafka": {"group": GROUP},
            "routes": {"route": route},
            "executor": plan.executor,
            "concurrency": plan.concurrency,
            "delivery": plan.delivery,
            "buffer": {"messages": plan.buffer},
            "commit": {"interval": f"{plan.commit}s", "map": plan.map},
            "rebalance": {"grace": f"{plan.grace}s"},
            "transaction": {"interval": f"{plan.transaction}s", "max_messages": plan.most},
        }
    )


@contextlib.contextmanager
def _at_this_scale() -> Iterator[None]:
    """Notes of a few kilobytes, and fewer looks at what nothing depends on: a schedule is to take
    milliseconds. A dead letter's stack trace does not look at each source file anew."""
    size = finished.HEAD_BYTES + 32 * finished.ENTRY.size + 2 * 64 * 8
    changes: list[Change] = [
        (finished, "ENTRIES", 32),
        (finished, "HALF", 64),
        (finished, "CROWDED", 48),
        (finished, "BYTES", size),
        (time_keeper, "INTERVAL", 0.1),
        (quarantine, "WRITE_INTERVAL", 5.0),
        (linecache, "checkcache", lambda filename=None: None),
    ]
    collects = gc.isenabled()
    gc.disable()
    try:
        with changed(changes):
            yield
    finally:
        if collects:
            gc.enable()


def simulate(plan: Plan, *, telling: bool = False) -> World:
    """Run the schedule of a plan. telling: its trace says what happens in it. Raises ViolationError,
    or what the product raised, with the world as its ``world``."""
    green.module("kafka.errors")  # what is imported while it runs would draw by chance
    draw = random.Random(plan.seed)
    random.seed(plan.seed)
    with _at_this_scale(), virtual(draw, shuffled=plan.shuffled, until=plan.limit) as loop:
        world = World(plan, loop, draw, telling=telling)
        try:
            world.begin()
            run(loop)
            if not world.done or not all(process.ended for process in world.processes.values()):
                left = ", ".join(map(str, world.truth.unsettled)) or "nothing, but not all is committed"
                raise ViolationError(f"after {loop.now:.0f} s it has not come to an end; left: {left}")
        except BaseException as error:
            error.world = world  # type: ignore[attr-defined]
            raise
        return world
