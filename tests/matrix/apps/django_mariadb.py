"""Django's database on MariaDB, by PyMySQL."""

import django_project  # noqa: F401 - first of all, as ``django.setup()``
from django.db import connections


def thread_end() -> None:
    connections.close_all()


def handle(value: str) -> str:
    with connections["mariadb"].cursor() as cursor:
        cursor.execute("SELECT CAST(%s AS SIGNED) * 2, SLEEP(0.002)", [value])
        return str(cursor.fetchone()[0])
