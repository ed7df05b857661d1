"""peewee: a pooled database, connected around each message."""

import os
from urllib.parse import urlsplit

from playhouse.pool import PooledPostgresqlDatabase

url = urlsplit(os.environ["POSTGRES_URL"])
database = PooledPostgresqlDatabase("postgres", user="postgres", host="127.0.0.1", port=url.port, max_connections=64, stale_timeout=300)


def end() -> None:
    database.close_all()


def handle(value: str) -> str:
    with database.connection_context():
        return str(database.execute_sql("SELECT %s::int * 2, pg_sleep(0.002)", (value,)).fetchone()[0])
