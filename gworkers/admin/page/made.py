"""The page put together, for a process of its own and for the master of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gworkers.admin.hiding import Hiding
from gworkers.admin.page.commands import Commands
from gworkers.admin.page.facts import Asking
from gworkers.admin.page.history import History
from gworkers.admin.page.screens import Screens
from gworkers.admin.page.site import Site
from gworkers.admin.server import Pages
from gworkers.config.load import Loaded
from gworkers.loop import Fatal
from gworkers.offsets import journal

#: The history's file, beside the journals of the group.
HISTORY = "page.sqlite"


def site_of(
    loaded: Loaded, pages: Pages, actions: Pages, given: Sequence[str] | None, fatal: Fatal, *, several: bool = False
) -> Site | None:
    """pages, actions: of the admin address; given: the options that name the configuration to a
    command, None without a file of it; several: of a master. None where the configuration has no
    page."""
    config = loaded.config.admin
    if not config.page:
        return None
    token = config.token or config.read_token
    asking = Asking(pages, f"Bearer {token}" if token else "")
    commands = Commands(given, fatal)
    history = History(lambda: asking.ask("/status"), _file(loaded), fatal)
    screens = Screens(loaded, asking, commands, history, Hiding(config))
    return Site(config, asking, actions, commands, history, screens, several=several)


def _file(loaded: Loaded) -> Path | None:
    state_dir = loaded.config.state_dir
    if state_dir is None:
        return None
    try:
        return journal.folder_of(loaded.folder / state_dir, loaded.config.kafka.group) / HISTORY
    except journal.JournalError:
        return None
