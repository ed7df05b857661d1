"""Transactions that Apache Kafka notes as ended without having written their markers; no gworkers.

    python -m tests.chaos.markers --rounds 40

librdkafka's transactional producers write to a broker that is alone, a transaction each few
milliseconds; the broker is killed (SIGKILL) and started again; the producers end, and after the
time in which any transaction has to have ended Kafka's own tool looks for those that have not. Each
round has a topic of its own. What the broker's log says about it is printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time

import confluent_kafka

from tests.chaos.judge import hanging
from tests.support.broker import Kafka, close_when_asked_to_end
from tests.support.servers import create_topic, unique

#: What the broker is given to end the transactions of those who have gone, in ms.
TIMEOUT = 3000
PRODUCERS = 4


def _produce(servers: str, topic: str, name: str, stop: threading.Event) -> None:
    """One transaction after the other, of ten messages each, until it fails or is told to stop."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": servers, "transactional.id": name, "transaction.timeout.ms": TIMEOUT, "log_level": 0, "linger.ms": 1}
    )
    try:
        producer.init_transactions(30)
        while not stop.is_set():
            producer.begin_transaction()
            for number in range(10):
                producer.produce(topic, b"x", partition=number % 4)
            producer.commit_transaction(20)
    except confluent_kafka.KafkaException:
        producer.purge()


def one_round(kafka: Kafka, draw: random.Random) -> bool:
    """Whether a transaction hangs at the end of it."""
    topic = create_topic(kafka.servers, unique("markers"), 4)
    stop = threading.Event()
    names = [unique("producer") for _ in range(PRODUCERS)]
    threads = [threading.Thread(target=_produce, args=(kafka.servers, topic, name, stop)) for name in names]
    for thread in threads:
        thread.start()
    time.sleep(draw.uniform(1.0, 2.0))
    kafka.kill()
    time.sleep(draw.uniform(0.5, 4.0))
    kafka.start()
    time.sleep(draw.uniform(0.5, 2.0))
    stop.set()
    for thread in threads:
        thread.join()
    time.sleep(TIMEOUT / 1000)
    return hanging(kafka.servers, topic)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    kafka = Kafka(transaction_abort_timed_out_transaction_cleanup_interval_ms="500")
    found = 0
    try:
        kafka.start()
        for number in range(options.rounds):
            mark = (kafka.folder / "log").stat().st_size
            bad = one_round(kafka, draw)
            found += bad
            print(f"round {number}: {'a transaction hangs' if bad else 'good'}", flush=True)
            if bad:
                print(f"hanging, as kafka-transactions finds them:\n{kafka.hanging_transactions()}")
                print(f"their states:\n{kafka.transactions()}")
                said = (kafka.folder / "log").read_bytes()[mark:].decode(errors="replace").splitlines()
                print("\n".join(line[:300] for line in said if "ransaction" in line or "marker" in line)[:6000], flush=True)
    finally:
        kafka.stop()
    print(f"{found} of {options.rounds} rounds left a transaction that nobody ends")
    return 0


if __name__ == "__main__":
    close_when_asked_to_end()
    sys.exit(main())
