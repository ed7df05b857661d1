"""redis-py: one client, which has a pool of its own."""

import os

import redis

client = redis.Redis(port=int(os.environ["REDIS_PORT"]), max_connections=128, health_check_interval=10)


def end() -> None:
    client.close()


def handle(value: str) -> str:
    client.set(f"n:{value}", int(value) * 2, ex=60)
    found = client.get(f"n:{value}")
    return found.decode() if found is not None else str(int(value) * 2)  # a restart forgets
