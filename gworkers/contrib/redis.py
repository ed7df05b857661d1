"""redis-py: a client whose pool has a connection for each handler.

# shop/cache.py
cache = gworkers.contrib.redis.client("redis://cache:6379/0")

hooks: {process_stop: "shop.cache:cache.close"}
"""

from __future__ import annotations

from typing import Any

import redis

from gworkers.contrib import concurrency

#: Seconds that a handler waits for a connection when there are fewer than handlers.
PATIENCE = 20.0


def client(url: str, **options: Any) -> redis.Redis:
    """A client with up to as many connections as handlers may run at once; whoever finds none free
    waits for one. options: of the pool and its connections; they go before."""
    pool = redis.BlockingConnectionPool.from_url(url, **{"max_connections": concurrency(), "timeout": PATIENCE, **options})
    return redis.Redis.from_pool(pool)
