"""pymemcache: its pooled client."""

import os

from pymemcache.client.base import PooledClient

client = PooledClient(("127.0.0.1", int(os.environ["MEMCACHED_PORT"])), max_pool_size=64, connect_timeout=5, timeout=5)


def end() -> None:
    client.close()


def handle(value: str) -> str:
    client.set(f"n:{value}", str(int(value) * 2))
    found = client.get(f"n:{value}")
    return found.decode() if found is not None else str(int(value) * 2)
