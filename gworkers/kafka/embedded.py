"""The embedded broker: librdkafka's mock cluster, in a child process of the server.

It speaks Kafka's protocol well enough for a first look and for tests without Java: topics are made
when they are named, with four partitions; a group's first join takes three seconds; messages live
in memory and old ones are evicted. Nothing in it survives the process.

As a program (``python -m gworkers.kafka.embedded``) it is the child: it starts the cluster, sends
the sample files named in its argument, says in one line of JSON where it is, and ends when its
standard input does, so that it never outlives its parent.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What clients must be told, because the mock cluster does not say which version of Kafka it is.
API_VERSION = (2, 3)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running embedded broker. servers: host:port; sampled: messages it was fed, by topic."""

    process: Any
    servers: str
    sampled: dict[str, int]

    def stop(self) -> None:
        """End the child and wait until it has ended."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except Exception:
            self.process.kill()
            self.process.wait()


def samples_of(loaded: Any) -> list[dict[str, Any]]:
    """What ``start`` is to feed it, of a configuration (gworkers.config.load.Loaded)."""
    return [
        {"file": str(loaded.folder / sample.file), "topic": sample.topic, "key": sample.key}
        for sample in loaded.config.kafka.embedded.samples
    ]


def start(samples: list[dict[str, Any]]) -> Embedded:
    """Start the child and wait until it answers. Each sample has file, topic and key (a field's
    name or None).

    Raises UnavailableError, a sentence, when it cannot start, and ConfigError-like sentences for a
    sample that cannot be read.
    """
    from gevent import subprocess

    from gworkers.errors import UnavailableError

    process = subprocess.Popen(
        [sys.executable, "-m", "gworkers.kafka.embedded", json.dumps(samples)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C on the terminal is for the server, which still needs its broker to drain
    )
    line = process.stdout.readline()
    told: dict[str, Any] = json.loads(line) if line.strip() else {"error": f"it ended with status {process.wait()}"}
    if "error" in told:
        process.stdin.close()
        process.wait()
        raise UnavailableError(f"the embedded broker does not start: {told['error']}")
    return Embedded(process, told["servers"], told["sampled"])


def _feed(producer: Any, sample: dict[str, Any]) -> int:
    count = 0
    for number, line in enumerate(Path(sample["file"]).read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        key = None
        if sample["key"] is not None:
            try:
                key = str(json.loads(line)[sample["key"]])
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{sample['file']}:{number}: no JSON object with a field {sample['key']}") from None
        while True:
            try:
                producer.produce(sample["topic"], line, key)
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
    return count


def _main(samples: list[dict[str, Any]]) -> None:
    try:
        import confluent_kafka
    except ImportError:
        print(json.dumps({"error": "confluent-kafka, whose mock cluster it is, is not installed; pip install confluent-kafka"}))
        return
    try:
        producer = confluent_kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "", "log_level": 2})
        brokers = producer.list_topics(timeout=10).brokers.values()
        sampled: dict[str, int] = {}
        for sample in samples:
            sampled[sample["topic"]] = sampled.get(sample["topic"], 0) + _feed(producer, sample)
        producer.flush(30)
        servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        print(json.dumps({"servers": servers, "sampled": sampled}), flush=True)
    except OSError as error:
        print(json.dumps({"error": f"{error.filename}: {error.strerror}"}), flush=True)
        return
    except Exception as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    sys.stdin.buffer.read()  # until the parent closes it, or ends in whatever way


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else [])
