"""psycopg2 with its threaded pool; it refuses the twenty-first and so takes turns by a named limit."""

import os

from psycopg2.pool import ThreadedConnectionPool

pool: ThreadedConnectionPool | None = None


def begin() -> None:
    global pool
    pool = ThreadedConnectionPool(20, 20, os.environ["POSTGRES_URL"])


def end() -> None:
    if pool is not None:
        pool.closeall()


def handle(value: str) -> str:
    assert pool is not None
    connection = pool.getconn()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT %s::int * 2, pg_sleep(0.002)", (value,))
            return str(cursor.fetchone()[0])
    finally:
        pool.putconn(connection, close=bool(connection.closed))
