"""Order, offsets and rebalances: what holds when servers come, go, die and fall behind."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from gworkers.offsets import offset_map
from tests.chaos.proxy import Proxy
from tests.support import broker
from tests.support.commands import gworkers
from tests.support.servers import committed, configuration, consume, create_topic, metric, produce, unique, until

STUCK = """
import os, time
def handle(value):
    while value == b"stuck" and not os.path.exists("go-on"):
        time.sleep(0.01)
    return value
"""


# confluent-kafka counts metadata in characters where its bytes are wanted, so the ordinary
# kafka-python reads and writes it here.


def commit(kafka: str, group: str, topic: str, partition: int, offset: int, metadata: str) -> None:
    """Commit as another program would."""
    consumer = KafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    consumer.assign([TopicPartition(topic, partition)])
    consumer.commit({TopicPartition(topic, partition): OffsetAndMetadata(offset, metadata, -1)})
    consumer.close(autocommit=False)


def metadata_of(kafka: str, group: str, topic: str, partition: int) -> tuple[int, str]:
    consumer = KafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    found = consumer.committed(TopicPartition(topic, partition), metadata=True)
    consumer.close(autocommit=False)
    return (found.offset, found.metadata) if found is not None else (-1, "")


def lag(file: Any, *arguments: str) -> str:
    done = gworkers("lag", "-c", str(file), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_was_finished_before_a_commit_is_not_run_again_after_a_kill(real_kafka: str, output: str, start: Any) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=1)
    values = [b"stuck", *(b"%d" % n for n in range(2000)), b"stuck", *(b"%d" % n for n in range(2000, 4000))]
    produce(real_kafka, source, ((None, value) for value in values))
    config = configuration(real_kafka, "app:handle", source, output, concurrency=16)
    config["kafka"]["consumer"] = {"session_timeout_ms": 3000, "heartbeat_interval_ms": 500}
    server = start(config, app=STUCK)
    until(lambda: len(consume(real_kafka, output)) == 4000)

    def all_committed() -> bool:
        offset, metadata = metadata_of(real_kafka, config["kafka"]["group"], source, 0)
        found = offset_map.decode(offset, metadata) if offset == 0 and metadata else None
        return found == offset_map.OffsetMap(4002, (0, 2001))

    until(all_committed, what="a commit that knows all of it")
    shown = lag(server.file, "--map")
    assert "0@0 unfinished, " in shown
    assert "0@2001 unfinished, " in shown
    (row,) = [json.loads(line) for line in lag(server.file, "--json").splitlines()]
    assert (row["committed"], row["end"], row["left"], row["ahead"]) == (0, 4002, 2, 4000)
    server.signal(signal.SIGKILL)
    server.wait()
    (server.folder / "go-on").touch()
    again = start(config, "--until-idle", "300ms", app=STUCK)
    assert again.wait() == 0, again.log
    assert f"{source}[0] begins at 0; 4000 messages beyond it are finished already and do not run again" in again.log
    assert sorted(m.value() for m in consume(real_kafka, output)) == sorted(values)
    assert metadata_of(real_kafka, config["kafka"]["group"], source, 0) == (4002, "")


def test_without_the_map_offsets_are_plain(real_kafka: str, output: str, start: Any) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=1)
    produce(real_kafka, source, [(None, b"stuck"), *((None, b"%d" % n) for n in range(100))])
    config = configuration(real_kafka, "app:handle", source, output, commit={"map": False, "interval": "50ms"})
    server = start(config, app=STUCK)
    until(lambda: len(consume(real_kafka, output)) == 100)
    server.signal(signal.SIGTERM)
    (server.folder / "go-on").touch()
    assert server.wait() == 0
    assert metadata_of(real_kafka, config["kafka"]["group"], source, 0) == (101, "")


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ("leader=3", "it is another program's"),
        ("gw9" + "\u4e00" * 10, "it is a newer version's (gw9)"),
        ((offset_map.encode(5, [5, 7], 500) or "")[:-2], "it is damaged or cut off"),
        (offset_map.encode(7, [7, 9], 18) or "", "it was written for offset 7, and whoever moved the commit took it along"),
        (offset_map.encode(5, [5, 7], 18, b"x" * 16) or "", "it was written for another topic of this name"),
        (offset_map.encode(5, [7], 21) or "", "it reaches beyond the end of the log, 20"),
        (offset_map.encode(5, [5], 2**40) or "", "it reaches beyond the end of the log, 20"),
    ],
)
def test_metadata_that_is_no_map_is_said_once_and_nothing_is_skipped(
    real_kafka: str, output: str, start: Any, metadata: str, why: str
) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=1)
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(20)))
    config = configuration(real_kafka, "app:handle", source, output)
    commit(real_kafka, config["kafka"]["group"], source, 0, 5, metadata)
    server = start(config, "--until-idle", "300ms")
    assert server.wait() == 0
    assert server.log.count(f"carries metadata that is no map of finished offsets for it ({why}") == 1
    assert sorted(int(m.value()) for m in consume(real_kafka, output)) == list(range(5, 20))


@pytest.mark.parametrize("committed", [10, 500], ids=["deleted by retention", "beyond the end"])
def test_what_latest_passes_over_is_said(real_kafka: str, output: str, start: Any, committed: int) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=1)
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(100)))
    config = configuration(real_kafka, "app:handle", source, output)
    config["kafka"]["consumer"] = {"auto_offset_reset": "latest"}
    commit(real_kafka, config["kafka"]["group"], source, 0, committed, "")
    admin = AdminClient({"bootstrap.servers": real_kafka})
    (future,) = admin.delete_records([confluent_kafka.TopicPartition(source, 0, 50)]).values()
    future.result(10)
    server = start(config)
    server.says(
        rf"{source}\[0\]: the group's offset {committed} was out of range, and kafka.consumer.auto_offset_reset is latest: "
        r"the 50 messages from 50 to 99 are not handled"
    )
    produce(real_kafka, source, [(None, b"new")])
    assert [m.value() for m in until(lambda: consume(real_kafka, output), what="the result")] == [b"new"]
    assert server.stop() == 0


def test_what_retention_has_deleted_is_said(real_kafka: str, output: str, start: Any) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=1)
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(100)))
    config = configuration(real_kafka, "app:handle", source, output)
    known = offset_map.encode(10, [10, 20, 60, 70], 80)
    assert known
    commit(real_kafka, config["kafka"]["group"], source, 0, 10, known)
    admin = AdminClient({"bootstrap.servers": real_kafka})
    (future,) = admin.delete_records([confluent_kafka.TopicPartition(source, 0, 50)]).values()
    future.result(10)
    server = start(config, "--until-idle", "300ms")
    assert server.wait() == 0
    server.says(rf"{source}\[0\]: retention has deleted the offsets from 10 to 49 before their messages were handled; it goes on at 50")
    assert sorted(int(m.value()) for m in consume(real_kafka, output)) == [60, 70, *range(80, 100)]
    assert metadata_of(real_kafka, config["kafka"]["group"], source, 0) == (100, "")


def test_offsets_that_were_set_back_are_run_again(real_kafka: str, output: str, start: Any) -> None:
    source = create_topic(real_kafka, unique("in"), partitions=1)
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(50)))
    config = configuration(real_kafka, "app:handle", source, output)
    assert start(config, "--until-idle", "300ms").wait() == 0
    commit(real_kafka, config["kafka"]["group"], source, 0, 40, "")
    assert start(config, "--until-idle", "300ms").wait() == 0
    assert sorted(int(m.value()) for m in consume(real_kafka, output)) == sorted([*range(50), *range(40, 50)])


def test_a_topic_written_in_transactions_comes_to_its_end(real_kafka: str, output: str, start: Any) -> None:
    """Commit and abort markers take offsets that no message ever has."""
    source = create_topic(real_kafka, unique("in"), partitions=1)
    producer = confluent_kafka.Producer({"bootstrap.servers": real_kafka, "transactional.id": unique("tx")})
    producer.init_transactions()
    for number in range(6):
        producer.begin_transaction()
        producer.produce(source, b"%d" % number)
        producer.flush()
        (producer.abort_transaction if number % 2 else producer.commit_transaction)()
    config = configuration(real_kafka, "app:handle", source, output)
    config["kafka"]["consumer"] = {"isolation_level": "read_committed"}
    server = start(config, "--until-idle", "300ms")
    assert server.wait() == 0
    assert sorted(int(m.value()) for m in consume(real_kafka, output)) == [0, 2, 4]
    assert committed(real_kafka, config["kafka"]["group"], source, 1) == {0: 12}


def test_a_completion_of_a_revoked_assignment_sends_nothing(real_kafka: str, source: str, output: str, start: Any) -> None:
    """A handler outlasts rebalance.grace: its partition goes to another member, which runs the
    message again; only that result counts."""
    app = """
import json, os, time
def handle(value):
    mark = "begun-" + value.decode()
    first = not os.path.exists(mark)
    open(mark, "w").close()
    while first and not os.path.exists("go-on"):
        time.sleep(0.01)
    return json.dumps({"id": int(value), "first": first}).encode()
"""
    for number in range(4):
        produce(real_kafka, source, [(None, b"%d" % number)], partition=number)
    config = configuration(real_kafka, "app:handle", source, output, rebalance={"grace": "300ms"}, admin={"bind": "127.0.0.1:0"})
    first = start(config, app=app)
    until(lambda: all((first.folder / f"begun-{n}").exists() for n in range(4)))
    second = start(config, app=app)
    first.says(r"revoked: .*; 2 messages were still running")
    until(lambda: len(consume(real_kafka, output)) == 2, what="the results of the new owner")
    (first.folder / "go-on").touch()
    until(lambda: len(consume(real_kafka, output)) == 4)
    address = first.says(r"admin at (\S+)")[1]
    until(lambda: metric(address, "gworkers_fenced_messages_total") == 2)
    for server in (first, second):
        assert server.stop() == 0
    found = [json.loads(m.value()) for m in consume(real_kafka, output)]
    assert sorted(value["id"] for value in found) == [0, 1, 2, 3]
    assert sorted(value["first"] for value in found) == [False, False, True, True]


@pytest.mark.parametrize("assignor", ["range", "sticky", "cooperative-sticky"])
def test_what_outlasts_a_rebalance_runs_again_whoever_gets_its_partition(real_kafka: str, output: str, start: Any, assignor: str) -> None:
    """With assignors that give all partitions up, one comes back to the process that had it, which has
    read past what was not finished."""
    app = """
import os, time
def handle(value):
    mark = "begun-" + value.decode()
    first = not os.path.exists(mark)
    open(mark, "w").close()
    while first and value.startswith(b"slow") and not os.path.exists("go-on"):
        time.sleep(0.01)
    return value
"""
    source = create_topic(real_kafka, unique("in"), 2)
    values = [b"slow 0", b"a", b"slow 1", b"b"]
    produce(real_kafka, source, [(None, value) for value in values[:2]], partition=0)
    produce(real_kafka, source, [(None, value) for value in values[2:]], partition=1)
    config = configuration(real_kafka, "app:handle", source, output, rebalance={"grace": "300ms"})
    config["kafka"]["consumer"] = {"partition_assignment_strategy": [assignor]}
    first = start(config, app=app)
    until(lambda: all((first.folder / f"begun-{value.decode()}").exists() for value in values))
    second = start(config, app=app)
    first.says(r"revoked: .*were still running|revoked: .*1 messages? w")
    second.says("assigned: ")
    (first.folder / "go-on").touch()
    until(lambda: {m.value() for m in consume(real_kafka, output)} == set(values), what="the results of all")
    for server in (first, second):
        assert server.stop() == 0


def test_partitions_that_stay_are_not_disturbed(real_kafka: str, source: str, output: str, start: Any) -> None:
    config = configuration(real_kafka, "app:handle", source, output)
    first = start(config)
    first.says(r"assigned: .*\[0-3\]")
    second = start(config)
    gone = first.says(r"revoked: \S+\[(\d),(\d)\]")
    second.says(rf"assigned: \S+\[{gone[1]},{gone[2]}\]")
    assert first.log.count("assigned: ") == 1, "what stayed was taken away and given back"
    for server in (first, second):
        assert server.stop() == 0


def test_all_partitions_go_on_after_rebalances(real_kafka: str, output: str, start: Any) -> None:
    """Members join and leave while there is load; afterwards every partition is still read
    (Parallel Consumer's issue 857)."""
    source = create_topic(real_kafka, unique("in"), partitions=6)
    config = configuration(real_kafka, "app:handle", source, output)
    stays = start(config)
    stays.says("assigned: ")
    sent = 0
    for _ in range(3):
        leaves = start(config)
        leaves.says("assigned: ")
        produce(real_kafka, source, ((b"k%d" % n, b"%d" % n) for n in range(sent, sent + 200)))
        sent += 200
        assert leaves.stop() == 0
    for number in range(6):
        produce(real_kafka, source, [(None, b"%d" % (sent + number))], partition=number)
    sent += 6
    until(lambda: len(consume(real_kafka, output)) >= sent, what="all messages")
    assert stays.stop() == 0
    assert sorted(int(m.value()) for m in consume(real_kafka, output)) == list(range(sent)), "some came twice (777) or never (875)"


def test_a_poison_pill_does_not_stop_its_partition(kafka_servers: str, output: str, start: Any) -> None:
    """A message that always fails is put aside; those behind it, its own key's too, go on (Parallel
    Consumer's issue 550)."""
    source, dead = create_topic(kafka_servers, unique("in"), partitions=1), create_topic(kafka_servers, unique("dead"))
    produce(kafka_servers, source, ((b"k", b"poison" if n == 3 else b"%d" % n) for n in range(10)))
    app = "def handle(value):\n    int(value)\n    return value\n"
    retry = {"attempts": 3, "backoff": "10ms"}
    config = configuration(kafka_servers, "app:handle", source, output, order="key", retry=retry, dead_letter=dead)
    assert start(config, "--until-idle", "300ms", app=app).wait() == 0
    assert [int(m.value()) for m in consume(kafka_servers, output)] == [n for n in range(10) if n != 3]
    assert [m.value() for m in consume(kafka_servers, dead)] == [b"poison"]


def test_a_static_member_comes_back_without_a_rebalance(real_kafka: str, source: str, output: str, start: Any) -> None:
    config = configuration(real_kafka, "app:handle", source, output)
    config["kafka"]["group_instance_id"] = "first-%(host)s-%(process)s"
    other = json.loads(json.dumps(config))
    other["kafka"]["group_instance_id"] = "second"
    first = start(config)
    first.says(r"assigned: .*\[0-3\]")
    second = start(other, name="other.yaml")
    mine = first.says(r"revoked: \S+\[(\d,\d)\]")[1]
    second.says("assigned: ")
    assert first.stop() == 0
    before = second.log.count("assigned: ") + second.log.count("revoked: ")
    again = start(config)
    again.says("assigned: ")
    produce(real_kafka, source, ((b"k%d" % n, b"%d" % n) for n in range(100)))
    until(lambda: len(consume(real_kafka, output)) == 100)
    assert second.log.count("assigned: ") + second.log.count("revoked: ") == before, second.log
    assert mine
    for server in (second, again):
        assert server.stop() == 0


def test_a_second_process_of_the_same_static_name_is_told_so(real_kafka: str, source: str, output: str, start: Any) -> None:
    config = configuration(real_kafka, "app:handle", source, output)
    config["kafka"]["group_instance_id"] = "only-one"
    first = start(config)
    first.says("assigned: ")
    second = start(config)
    second.says("assigned: ")
    assert first.wait(60) == 69
    assert "another process has joined the group under this one's kafka.group_instance_id, and this one is out" in first.log
    assert second.stop() == 0


@pytest.mark.parametrize("order", ["key", "partition"])
def test_a_stuck_lane_does_not_starve_other_partitions_of_the_buffer(
    kafka_servers: str, source: str, output: str, start: Any, order: str
) -> None:
    """A stuck message with a thousand behind it in its lane, and a buffer for a hundred: the other
    partitions and routes go on."""
    produce(kafka_servers, source, [(b"same", b"stuck"), *((b"same", b"behind") for _ in range(1000))], partition=0)
    config = configuration(kafka_servers, "app:handle", source, output, order=order, buffer={"messages": 100}, concurrency=4)
    server = start(config, app=STUCK)
    server.says("assigned: ")
    for number in (1, 2, 3):
        produce(kafka_servers, source, ((b"k%d" % n, b"free") for n in range(200)), partition=number)
    until(lambda: sum(m.value() == b"free" for m in consume(kafka_servers, output)) == 600, 60, "the other partitions")
    assert all(m.value() == b"free" for m in consume(kafka_servers, output))
    (server.folder / "go-on").touch()
    until(lambda: len(consume(kafka_servers, output)) == 1601)
    assert server.stop() == 0


def test_memory_is_bounded_whatever_the_backlog(real_kafka_wanted: None, start: Any) -> None:
    """A million messages of 1 KB, a stuck key, and a broker that is slow to acknowledge."""
    proxy = Proxy()
    kafka = broker.Kafka(proxied=proxy.port)
    proxy.target = kafka.behind
    try:
        kafka.start()
        servers = kafka.servers
        source, output = create_topic(servers, "in"), create_topic(servers, "out")
        config = configuration(f"127.0.0.1:{proxy.port}", "app:handle", source, output, order="key", concurrency=64)
        server = start(config, app=STUCK)
        server.says("assigned: ")
        produce(servers, source, [(b"k0", b"one")])
        until(lambda: len(consume(servers, output)) == 1)
        idle = server.memory()
        filler = b"x" * 1000
        produce(servers, source, ((b"k%d" % (n % 5000), b"stuck" if n == 1000 else filler) for n in range(1_000_000)))
        proxy.delay = 0.005
        most = 0
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline:
            most = max(most, server.memory() - idle)
            time.sleep(0.05)
        assert server.process.poll() is None, server.log
        assert len(consume(servers, output, timeout=3)) > 2000, "it hardly ran"
        print(f"{most / 1e6:.0f} MB more than idle ({idle / 1e6:.0f} MB)")
        assert most < 60e6
    finally:
        proxy.close()
        kafka.stop()


def test_an_output_topic_that_is_made_anew_with_fewer_partitions_gets_all_results(real_kafka: str, source: str, start: Any) -> None:
    output = create_topic(real_kafka, unique("out"), partitions=8)
    config = configuration(real_kafka, "app:handle", source, output, order="key")
    config["kafka"]["client"] = {"metadata_max_age_ms": 1000}
    server = start(config)
    produce(real_kafka, source, ((b"k%d" % n, b"%d" % n) for n in range(50)))
    until(lambda: len(consume(real_kafka, output)) == 50, what="the results before")
    admin = AdminClient({"bootstrap.servers": real_kafka})
    admin.delete_topics([output])[output].result(10)
    until(lambda: output not in admin.list_topics(timeout=5).topics, what="the deletion")
    create_topic(real_kafka, output, partitions=2)
    produce(real_kafka, source, ((b"k%d" % n, b"%d" % (50 + n)) for n in range(50)))
    until(
        lambda: {message.value() for message in consume(real_kafka, output)} == {b"%d" % n for n in range(50, 100)}, 60, "the results after"
    )
    assert server.stop() == 0, server.log
    assert f"{output} has 2 partitions in place of 8: it was made anew; results go to those" in server.log


def test_a_partition_that_goes_and_comes_back_while_it_is_paused_is_read_on(
    real_kafka: str, output: str, start: Any, tmp_path: Path
) -> None:
    """Its buffer is full when it is revoked, and empty when it comes back."""
    source = create_topic(real_kafka, unique("in"))
    app = (
        "import os, time\n"
        "GO = os.path.join(os.path.dirname(__file__), 'go')\n"
        "def handle(value):\n"
        "    while not os.path.exists(GO):\n"
        "        time.sleep(0.05)\n"
        "    return value\n"
    )
    produce(real_kafka, source, ((None, b"%d" % n) for n in range(2000)))
    config = configuration(real_kafka, "app:handle", source, output, buffer={"messages": 40}, rebalance={"grace": "200ms"})
    first = start(config, app=app, name="first.yaml")
    first.says("assigned: ")
    for _ in range(3):
        other = start(config, app=app, name="other.yaml")
        other.says("assigned: ")
        first.says("revoked: ")
        other.signal(signal.SIGKILL)
        other.wait()
    (tmp_path / "go").touch()
    last = start(config, "--until-idle", "1s", app=app, name="other.yaml")  # which has the dead ones removed from the group
    until(lambda: len({m.value() for m in consume(real_kafka, output)}) == 2000, 60, "every message")
    assert first.stop() == 0
    assert last.wait(60) == 0
