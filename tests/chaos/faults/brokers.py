"""Brokers die and come back, topics change, a log loses its end."""

from __future__ import annotations

import json
from collections import Counter

import confluent_kafka
from confluent_kafka import ElectionType, TopicCollection
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from tests.chaos.faults.registry import fault
from tests.chaos.harness import KEYS, Round
from tests.chaos.judge import Verdict
from tests.support import broker
from tests.support.servers import consume, create_topic, unique, until

#: Seconds without a result that a rolling upgrade of the brokers may cost.
LONGEST_PAUSE = 5.0


@fault("broker killed", any_twice=True)
def broker_killed(this: Round) -> Verdict:
    """The only broker dies and comes back. With exactly-once it is stopped in place of killed:
    Apache Kafka 4.3.0, killed and started again with no other broker beside it, ends transactions
    without writing their markers (docs/reliability.md has what was seen)."""
    this.pair()
    with this.load():
        this.sleep(1.0, 2.0)
        if this.world.exactly_once:
            this.world.single.terminate()
        else:
            this.world.single.kill()
        this.fault()
        this.sleep(0.5, 4.0)
        this.world.single.start()
        this.sleep(1.0, 2.0)
    return this.finish()


@fault("leader moved", brokers=3, any_twice=True)
def leader_moved(this: Round) -> Verdict:
    """Of three brokers one that leads partitions dies, its partitions move, and it comes back."""
    victim = this.world.cluster().brokers[this.draw.choice((1, 2))]
    this.pair()
    return kill_for_a_while(this, victim, 3.0, 6.0)


@fault("topic deleted", any_twice=True)
def topic_deleted(this: Round) -> Verdict:
    """The input topic is deleted under the server and made anew: what is sent then goes through,
    and the server lives."""
    admin = AdminClient({"bootstrap.servers": this.direct})
    server = this.start()
    this.ready(server)
    with this.load():
        this.sleep(1.0, 2.0)
    before = this.verdict.messages
    until(lambda: len({value["id"] for value in this.results()}) == before, 60, "the messages before the deletion")
    deleted = _id_of(admin, this.source)
    admin.delete_topics([this.source])[this.source].result(10)
    this.fault()
    until(lambda: _id_of(admin, this.source) != deleted, 30, "the deletion")  # the server may have had it made anew already
    this.sleep(0.5, 3.0)
    until(lambda: _made(this), 30, "the topic again")
    ids = range(before, before + 500)
    producer = confluent_kafka.Producer({"bootstrap.servers": this.direct, "partitioner": "murmur2_random"})
    for number in ids:
        key = f"key-{number % KEYS}"
        producer.produce(this.source, json.dumps({"id": number, "key": key, "ms": 1}).encode(), key.encode())
    assert producer.flush(30) == 0
    this.verdict.messages = before + len(ids)
    if server.process.poll() is not None:
        this.verdict.notes.append("the server ended")
    return this.finish()


def _id_of(admin: AdminClient, topic: str) -> str | None:
    """Which topic of this name it is; None when there is none."""
    try:
        return str(admin.describe_topics(TopicCollection([topic]))[topic].result(10).topic_id)
    except confluent_kafka.KafkaException:
        return None


def _made(this: Round) -> bool:
    try:
        create_topic(this.direct, this.source)
    except confluent_kafka.KafkaException as error:
        return bool(error.args[0].code() == confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS)
    return True


@fault("partitions added")
def partitions_added(this: Round) -> Verdict:
    """The input topic grows under load. Keys move to other partitions then, so their order across
    that moment is nobody's to keep."""
    admin = AdminClient({"bootstrap.servers": this.direct})
    this.pair()
    with this.load():
        this.sleep(1.0, 2.0)
        admin.create_partitions([NewPartitions(this.source, 8)])[this.source].result(10)
        this.fault()
        this.sleep(3.0, 5.0)
    verdict = this.finish()
    verdict.disorder = 0
    return verdict


@fault("rolling upgrade", brokers=3, quorum=True, short=False)
def rolling_upgrade(this: Round) -> Verdict:
    """Three brokers are stopped and started again one after the other, as an upgrade does it, each
    when the one before it has caught up."""
    this.pair()
    with this.load():
        for one in this.draw.sample(this.world.quorum().brokers, 3):
            this.sleep(1.0, 2.0)
            one.terminate()
            this.fault()
            this.sleep(0.5, 2.0)
            one.start()
            until(lambda: _whole(this.direct), 60, "all replicas in sync")
        this.sleep(1.0, 2.0)
    verdict = this.finish()
    if verdict.pause > LONGEST_PAUSE:
        verdict.notes.append(f"it stood still for {verdict.pause:.1f} s")
    return verdict


def _whole(servers: str) -> bool:
    """Whether each partition has all of its replicas."""
    topics = AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).topics
    return all(len(found.isrs) == len(found.replicas) for topic in topics.values() for found in topic.partitions.values())


@fault("group coordinator moved", brokers=3, any_twice=True, short=False)
def group_coordinator_moved(this: Round) -> Verdict:
    """Of three brokers the one that coordinates the group dies and comes back."""
    for _ in range(100):
        victim = leader_of(this.world.cluster(), "__consumer_offsets", this.group)
        if victim is not None:
            break
        this.group = unique("chaos")
    assert victim is not None, "the broker that must live coordinates everything"
    this.pair()
    return kill_for_a_while(this, victim, 2.0, 5.0)


def kill_for_a_while(this: Round, victim: broker.Kafka, low: float, high: float) -> Verdict:
    """A broker dies under load and comes back after ``low`` to ``high`` seconds."""
    with this.load():
        this.sleep(1.0, 2.0)
        victim.kill()
        this.fault()
        this.sleep(low, high)
        victim.start()
        this.sleep(1.0, 2.0)
    return this.finish()


def leader_of(cluster: broker.Cluster, topic: str, name: str) -> broker.Kafka | None:
    """The broker that leads the partition of an internal topic where a group or a transactional id
    has its place; None when it is the one that must live."""
    number = 0
    for character in name.encode():
        number = (31 * number + character) & 0xFFFFFFFF
    client = AdminClient({"bootstrap.servers": cluster.servers})
    partitions = client.list_topics(topic, timeout=10).topics[topic].partitions
    if not partitions:  # made when the first one asks
        if topic == "__transaction_state":
            confluent_kafka.Producer({"bootstrap.servers": cluster.servers, "transactional.id": "first"}).init_transactions(30)
        else:
            first = confluent_kafka.Consumer({"bootstrap.servers": cluster.servers, "group.id": "first"})
            first.committed([confluent_kafka.TopicPartition("none", 0)], timeout=30)
            first.close()
        until(lambda: client.list_topics(topic, timeout=10).topics[topic].partitions, 30, f"the topic {topic}")
        return leader_of(cluster, topic, name)
    if all(found.leader == 1 for found in partitions.values()):  # an earlier round has moved them there
        tps = [confluent_kafka.TopicPartition(topic, found) for found in partitions]
        client.elect_leaders(ElectionType.PREFERRED, tps).result(10)
        moved = lambda: any(p.leader != 1 for p in client.list_topics(topic, timeout=10).topics[topic].partitions.values())  # noqa: E731
        until(moved, 30, f"another leader of {topic}")
        return leader_of(cluster, topic, name)
    leader = partitions[(number & 0x7FFFFFFF) % len(partitions)].leader
    return cluster.brokers[leader - 1] if leader in (2, 3) else None


@fault("unclean leader election", brokers=3, any_twice=True, short=False)
def unclean_election(this: Round) -> Verdict:
    """The input's log loses its end: a broker that lags behind becomes the leader, because the one
    that had everything has died too. What is still in the log at the end must have its result. What
    was handled, lost before it was acknowledged and sent again by its producer has two."""
    this.verdict.twice_by_kafka = True
    two, three = this.world.cluster().brokers[1:]
    admin = AdminClient({"bootstrap.servers": this.direct})
    config = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
    topic = NewTopic(unique("chaos-unclean"), 4, replica_assignment=[[2, 3], [3, 2], [2, 3], [3, 2]], config=config)
    admin.create_topics([topic])[topic.topic].result(10)
    this.source = topic.topic
    until(lambda: len(admin.list_topics(this.source, timeout=5).topics[this.source].partitions) == 4, 30, "the topic")
    this.pair()
    with this.load(idempotent=False):
        this.sleep(1.0, 2.0)
        three.kill()
        this.sleep(4.0, 6.0)  # what is sent now is on the second broker alone
        two.kill()
        three.start()
        this.fault()
        this.sleep(4.0, 6.0)
        two.start()
        this.sleep(2.0, 3.0)
    left = [json.loads(message.value())["id"] for message in consume(this.direct, this.source, timeout=60)]
    counts = Counter(left)
    this.not_judged = {number for number in range(this.verdict.messages) if counts[number] != 1}
    this.verdict.remarks.append(f"Kafka lost {this.verdict.messages - len(set(left)):,} of the input")
    return this.finish(set(left))
