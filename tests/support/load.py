"""A steady load on a topic while a test does something to its servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import confluent_kafka


@contextmanager
def load(kafka: str, topic: str, rate: int, message: Callable[[int], tuple[str, str | bytes]]) -> Iterator[list[int]]:
    """``rate`` messages a second, made of their numbers as key and value; yields a list of one number,
    how many were sent."""
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka, "linger.ms": 2, "enable.idempotence": True})
    over = threading.Event()
    sent = [0]

    def run() -> None:
        begun = time.monotonic()
        while not over.wait(0.005):
            while sent[0] < (time.monotonic() - begun) * rate:
                key, value = message(sent[0])
                producer.produce(topic, value, key)
                sent[0] += 1
            producer.poll(0)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()
        assert producer.flush(30) == 0
