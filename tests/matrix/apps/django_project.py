"""What a Django project's settings are: the databases that are there. Connections are kept as
gworkers.contrib.django keeps them."""

import os
from typing import Any
from urllib.parse import urlsplit

import django
import pymysql
from django.conf import settings

KEPT = {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True, "USER": "root"}


def databases() -> dict[str, Any]:
    found: dict[str, Any] = {"default": {}}
    if "POSTGRES_URL" in os.environ:
        port = urlsplit(os.environ["POSTGRES_URL"]).port
        engine = "django.db.backends.postgresql"
        found["postgres"] = {**KEPT, "ENGINE": engine, "NAME": "postgres", "USER": "postgres", "HOST": "127.0.0.1", "PORT": port}
    if "MARIADB_SOCKET" in os.environ:
        pymysql.version_info = (2, 2, 7, "final", 0)  # Django asks for mysqlclient's
        pymysql.install_as_MySQLdb()
        found["mariadb"] = {**KEPT, "ENGINE": "django.db.backends.mysql", "NAME": "mysql", "HOST": os.environ["MARIADB_SOCKET"]}
    return found


if not settings.configured:
    settings.configure(DATABASES=databases(), INSTALLED_APPS=[])
    django.setup()
