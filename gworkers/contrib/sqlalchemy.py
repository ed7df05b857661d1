"""SQLAlchemy: a session a message.

# shop/db.py
Session = scoped_session(sessionmaker(engine))
session = gworkers.contrib.sqlalchemy.session_of(Session)

middleware: ["shop.db:session"]
hooks: {process_stop: "shop.db:engine.dispose"}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import DBAPIError


def session_of(registry: Any, *, commit: bool = False) -> Callable[[Any, Callable[[], Any]], Any]:
    """A middleware for a ``scoped_session``: whatever session the handler takes from ``registry`` is
    this message's, and is closed after it, so that its connection goes back to the pool. commit: also
    commit it, before the results are sent. What fails is rolled back. After an error that says that
    the connection is gone the whole pool is made anew, which a restarted database needs."""

    def session(message: Any, proceed: Callable[[], Any]) -> Any:
        try:
            result = proceed()
            if commit and registry.registry.has():
                registry.commit()
            return result
        except BaseException as error:
            if registry.registry.has():
                if isinstance(error, DBAPIError) and error.connection_invalidated:
                    registry().invalidate()
                else:
                    registry.rollback()
            raise
        finally:
            registry.remove()

    return session
