"""A server in a process of its own, with its configuration, application and topics, for tests to
drive and look at."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import confluent_kafka
import requests
import yaml
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client.parser import text_string_to_metric_families

from gworkers.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = False  # whether the tests run on the embedded broker

#: For programs that import the checkout from another folder.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}

_names = itertools.count()


def unique(word: str) -> str:
    """A name that nobody else uses, on this broker or elsewhere."""
    return f"{word}-{os.getpid()}-{next(_names)}"


def until(condition: Callable[[], Any], timeout: float = 30, what: str = "the condition") -> Any:
    """Wait for a condition; its value, when it is true. Fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {timeout} s; last value {value!r}")
        time.sleep(0.02)


def create_topic(kafka: str, name: str, partitions: int = 4, copies: int = 1, **config: str) -> str:
    admin = AdminClient({"bootstrap.servers": kafka})
    topic = NewTopic(name, partitions, copies, config={key.replace("_", "."): value for key, value in config.items()})
    for future in admin.create_topics([topic]).values():
        future.result(10)
    until(lambda: len(admin.list_topics(name, timeout=5).topics[name].partitions) == partitions, what=f"topic {name}")
    return name


def produce(kafka: str, topic: str, messages: Iterable[tuple[bytes | None, bytes | None]], **options: Any) -> int:
    """Send (key, value) pairs, with Kafka's own partitioning; returns how many."""
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": kafka,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "queue.buffering.max.messages": 2_000_000,
            "message.max.bytes": 2**21,
        }
    )
    count = 0
    for key, value in messages:
        producer.produce(topic, value, key, **options)
        count += 1
        if not count % 1000:
            producer.poll(0)
    assert producer.flush(60) == 0
    return count


def consume(kafka: str, topic: str, count: int | None = None, timeout: float = 30, isolation: str = "read_committed") -> list[Any]:
    """Messages of a topic from its beginning, in the order of each partition: ``count`` of them, or
    all that are there now.

    An independent client, librdkafka, reads them.
    """
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": unique("reader"),
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        meta = until(lambda: consumer.list_topics(topic, timeout=5).topics[topic].partitions, what=f"topic {topic}")
        consumer.assign([confluent_kafka.TopicPartition(topic, number, confluent_kafka.OFFSET_BEGINNING) for number in meta])
        found: list[Any] = []
        ended: set[int] = set()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and (len(found) < count if count is not None else len(ended) < len(meta)):
            for message in consumer.consume(1000, 0.1):
                error, partition = message.error(), message.partition()
                assert partition is not None
                if error is None:
                    found.append(message)
                    ended.discard(partition)
                elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    ended.add(partition)
        return found
    finally:
        consumer.close()


def more_than(kafka: str, topic: str, count: int, isolation: str = "read_committed") -> None:
    """Wait until a topic has more than ``count`` messages."""
    until(lambda: len(consume(kafka, topic, timeout=1, isolation=isolation)) > count, what=f"more than {count} messages in {topic}")


def committed(kafka: str, group: str, topic: str, partitions: int = 4) -> dict[int, int]:
    """The group's committed offsets; -1001 where there is none."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": kafka, "group.id": group})
    try:
        found = consumer.committed([confluent_kafka.TopicPartition(topic, number) for number in range(partitions)], timeout=10)
        return {tp.partition: tp.offset for tp in found}
    finally:
        consumer.close()


class Running:
    """A server process. ``log`` is what it has said on standard error so far."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any] | str,
        arguments: Iterable[str] = (),
        env: dict[str, str] | None = None,
        name: str = "app.yaml",
    ) -> None:
        self.folder = folder
        self.file = folder / name
        self.file.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
        self._log = folder / f"log-{next(_names)}"
        self._sink = open(self._log, "wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gworkers", "run", "-c", str(self.file), *arguments],
            stdout=self._sink,
            stderr=self._sink,
            cwd=folder,
            env={**ENVIRONMENT, **(env or {})},
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def says(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        """Wait until a line of the log matches."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.log)
            if found is None and self.process.poll() is not None:
                found = re.search(pattern, self.log)
                assert found, f"it ended with {self.process.returncode} and never said {pattern!r}:\n{self.log[-3000:]}"
            return found

        try:
            match: re.Match[str] = until(look, timeout, f"{pattern!r} in the log")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-3000:]}") from None
        return match

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        """Its exit status, when it ends by itself."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.log[-3000:]}") from None

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM, and its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def close(self) -> None:
        """Make sure that it is gone, and what its handlers have left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the session is its own
        self.process.wait()
        self._sink.close()

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024


def workers_of(pid: int) -> list[int]:
    """The processes that a master has started; they have sessions of their own."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def metric(address: str, name: str, headers: dict[str, str] | None = None, **labels: str) -> float:
    """The sum of a figure's values with these labels; 0 while there are none."""
    text = requests.get(f"http://{address}/metrics", headers=headers, timeout=5).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def configuration(kafka: str, handler: str, source: str, output: str | None = None, **more: Any) -> dict[str, Any]:
    """A configuration with one route. more: keys of the route, or with a dotted name of other
    sections."""
    route: dict[str, Any] = {"topics": [source], "handler": handler}
    if output is not None:
        route["output"] = output
    config: dict[str, Any] = {
        "kafka": {"bootstrap_servers": kafka, "group": unique("group")},
        "concurrency": 8,
        "commit": {"interval": "200ms"},
        "routes": {"main": route},
    }
    if EMBEDDED:
        config["kafka"]["client"] = {"api_version": [2, 3]}
    for key, value in more.items():
        if key in Config.model_fields and isinstance(value, dict) and isinstance(config.get(key), dict):
            config[key].update(value)
        elif key in Config.model_fields:
            config[key] = value
        else:
            route["pass" if key == "pass_" else key] = value
    return config


def values(messages: Iterable[Any]) -> list[Any]:
    return [json.loads(message.value()) for message in messages]
