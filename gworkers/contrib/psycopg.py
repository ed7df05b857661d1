"""psycopg 3: a pool with a connection for each handler.

# shop/db.py
pool = gworkers.contrib.psycopg.pool("postgresql://shop@db/shop")

hooks: {process_stop: "shop.db:pool.close"}
"""

from __future__ import annotations

from typing import Any

from psycopg_pool import ConnectionPool

from gworkers.contrib import concurrency


def pool(conninfo: str, **options: Any) -> ConnectionPool[Any]:
    """A ConnectionPool that grows to as many connections as handlers may run at once, and looks at
    each before it is handed out, which a restarted database needs. options: of ConnectionPool; they
    go before. It connects when it is first asked for one."""
    options = {"min_size": 0, "max_size": concurrency(), "check": ConnectionPool.check_connection, "open": True, **options}
    return ConnectionPool(conninfo, **options)
