"""Django's database on PostgreSQL."""

import django_project  # noqa: F401 - first of all, as ``django.setup()``
from django.db import connections


def thread_end() -> None:
    connections.close_all()


def handle(value: str) -> str:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT %s::int * 2, pg_sleep(0.002)", [value])
        return str(cursor.fetchone()[0])
