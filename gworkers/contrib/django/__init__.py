"""Django: models, connections, and ``manage.py gworkers``.

    app: {path: ., setup: "gworkers.contrib.django:setup"}
    middleware: ["gworkers.contrib.django:connections"]

The settings are those of DJANGO_SETTINGS_MODULE. With ``gworkers.contrib.django`` in INSTALLED_APPS
there is ``manage.py gworkers``, with the settings that manage.py has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def setup() -> None:
    """For ``app.setup``: what manage.py does before it runs a command. Raises ImproperlyConfigured
    without settings."""
    import django

    django.setup()


def connections(message: Any, proceed: Callable[[], Any]) -> Any:
    """For ``middleware``: what Django does around a request. Connections that a server has closed, or
    that are older than CONN_MAX_AGE, are made anew; a transaction that a handler left open does not
    reach the next message."""
    from django.db import close_old_connections, connections, reset_queries

    reset_queries()
    close_old_connections()
    try:
        return proceed()
    except BaseException:
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block and not connection.get_autocommit():
                connection.rollback()
        raise
    finally:
        close_old_connections()


def close(*_: Any) -> None:
    """For ``hooks.thread_stop``: the thread's connections are closed."""
    from django.db import connections

    connections.close_all()
