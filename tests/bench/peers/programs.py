"""The peers that are written in Python, each in an environment of its own that has nothing but what it
needs: ``python programs.py NAME SETTINGS``, with SETTINGS as JSON.

Each consumes ``source`` for ever, calls ``handle`` with a value and sends what comes of it to
``output`` under the same key, at least once where it can, as its own documentation has it. What was
tuned beyond that is said in its docstring.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def handler(spec: str) -> Callable[[bytes], bytes]:
    """What handles a value. spec: none, sleep:MILLISECONDS or sha256:ROUNDS."""
    kind, _, number = spec.partition(":")
    if kind == "sleep":
        seconds = int(number) / 1000

        def wait(value: bytes) -> bytes:
            time.sleep(seconds)
            return value

        return wait
    if kind == "sha256":
        rounds = int(number)

        def digest(value: bytes) -> bytes:
            found = value
            for _ in range(rounds):
                found = hashlib.sha256(found).digest()
            return value[:32] + found

        return digest
    return lambda value: value


@dataclass(frozen=True)
class Settings:
    """handler: as ``handler`` takes it; concurrency: handlers at once."""

    servers: str
    source: str
    output: str
    group: str
    handler: str
    concurrency: int
    compression: str = "none"

    @property
    def handle(self) -> Callable[[bytes], bytes]:
        return handler(self.handler)


def kafka_python(s: Settings) -> None:
    """A loop: poll, handle, send, wait for what was sent of a poll, commit. Batches of the producer as
    large as ours."""
    import kafka

    handle = s.handle
    consumer, producer = _kafka_python(s)
    while True:
        for records in consumer.poll(timeout_ms=500, max_records=1000).values():
            for record in records:
                producer.send(s.output, handle(record.value), record.key)
            producer.flush()
        try:
            consumer.commit_async()
        except kafka.errors.KafkaError as error:
            print(error, file=sys.stderr)


def _kafka_python(s: Settings) -> tuple[Any, Any]:
    import kafka

    consumer = kafka.KafkaConsumer(
        s.source, bootstrap_servers=s.servers, group_id=s.group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    compression = None if s.compression == "none" else s.compression
    return consumer, kafka.KafkaProducer(bootstrap_servers=s.servers, batch_size=262_144, compression_type=compression)


def kafka_python_threads(s: Settings) -> None:
    """The same loop, with a pool of threads for the messages of a poll, which are waited for before
    the next; polls ten times as large as the pool, so that its end is seldom waited for."""
    from concurrent.futures import ThreadPoolExecutor

    handle, pool = s.handle, ThreadPoolExecutor(s.concurrency)
    consumer, producer = _kafka_python(s)
    while True:
        found = [r for records in consumer.poll(timeout_ms=500, max_records=10 * s.concurrency).values() for r in records]
        for record, value in zip(found, pool.map(handle, [r.value for r in found]), strict=True):
            producer.send(s.output, value, record.key)
        producer.flush()
        consumer.commit_async()


class _Window:
    """Which offsets of each partition are finished, for a loop with threads: as much of it as somebody
    writes by hand who knows that a commit is of all that is below."""

    def __init__(self) -> None:
        self._open: dict[int, dict[int, None]] = {}
        self._next: dict[int, int] = {}

    def begin(self, partition: int, offset: int) -> None:
        self._open.setdefault(partition, {})[offset] = None
        self._next[partition] = offset + 1

    def finish(self, partition: int, offset: int) -> None:
        del self._open[partition][offset]

    def committable(self) -> dict[int, int]:
        return {partition: next(iter(found), self._next[partition]) for partition, found in self._open.items()}


def confluent(s: Settings) -> None:
    """confluent-kafka: threads that take messages from a queue, and one that reads: it stops while as
    many wait as four times the threads, notes what is finished when its result is delivered, and
    commits every second."""
    import queue
    import threading

    import confluent_kafka

    handle = s.handle
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": s.servers,
            "group.id": s.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "queued.min.messages": 10_000,
        }
    )
    producer = confluent_kafka.Producer({"bootstrap.servers": s.servers, "linger.ms": 5, "compression.type": s.compression})
    consumer.subscribe([s.source])
    work: queue.SimpleQueue[Any] = queue.SimpleQueue()
    window, lock = _Window(), threading.Lock()
    waiting = [0]

    def run() -> None:
        while True:
            message = work.get()
            value = handle(message.value())
            partition, offset = message.partition(), message.offset()

            def delivered(error: Any, _: Any, partition: int = partition, offset: int = offset) -> None:
                assert error is None, error
                with lock:
                    window.finish(partition, offset)
                    waiting[0] -= 1

            while True:
                try:
                    producer.produce(s.output, value, message.key(), on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.01)

    for _ in range(s.concurrency):
        threading.Thread(target=run, daemon=True).start()
    last = time.monotonic()
    most = max(4 * s.concurrency, 20_000 if s.handler == "none" else 0)
    while True:
        producer.poll(0)
        room = most - waiting[0]
        messages = consumer.consume(min(room, 1000), timeout=0.05) if room > 0 else []
        if room <= 0:
            producer.poll(0.001)
        with lock:
            for message in messages:
                window.begin(message.partition(), message.offset())
            waiting[0] += len(messages)
        for message in messages:
            work.put(message)
        if time.monotonic() - last > 1:
            last = time.monotonic()
            with lock:
                found = window.committable()
            if found:
                consumer.commit(offsets=[confluent_kafka.TopicPartition(s.source, p, o) for p, o in found.items()], asynchronous=True)


def confluent_share(s: Settings) -> None:
    """confluent-kafka's share consumer (queues of Kafka 4.2): a batch is handled by a pool of threads,
    and its messages are accepted with the next poll."""
    from concurrent.futures import ThreadPoolExecutor

    import confluent_kafka
    from confluent_kafka import admin

    resource = admin.ConfigResource(
        admin.ConfigResource.Type.GROUP,
        s.group,
        incremental_configs=[
            admin.ConfigEntry("share.auto.offset.reset", "earliest", incremental_operation=admin.AlterConfigOpType.SET),
        ],
    )
    client = admin.AdminClient({"bootstrap.servers": s.servers})
    for future in client.incremental_alter_configs([resource]).values():
        future.result(10)
    handle, pool = s.handle, ThreadPoolExecutor(s.concurrency)
    producer = confluent_kafka.Producer({"bootstrap.servers": s.servers, "linger.ms": 5, "compression.type": s.compression})
    consumer = confluent_kafka.ShareConsumer({"bootstrap.servers": s.servers, "group.id": s.group})
    consumer.subscribe([s.source])
    while True:
        messages = [message for message in consumer.poll(0.5) if message.error() is None]
        for message, value in zip(messages, pool.map(handle, [message.value() for message in messages]), strict=True):
            while True:
                try:
                    producer.produce(s.output, value, message.key())
                    break
                except BufferError:
                    producer.poll(0.01)
        producer.flush()


def quixstreams(s: Settings) -> None:
    """Quix Streams: one message after the other, its own commits."""
    from quixstreams import Application

    app = Application(
        broker_address=s.servers,
        consumer_group=s.group,
        auto_offset_reset="earliest",
        loglevel="ERROR",
        producer_extra_config={"compression.type": s.compression},
    )
    source = app.topic(s.source, key_deserializer="bytes", value_deserializer="bytes")
    output = app.topic(s.output, key_serializer="bytes", value_serializer="bytes")
    app.dataframe(source).apply(s.handle).to_topic(output)
    app.run()


def aiokafka(s: Settings) -> None:
    """aiokafka: asyncio's loop, the synchronous handler in a pool of threads; the messages of a
    getmany are waited for, then committed."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    async def main() -> None:
        loop, handle, pool = asyncio.get_running_loop(), s.handle, ThreadPoolExecutor(s.concurrency)
        consumer = AIOKafkaConsumer(
            s.source, bootstrap_servers=s.servers, group_id=s.group, auto_offset_reset="earliest", enable_auto_commit=False
        )
        compression = None if s.compression == "none" else s.compression
        producer = AIOKafkaProducer(bootstrap_servers=s.servers, linger_ms=5, max_batch_size=262_144, compression_type=compression)
        await consumer.start()
        await producer.start()

        async def one(record: Any) -> Any:
            value = record.value if s.handler == "none" else await loop.run_in_executor(pool, handle, record.value)
            return await producer.send(s.output, value, record.key)

        while True:
            found = await consumer.getmany(timeout_ms=500, max_records=max(1000, 10 * s.concurrency))
            records = [record for records in found.values() for record in records]
            if records:
                await asyncio.gather(*await asyncio.gather(*map(one, records)))
                await consumer.commit()

    asyncio.run(main())


def faststream(s: Settings) -> None:
    """FastStream on aiokafka: a subscriber with as many workers, whose synchronous handler runs in a
    pool of threads. With several workers it takes no acknowledgement but before the handler
    (ACK_FIRST), so that what runs is lost by a crash."""
    import asyncio

    import anyio
    from faststream import AckPolicy, FastStream
    from faststream.kafka import KafkaBroker, KafkaMessage

    compression = None if s.compression == "none" else s.compression
    broker = KafkaBroker(s.servers, linger_ms=5, max_batch_size=262_144, compression_type=compression, logger=None)
    handle = s.handle

    if s.handler == "none":

        async def called(value: bytes) -> bytes:
            return value
    else:

        async def called(value: bytes) -> bytes:
            return await anyio.to_thread.run_sync(handle, value)

    @broker.subscriber(s.source, group_id=s.group, auto_offset_reset="earliest", max_workers=s.concurrency, ack_policy=AckPolicy.ACK_FIRST)
    async def on_message(body: bytes, message: KafkaMessage) -> None:
        record: Any = message.raw_message
        await broker.publish(await called(record.value), s.output, key=record.key)

    app = FastStream(broker, logger=None)

    @app.after_startup
    async def threads() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = s.concurrency

    asyncio.run(app.run())


def arroyo(s: Settings) -> None:
    """Arroyo: RunTaskInThreads, then Produce, then CommitOffsets."""
    from arroyo.backends.kafka import KafkaConsumer, KafkaPayload, KafkaProducer
    from arroyo.backends.kafka.configuration import build_kafka_configuration, build_kafka_consumer_configuration
    from arroyo.processing.processor import StreamProcessor
    from arroyo.processing.strategies import CommitOffsets, RunTask, RunTaskInThreads
    from arroyo.processing.strategies.abstract import ProcessingStrategyFactory
    from arroyo.processing.strategies.produce import Produce
    from arroyo.types import Topic

    handle = s.handle

    def run(message: Any) -> Any:
        payload = message.payload
        return KafkaPayload(payload.key, handle(payload.value), [])

    producer = KafkaProducer(
        build_kafka_configuration(
            default_config={}, bootstrap_servers=[s.servers], override_params={"linger.ms": 5, "compression.type": s.compression}
        )
    )

    class Factory(ProcessingStrategyFactory[Any]):
        def create_with_partitions(self, commit: Any, partitions: Any) -> Any:
            produce: Any = Produce(producer, Topic(s.output), CommitOffsets(commit))
            if s.handler == "none":
                return RunTask(run, produce)
            return RunTaskInThreads(run, s.concurrency, 4 * s.concurrency, produce)

    consumer = KafkaConsumer(
        build_kafka_consumer_configuration(
            default_config={}, bootstrap_servers=[s.servers], group_id=s.group, auto_offset_reset="earliest", strict_offset_reset=False
        )
    )
    StreamProcessor(consumer=consumer, topic=Topic(s.source), processor_factory=Factory()).run()


PROGRAMS: dict[str, Callable[[Settings], None]] = {
    "kafka-python": kafka_python,
    "kafka-python + threads": kafka_python_threads,
    "confluent-kafka + threads": confluent,
    "confluent-kafka share consumer": confluent_share,
    "quixstreams": quixstreams,
    "aiokafka": aiokafka,
    "FastStream": faststream,
    "Arroyo": arroyo,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](Settings(**json.loads(sys.argv[2])))
