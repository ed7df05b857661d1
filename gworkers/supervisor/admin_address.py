"""The admin address of one process: what is seen of it and done with it there, and the page for
people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gevent
from gevent.pool import Group

from gworkers.admin import addresses, server
from gworkers.admin.answer import Answer
from gworkers.admin.failures import Failures
from gworkers.admin.operate import Operated, actions_of
from gworkers.admin.page.made import site_of
from gworkers.admin.ready_check import ReadyCheck
from gworkers.config.load import Loaded
from gworkers.server import logs
from gworkers.server.process import Process
from gworkers.supervisor.under_master import UnderMaster


class Owner(Operated, Protocol):
    """Whose it is: the server."""

    def fail(self, error: BaseException) -> None: ...


class AdminAddress:
    """ready: the application's own check; given: the options that name the configuration to a
    command."""

    def __init__(
        self,
        loaded: Loaded,
        process: Process,
        ready: Callable[..., Any] | None,
        owner: Owner,
        master: UnderMaster | None,
        given: Sequence[str] | None,
    ) -> None:
        config, pipeline = loaded.config, process.pipeline
        assert config.admin.bind is not None
        spawn = Group().spawn if config.executor == "greenlet" else gevent.get_hub().threadpool.spawn
        check = ReadyCheck(ready, spawn) if ready is not None else None
        failures = Failures(pipeline.events)
        pages: server.Pages = server.pages_of(pipeline.snapshot, config, lambda: pipeline.standing, pipeline.interventions, failures, check)
        pages = {**pages, "/log": lambda _: Answer.shown(True, {"log": list(logs.tail)})}
        actions = actions_of(pipeline.pauses, pipeline.interventions, tuple(config.routes), owner)
        bind = addresses.resolved(config.admin.bind, loaded.folder)
        self._master = master
        self._site = None
        if master is not None:
            bind = addresses.of_worker(bind, master.number)
        else:
            self._site = site_of(loaded, pages, actions, given, owner.fail)
        self._admin = server.Admin(config.admin, bind, pages, actions, self._site)

    def start(self) -> str:
        """Listen; returns the address as it is in use. Raises UnavailableError when it cannot be
        had."""
        address = self._admin.start()
        if self._site is not None:
            self._site.start()
        if self._master is not None:
            self._master.tell(admin=address)
        return address

    def stop(self) -> None:
        if self._site is not None:
            self._site.stop()
        self._admin.stop()
