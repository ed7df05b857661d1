"""Django's ORM, without a project of its own; connections as gworkers.contrib.django keeps them."""

import os
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.db import connection, connections

url = urlsplit(os.environ["POSTGRES_URL"])
database = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": "127.0.0.1", "PORT": url.port}
if not settings.configured:
    settings.configure(DATABASES={"default": {**database, "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}}, INSTALLED_APPS=[])
    django.setup()


def thread_end() -> None:
    connections.close_all()


def handle(value: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::int * 2, pg_sleep(0.002)", [value])
        return str(cursor.fetchone()[0])
