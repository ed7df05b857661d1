"""What a process that is killed leaves to be done again: what was running, and not what had finished
since the last commit."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient

from tests.support.load import load
from tests.support.servers import committed, configuration, consume, create_topic, produce, unique, until

CONCURRENCY = 64
ECHO = "import time\ndef handle(value):\n    time.sleep(0.005)\n    return value\n"
#: Each call leaves a line, written at once.
NOTED = """
import os, time
file = os.open({ran!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def handle(value):
    time.sleep(0.002)
    os.write(file, value + b"\\n")
    return value
"""


@pytest.mark.parametrize("state", ["state_dir", "no state_dir"])
def test_five_kills_under_load_repeat_what_was_running(
    real_kafka: str, source: str, output: str, start: Any, state: str, tmp_path: Path
) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    config = configuration(real_kafka, "app:handle", source, output, concurrency=CONCURRENCY, order="key", commit={"interval": "5s"})
    if state == "state_dir":
        config["state_dir"] = str(tmp_path / "state")
    kills = 5
    draw = random.Random(7)
    with load(real_kafka, source, 3000, lambda n: (f"key-{n % 1000}", str(n))) as sent:
        server = start(config, app=ECHO, env=environment)
        for _ in range(kills):
            server.says("assigned: ")
            time.sleep(draw.uniform(1.5, 3.0))  # under load, at any moment
            server.signal(signal.SIGKILL)
            server.wait()
            server = start(config, app=ECHO, env=environment)
        server.says("assigned: ")
    until(lambda: len({m.value() for m in consume(real_kafka, output)}) == sent[0], 60, "everything")
    assert server.stop() == 0
    times = Counter(m.value() for m in consume(real_kafka, output))
    # Beside what ran there are results that were out: the broker had them, and had not said so yet.
    assert sum(times.values()) - len(times) <= kills * 4 * CONCURRENCY
    assert not list(tmp_path.rglob("finished.*.5")), "the one that ended well has left its notes"


def ran(path: Path) -> Counter[str]:
    return Counter(path.read_text().split()) if path.exists() else Counter()


@pytest.fixture
def killed(real_kafka: str, start: Any, tmp_path: Path) -> Any:
    """A server that has committed something, has finished more, and was killed: its configuration, its
    application, where its calls are, its topic."""
    source = create_topic(real_kafka, unique("in"), partitions=1)
    file = tmp_path / "ran"
    app = NOTED.format(ran=str(file))
    config = configuration(real_kafka, "app:handle", source, state_dir=str(tmp_path / "state"), commit={"interval": "1s"})
    config["kafka"]["consumer"] = {"session_timeout_ms": 6000}  # no offsets are reset while the group has members
    server = start(config, app=app)
    server.says("assigned: ")
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(500)))
    until(lambda: committed(real_kafka, config["kafka"]["group"], source, 1)[0] == 500, what="the commit")
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(500, 800)))
    until(lambda: len(ran(file)) == 800, what="the calls")
    time.sleep(0.05)  # for the last of them to be settled
    server.signal(signal.SIGKILL)
    server.wait()
    assert committed(real_kafka, config["kafka"]["group"], source, 1)[0] == 500, "a commit came in between: the test says nothing"
    return config, app, file, source


def reset(kafka: str, config: Any, topic: str, offset: int) -> None:
    """As kafka-consumer-groups does."""
    group = config["kafka"]["group"]
    admin = AdminClient({"bootstrap.servers": kafka})
    tp = confluent_kafka.TopicPartition(topic, 0, offset)
    wanted = [confluent_kafka.ConsumerGroupTopicPartitions(group, [tp])]
    until(lambda: _altered(admin, wanted), 60, "the reset")


def _altered(admin: AdminClient, wanted: Any) -> bool:
    try:
        for future in admin.alter_consumer_group_offsets(wanted).values():
            if any(tp.error is not None for tp in future.result(10).topic_partitions):
                return False
    except confluent_kafka.KafkaException:  # the dead member is still in the group
        return False
    return True


def test_what_had_finished_does_not_run_again(real_kafka: str, killed: Any, start: Any) -> None:
    config, app, file, source = killed
    server = start(config, "--until-idle", "1s", app=app)
    assert server.wait() == 0
    assert ran(file) == Counter({str(n): 1 for n in range(800)})
    assert committed(real_kafka, config["kafka"]["group"], source, 1)[0] == 800
    assert "300 messages beyond it are finished already" in server.log


def test_two_that_die_before_they_commit_lose_nothing_of_it(real_kafka: str, killed: Any, start: Any) -> None:
    config, app, file, source = killed
    config["commit"] = {"interval": "1h"}
    for number in range(2):
        server = start(config, app=app)
        server.says("assigned: ")
        produce(real_kafka, source, ((None, b"%d" % n) for n in range(800 + 100 * number, 900 + 100 * number)))
        until(lambda number=number: len(ran(file)) == 900 + 100 * number, what="the calls")  # type: ignore[misc]
        time.sleep(0.05)
        server.signal(signal.SIGKILL)
        server.wait()
    assert start(config, "--until-idle", "1s", app=app).wait() == 0
    assert ran(file) == Counter({str(n): 1 for n in range(1000)})


@pytest.mark.parametrize("offset", [100, 600])
def test_a_reset_by_hand_is_not_overruled(real_kafka: str, killed: Any, start: Any, offset: int) -> None:
    config, app, file, source = killed
    reset(real_kafka, config, source, offset)
    assert start(config, "--until-idle", "1s", app=app).wait() == 0
    assert ran(file) == Counter({str(n): 2 if n >= offset else 1 for n in range(800)})


def test_a_topic_made_anew_begins_at_its_beginning(real_kafka: str, killed: Any, start: Any) -> None:
    config, app, file, source = killed
    admin = AdminClient({"bootstrap.servers": real_kafka})
    admin.delete_topics([source])[source].result(10)
    until(lambda: source not in admin.list_topics(timeout=5).topics, 30, "the deletion")
    create_topic(real_kafka, source, partitions=1)
    produce(real_kafka, source, ((None, b"new-%d" % n) for n in range(900)))
    assert start(config, "--until-idle", "1s", app=app).wait() == 0
    assert not [n for n in range(900) if ran(file)[f"new-{n}"] != 1]


@pytest.mark.parametrize("content", [b"", b"\0" * 2_000_000, b"gwfinish" + b"\xff" * 2_000_000, "garbage"])
def test_notes_that_are_damaged_cost_no_more_than_themselves(
    real_kafka: str, killed: Any, start: Any, content: bytes | str, tmp_path: Path
) -> None:
    config, app, file, _ = killed
    (path,) = (tmp_path / "state").rglob("finished.*")
    if isinstance(content, str):
        whole = bytearray(path.read_bytes())
        draw = random.Random(3)
        whole[64:] = draw.randbytes(len(whole) - 64)
        content = bytes(whole)
    path.write_bytes(content)
    server = start(config, "--until-idle", "1s", app=app)
    assert server.wait() == 0, server.log
    assert len(ran(file)) == 800
    assert "Traceback" not in server.log
