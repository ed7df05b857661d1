"""One odd message, or one odd result, costs itself and nothing else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import kafka
import pytest

from gworkers.config.load import Loaded
from gworkers.config.schema import Config
from gworkers.kafka import green
from gworkers.kafka.clients import Clients
from gworkers.kafka.reading import read_lean
from tests.support.servers import ROOT, configuration, consume, create_topic, produce, unique

HOUR = 3_600_000


@pytest.fixture(params=["at-least-once", "exactly-once"])
def delivery(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"delivery": request.param}


def reasons(kafka_servers: str, dead: str) -> dict[bytes, bytes]:
    """The reason of each letter, by its value; fails when one is there twice."""
    letters = consume(kafka_servers, dead)
    found = {letter.value(): dict(letter.headers())["gworkers-reason"] for letter in letters}
    assert len(found) == len(letters)
    return found


ODD_RECORDS = [
    "headers=[('n', 'text')]",
    "headers=[('n', 5)]",
    "headers=[(b'n', b'x')]",
    "headers=[(5, b'x')]",
    "headers=['ab', 3]",
    "headers=3",
    "headers=[('\\ud800', b'x')]",
    "key=42",
    "key=['k']",
    "timestamp=1.5",
    "timestamp=True",
    "timestamp=2**70",
    "timestamp=-7",
    "partition='0'",
    "partition=True",
    "partition=-1",
    "partition=2**40",
    "topic='bad topic'",
    "topic=7",
    "topic='..'",
    "topic='x' * 250",
    "value=object()",
]


def test_a_record_that_kafka_cannot_take_is_one_dead_letter(
    real_kafka: str, source: str, output: str, start: Any, delivery: dict[str, Any]
) -> None:
    dead = create_topic(real_kafka, unique("dead"))
    produce(real_kafka, source, ((b"k%d" % n, b"%d" % n) for n in range(100)))
    odd = ",\n".join(f"    lambda: Record(**{{'value': b'x', **dict({text})}})" for text in ODD_RECORDS)
    app = f"from gworkers import Record\nODD = [\n{odd},\n]\ndef handle(value):\n    n = int(value)\n"
    app += "    return ODD[n]() if n < len(ODD) else [Record(value), Record(value)]\n"
    config = configuration(real_kafka, "app:handle", source, output, dead_letter=dead, order="key", **delivery)
    server = start(config, "--until-idle", "1s", app=app)
    assert server.wait() == 0, server.log
    assert reasons(real_kafka, dead) == {b"%d" % n: b"unencodable" for n in range(len(ODD_RECORDS))}
    wanted = sorted(b"%d" % n for n in range(len(ODD_RECORDS), 100) for _ in (1, 2))
    assert sorted(message.value() for message in consume(real_kafka, output)) == wanted
    assert "Traceback" not in server.log


def test_a_timestamp_that_the_output_refuses_costs_its_message_and_runs_no_other_again(
    real_kafka: str, start: Any, delivery: dict[str, Any], tmp_path: Path
) -> None:
    far = str(2**62)
    source = create_topic(real_kafka, unique("in"), partitions=1, message_timestamp_after_max_ms=far)
    output, dead = create_topic(real_kafka, unique("out"), partitions=1), create_topic(real_kafka, unique("dead"), partitions=1)
    now = int(time.time() * 1000)
    for n in range(40):
        produce(real_kafka, source, [(b"k%d" % (n % 7), b"%d" % n)], timestamp=now + (3 * HOUR if n in (5, 6, 23) else 0))
    app = "import os\ndef handle(value):\n    with open('calls', 'a') as f:\n        f.write(value.decode() + '\\n')\n    return value\n"
    config = configuration(real_kafka, "app:handle", source, output, dead_letter=dead, order="key", **delivery)
    server = start(config, "--until-idle", "1s", app=app)
    assert server.wait() == 0, server.log
    calls = (tmp_path / "calls").read_text().split()
    assert sorted(calls, key=int) == [str(n) for n in range(40)]
    assert reasons(real_kafka, dead) == dict.fromkeys((b"5", b"6", b"23"), b"refused")
    found = consume(real_kafka, output)
    assert sorted(int(message.value()) for message in found) == [n for n in range(40) if n not in (5, 6, 23)]
    by_key: dict[bytes, list[int]] = {}
    for message in found:
        by_key.setdefault(message.key(), []).append(int(message.value()))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


def test_a_letter_that_is_too_large_sheds_what_is_not_the_message(
    real_kafka: str, source: str, start: Any, delivery: dict[str, Any]
) -> None:
    dead = create_topic(real_kafka, unique("dead"))
    value = b"x" * 1_048_000
    produce(real_kafka, source, [(b"large", value), (b"small", b"1")], headers=[("own", b"y" * 100)])
    app = "def handle(value):\n    raise ValueError('no ' * 2000)\n"
    more = {"retry": {"attempts": 1}, **delivery}
    server = start(configuration(real_kafka, "app:handle", source, dead_letter=dead, **more), "--until-idle", "1s", app=app)
    assert server.wait() == 0, server.log
    letters = {message.key(): message for message in consume(real_kafka, dead)}
    assert letters[b"large"].value() == value
    told = dict(letters[b"large"].headers())
    assert told["gworkers-shed"].startswith(b"stacktrace")
    assert told["kafka_dlt-original-topic"] == source.encode()
    assert told["gworkers-reason"] == b"failed"
    whole = dict(letters[b"small"].headers())
    assert whole["own"] == b"y" * 100
    assert len(whole["kafka_dlt-exception-stacktrace"]) == 4096
    assert "gworkers-shed" not in whole


class Raw(str):
    """A header's name that encodes to bytes which are no UTF-8."""

    def encode(self, *arguments: Any) -> bytes:
        return b"caf\xe9 \xff"


def test_a_header_name_that_is_no_utf_8_is_carried_over_byte_for_byte(real_kafka: str, source: str, output: str, start: Any) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=real_kafka)
    for n in range(3):
        producer.send(source, b"%d" % n, headers=[(Raw("x"), b"1"), ("fine", b"")])
    producer.flush()
    producer.close()
    app = "def handle(message):\n    if message.value == b'2':\n        raise ValueError([name for name, _ in message.headers])\n"
    app += "    return message.value\n"
    dead = create_topic(real_kafka, unique("dead"))
    more = {"pass_": "message", "dead_letter": dead, "retry": {"attempts": 1}}
    server = start(configuration(real_kafka, "app:handle", source, output, **more), "--until-idle", "1s", app=app)
    assert server.wait() == 0, server.log
    config = Config.model_validate(configuration(real_kafka, "app:handle", source))
    reader = Clients(Loaded.of(config), real_kafka).reader()
    read_lean(reader)
    found = []
    for topic in (output, dead):
        tps = [green.module("kafka.structs").TopicPartition(topic, number) for number in reader.partitions_for_topic(topic)]
        reader.assign(tps)
        reader.seek_to_beginning(*tps)
        while not all(reader.position(tp) >= reader.end_offsets([tp])[tp] for tp in tps):
            for jobs in reader.poll(timeout_ms=500).values():
                found += [[(name.encode("utf-8", "surrogateescape"), value) for name, value in job.headers[:2]] for job in jobs]
    reader.close()
    assert found == [[(b"caf\xe9 \xff", b"1"), (b"fine", b"")]] * 3
    (letter,) = [one for one in server.log.splitlines() if "failed for good" in one]
    assert "caf\ufffd \ufffd" in letter


@pytest.mark.parametrize("codec", ["zstd", "snappy"])
def test_compression_whose_library_is_missing_is_a_sentence(real_kafka: str, output: str, start: Any, tmp_path: Path, codec: str) -> None:
    source = create_topic(real_kafka, unique("in"), compression_type=codec)
    produce(real_kafka, source, ((None, b"x" * 1000) for _ in range(100)))
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("zstandard", "snappy", "compression"):
        (hidden / f"{name}.py").write_text("raise ImportError('it is not installed here')\n")
    env = {"PYTHONPATH": f"{hidden}:{ROOT}"}
    server = start(configuration(real_kafka, "app:handle", source, output), env=env)
    assert server.wait(30) == 69, server.log
    assert f"messages cannot be uncompressed: UnsupportedCodecError: Libraries for {codec} compression codec not found" in server.log
    assert f"pip install 'gworkers[{codec}]'" in server.log
    assert "Traceback" not in server.log


def test_a_batch_that_cannot_be_read_ends_the_process_with_its_offset(real_kafka: str, source: str, start: Any) -> None:
    produce(real_kafka, source, ((None, b"1") for _ in range(10)))
    app = "from gworkers.kafka import reading\ndef handle(value):\n    return value\n"
    app += "def broken(batch, most):\n    raise MemoryError('as it was asked to')\nreading.read_records = broken\n"
    server = start(configuration(real_kafka, "app:handle", source), app=app)
    assert server.wait(30) == 70, server.log
    assert f"a batch in Kafka is damaged, and skipping it would lose messages: CorruptRecordError: {source}[" in server.log
    assert "cannot be read at offset 0: MemoryError: as it was asked to" in server.log
