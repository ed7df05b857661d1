"""psycopg 3 with its pool, as its documentation has it."""

import os

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["POSTGRES_URL"], min_size=1, max_size=20, open=False, check=ConnectionPool.check_connection)


def begin() -> None:
    pool.open(wait=True)


def end() -> None:
    pool.close()


def handle(value: str) -> str:
    with pool.connection() as connection:
        row = connection.execute("SELECT %s::int * 2, pg_sleep(0.002)", (value,)).fetchone()
        assert row is not None
        return str(row[0])
