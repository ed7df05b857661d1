"""What five open pages cost the pipeline, and how soon a page is there while it is saturated.
``bin/bench page`` runs it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import requests

from tests.support import broker
from tests.support.servers import Running, configuration, create_topic, produce, unique, until

#: Of one measurement; together they end before the backlog does.
SECONDS = 4.0
ROUNDS = 4
MESSAGES = 5_000_000
#: What five people look at.
PAGES = ("", "messages", "partitions", "routes", "errors")
HANDLERS = {
    "does nothing": "def handle(value):\n    return value\n",
    "waits 20 ms": "import time\n\ndef handle(value):\n    time.sleep(0.02)\n    return value\n",
    "computes": (
        "import hashlib\n\ndef handle(value):\n    for _ in range(200):\n        value = hashlib.sha256(value).digest()\n    return value\n"
    ),
}


@contextmanager
def serving(servers: str, source: str, app: str) -> Iterator[str]:
    output = create_topic(servers, unique("page-out"))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(app)
        server = Running(Path(folder), configuration(servers, "app:handle", source, output, concurrency=64, admin={"bind": "127.0.0.1:0"}))
        try:
            address = server.says(r"admin at (\S+)")[1]
            until(lambda: done(address) > 0, 60, "the first message")
            yield address
        finally:
            server.close()


def done(address: str) -> int:
    return int(requests.get(f"http://{address}/status", timeout=30).json()["done"])


def rate(address: str) -> float:
    before, began = done(address), time.monotonic()
    time.sleep(SECONDS)
    return (done(address) - before) / (time.monotonic() - began)


@contextmanager
def watched(address: str) -> Iterator[list[int]]:
    """Five streams are read; how many events came."""
    events = [0]
    over = threading.Event()

    def read(page: str) -> None:
        with requests.get(f"http://{address}/page/live?screen={page}", stream=True, timeout=30) as answer:
            for line in answer.iter_lines():
                events[0] += line == b"event: live"
                if over.is_set():
                    return

    threads = [threading.Thread(target=read, args=(page,)) for page in PAGES]
    for thread in threads:
        thread.start()
    try:
        yield events
    finally:
        over.set()
        for thread in threads:
            thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/bench page", description=__doc__)
    parser.parse_args()
    kafka = broker.Kafka()
    kafka.start()
    try:
        source = create_topic(kafka.servers, unique("page-in"))
        produce(kafka.servers, source, ((None, b"x" * 100) for _ in range(MESSAGES)))
        print("| handler, 64 at once | without | five pages open | ratio | first page p50, p99 |\n|---|---|---|---|---|")
        for name, app in HANDLERS.items():
            with serving(kafka.servers, source, app) as address:
                requests.get(f"http://{address}/page/", timeout=30)  # the templates are compiled once
                alone, together, first = [], [], []
                for _ in range(ROUNDS):
                    alone.append(rate(address))
                    with watched(address) as events:
                        together.append(rate(address))
                    for _ in range(10):
                        began = time.monotonic()
                        assert requests.get(f"http://{address}/page/", timeout=30).ok
                        first.append(time.monotonic() - began)
                    assert events[0] >= len(PAGES)
                assert done(address) < MESSAGES, "the backlog has ended under it"
                cells = f"{median(alone):,.0f}/s | {median(together):,.0f}/s | {median(together) / median(alone):.3f}"
                p99 = quantiles(first, n=100)[98]
                print(f"| {name} | {cells} | {1000 * median(first):.0f} ms, {1000 * p99:.0f} ms |", flush=True)
    finally:
        kafka.stop()
    return 0


if __name__ == "__main__":
    broker.close_when_asked_to_end()
    sys.exit(main())
