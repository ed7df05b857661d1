"""What somebody may write to a topic who means no good."""

from __future__ import annotations

import struct
import time
from typing import Any

import confluent_kafka
import pytest
import requests
import yaml

from tests.support.commands import gworkers
from tests.support.servers import configuration, consume, create_topic, produce, unique, until

ECHO = "def handle(value):\n    return value\n"


def bomb(kafka: str, topic: str, codec: str, megabytes: int = 30) -> None:
    """A batch of one message of so many megabytes of zeros, in partition 0."""
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": kafka,
            "compression.type": codec,
            "compression.level": 9 if codec == "gzip" else -1,
            "message.max.bytes": 500_000_000,
        }
    )
    producer.produce(topic, b"\0" * (megabytes << 20), partition=0)
    assert producer.flush(60) == 0


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd", "snappy"])
def test_a_batch_that_unpacks_to_more_than_there_is_room_for_holds_its_partition_alone(real_kafka: str, start: Any, codec: str) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=2, max_message_bytes="50000000")
    output = create_topic(real_kafka, unique("out"))
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(10)), partition=0)
    bomb(real_kafka, source, codec)
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(10, 20)), partition=0)
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(20, 40)), partition=1)
    config = configuration(real_kafka, "app:handle", source, output, buffer={"bytes": "8MiB"}, admin={"bind": "127.0.0.1:0"})
    config["kafka"]["consumer"] = {"max_partition_fetch_bytes": 50_000_000, "fetch_max_bytes": 50_000_000}
    server = start(config, app=ECHO)
    batch = rf"{source}\[0\]: the batch of the offsets 10 to 10 has [\d,]+ bytes and unpacks to more than 8,388,608"
    server.says(rf"{batch}, which buffer.bytes allows; the partition stands still there.*--topic {source}:0 --to-offset 11")
    until(lambda: len(consume(real_kafka, output)) == 30, what="all that can be read")
    time.sleep(2)
    assert server.log.count("unpacks to more than") == 1
    address = server.says(r"admin at (\S+)")[1]
    assert requests.get(f"http://{address}/healthz", timeout=5).json()["partitions_that_stand_still"] == [f"{source}[0]@10"]
    memory = max(int(line.split()[1]) for line in open(f"/proc/{server.process.pid}/status") if line.startswith("VmHWM"))
    assert memory < 150_000
    assert server.stop() == 0
    config["buffer"]["oversized"] = "skip"
    server = start(config, "--until-idle", "1s", app=ECHO)
    assert server.wait(30) == 0, server.log
    assert "it is passed over, as buffer.oversized says" in server.log
    assert sorted(int(m.value()) for m in consume(real_kafka, output)) == list(range(40))


def test_tens_of_thousands_of_headers(real_kafka: str, output: str, start: Any) -> None:
    source = create_topic(real_kafka, unique("in"))
    dead = create_topic(real_kafka, unique("dead"))
    produce(real_kafka, source, [(None, b"many")], headers=[(f"h{n}", b"v") for n in range(60_000)])
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(100)))
    app = "def handle(value):\n    if value == b'many':\n        raise ValueError('x')\n    return value\n"
    config = configuration(real_kafka, "app:handle", source, output, dead_letter=dead, retry={"attempts": 2, "backoff": "10ms"})
    server = start(config, "--until-idle", "1s", app=app)
    assert server.wait(60) == 0, server.log
    assert len(consume(real_kafka, output)) == 100
    assert [m.value() for m in consume(real_kafka, dead)] == [b"many"]


LIES = {
    "partition": b"99999999999",
    "offset": b"-5",
    "timestamp": b"9" * 400,
    "attempts": b"-1",
    "first-failure": b"\xff\xfe",
    "topic": b"../../bad topic\x1b[2J",
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_of_a_retry_topic_that_lie(real_kafka: str, source: str, output: str, start: Any, lie: str) -> None:
    dead = create_topic(real_kafka, unique("dead"))
    config = configuration(real_kafka, "app:handle", source, output, dead_letter=dead, retry={"attempts": 1, "topics": ["1s"]})
    retry = create_topic(real_kafka, f"{source}.retry.1s", retention_ms="604800000")
    told = {"group": config["kafka"]["group"].encode(), "attempts": b"1", "first-failure": b"1", "topic": source.encode()}
    told |= {"partition": b"0", "offset": b"7", "timestamp": b"1700000000000", lie: LIES[lie]}
    produce(real_kafka, retry, [(None, b"lies")], headers=[(f"gworkers-retry-{name}", value) for name, value in told.items()])
    produce(real_kafka, source, [(None, b"good")])
    app = "def handle(value):\n    if value == b'lies':\n        raise ValueError('x')\n    return value\n"
    server = start(config, "--until-idle", "2s", app=app)
    assert server.wait(60) == 0, server.log
    assert [m.value() for m in consume(real_kafka, output)] == [b"good"]
    assert [m.value() for m in consume(real_kafka, dead)] == [b"lies"]
    shown = gworkers("dead-letters", "show", f"{consume(real_kafka, dead)[0].partition()}@0", "-c", str(server.folder / "app.yaml"))
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout


def test_results_for_topics_that_nobody_makes_fail_alone(strict_kafka: str, start: Any) -> None:
    source, output, dead = (create_topic(strict_kafka, unique(name)) for name in ("in", "out", "dead"))
    app = "import gworkers\ndef handle(value):\n"
    app += "    return gworkers.Record(value, topic='nobody-' + value.decode()) if int(value) % 10 == 0 else value\n"
    produce(strict_kafka, source, ((b"%d" % n, b"%d" % n) for n in range(200)))
    config = configuration(strict_kafka, "app:handle", source, output, dead_letter=dead, buffer={"messages": 50})
    server = start(config, "--until-idle", "1s", app=app)
    assert server.wait(90) == 0, server.log
    assert sorted(int(m.value()) for m in consume(strict_kafka, output)) == [n for n in range(200) if n % 10]
    letters = consume(strict_kafka, dead)
    assert sorted(int(m.value()) for m in letters) == list(range(0, 200, 10))
    assert {dict(m.headers())["gworkers-reason"] for m in letters} == {b"refused"}


def letter(origin: bytes | None) -> list[tuple[str, bytes]]:
    headers = [("kafka_dlt-original-partition", struct.pack(">i", 0)), ("kafka_dlt-original-offset", struct.pack(">q", 0))]
    return [*headers, ("kafka_dlt-original-topic", origin)] if origin is not None else headers


def test_replay_goes_to_topics_of_the_configuration_and_a_bad_letter_costs_itself(
    real_kafka: str, source: str, output: str, start: Any, tmp_path: Any
) -> None:
    dead, victim = create_topic(real_kafka, unique("dead")), create_topic(real_kafka, unique("victim"))
    for number, origin in enumerate((source.encode(), b"bad topic", victim.encode(), None, b"\xff\x1b[2J", source.encode())):
        produce(real_kafka, dead, [(None, b"%d" % number)], headers=letter(origin), partition=0)
    (tmp_path / "app.py").write_text(ECHO)
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(configuration(real_kafka, "app:handle", source, output, dead_letter=dead)))
    dry = gworkers("dead-letters", "replay", "-c", "app.yaml", "--dry-run", folder=tmp_path)
    assert dry.stdout == f"2 to {source}\n2 dead letters would be sent\n"
    done = gworkers("dead-letters", "replay", "-c", "app.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"1 left out: they name the topic '{victim}', which no route consumes; name a topic with --to" in done.stderr
    assert "1 left out: they name the topic 'bad topic', which no route consumes" in done.stderr
    assert "1 left out: they do not say where they came from" in done.stderr
    assert "\x1b" not in done.stderr.replace("\x1b[?25", "")
    assert sorted(m.value() for m in consume(real_kafka, source)) == [b"0", b"5"]
    assert not consume(real_kafka, victim)
    again = gworkers("dead-letters", "replay", "-c", "app.yaml", "--to", victim, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert sorted(m.value() for m in consume(real_kafka, victim)) == [b"1", b"2", b"3", b"4"]


def test_no_command_lets_a_letter_write_to_the_terminal(real_kafka: str, source: str, tmp_path: Any) -> None:
    dead = create_topic(real_kafka, unique("dead"))
    evil = "\x1b[2J\x9b\u202e\n\u2028"
    names = ("gworkers-route", "gworkers-reason", "kafka_dlt-exception-fqcn", "kafka_dlt-exception-message", evil)
    headers = [*letter(source.encode()), *((name, evil.encode()) for name in names)]
    produce(real_kafka, dead, [(evil.encode(), evil.encode())], headers=headers, partition=0)
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(configuration(real_kafka, "app:handle", source, dead_letter=dead)))
    for command in ("ls", "ls --json", "count", "count --json", "show 0@0", "replay --dry-run"):
        done = gworkers("dead-letters", *command.split(), "-c", "app.yaml", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not set(done.stdout + done.stderr) & set("\x1b\x9b\u202e\u2028"), command
    raw = gworkers("dead-letters", "show", "0@0", "--raw", "-c", "app.yaml", folder=tmp_path)
    assert "\x1b[2J" in raw.stdout
    for command in ("", "--json"):
        done = gworkers("tail", dead, "--from", "beginning", "--no-follow", *command.split(), "-c", "app.yaml", folder=tmp_path)
        assert not set(done.stdout) & set("\x1b\x9b\u202e\u2028"), command
