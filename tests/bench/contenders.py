"""What gworkers is compared with, each a program of its own: ``python -m tests.bench.contenders
NAME SERVERS SOURCE OUTPUT``.

Each consumes SOURCE for ever, handles, sends to OUTPUT; whoever measures looks at OUTPUT and ends
it.
"""

from __future__ import annotations

import sys


def bare(servers: str, source: str, output: str) -> None:
    """A bare kafka-python loop on one thread, un-patched: poll, handle (nothing), send. Its
    producer has the large batches of ours."""
    import kafka

    consumer = kafka.KafkaConsumer(
        source, bootstrap_servers=servers, group_id=f"bare-{source}", auto_offset_reset="earliest", enable_auto_commit=False
    )
    producer = kafka.KafkaProducer(bootstrap_servers=servers, batch_size=262_144)
    while True:
        for records in consumer.poll(timeout_ms=500, max_records=1000).values():
            for record in records:
                producer.send(output, record.value, record.key)


def literal(servers: str, source: str, output: str) -> None:
    """The pattern taken literally: patch_all, a Pool of 64 greenlets, ThreadPool.apply a message,
    kafka-python's defaults."""
    from gevent import monkey

    monkey.patch_all()
    import gevent
    import kafka
    from gevent.lock import Semaphore
    from gevent.pool import Pool

    consumer = kafka.KafkaConsumer(
        source, bootstrap_servers=servers, group_id=f"literal-{source}", auto_offset_reset="earliest", enable_auto_commit=False
    )
    producer = kafka.KafkaProducer(bootstrap_servers=servers)
    guard = Semaphore(1)
    buffered: list[object] = []
    threads = gevent.get_hub().threadpool
    threads.maxsize = 64

    def work() -> None:
        while True:
            with guard:
                while not buffered:
                    for records in consumer.poll(timeout_ms=500).values():
                        buffered.extend(reversed(records))
                record = buffered.pop()
            value = threads.apply(lambda value: value, (record.value,))  # type: ignore[attr-defined]
            producer.send(output, value, record.key)  # type: ignore[attr-defined]

    pool = Pool(64)
    for _ in range(64):
        pool.spawn(work)
    pool.join()


if __name__ == "__main__":
    {"bare": bare, "literal": literal}[sys.argv[1]](*sys.argv[2:])
