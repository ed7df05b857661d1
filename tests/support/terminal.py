"""A real terminal (tmux) in which a command runs, whose screen is read and whose keys are typed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support import debian
from tests.support.broker import ROOT
from tests.support.servers import until

#: tmux, and what of its libraries a small machine lacks.
PACKAGES = ("tmux", "libevent-core-2.1-7", "libutempter0")


class Terminal:
    """columns, rows: its size. Raises tests.support.debian.NotHere where tmux cannot be had."""

    def __init__(self, folder: Path, command: list[str], columns: int = 80, rows: int = 24, env: dict[str, str] | None = None) -> None:
        self._socket = str(folder / "tmux")
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self._env = {**inherited, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT), **(env or {})}
        self._tmux = shutil.which("tmux")
        if self._tmux is None:
            folders = [debian.unpacked(package) for package in PACKAGES]
            self._tmux = str(folders[0] / "usr" / "bin" / "tmux")
            self._env |= debian.libraries(*folders)
        size = ("-x", str(columns), "-y", str(rows))
        settings = folder / "tmux.conf"
        settings.write_text("set-option -g remain-on-exit on\n")  # from the first moment on: the command may be a short one
        self._ask("-u", "-f", str(settings), "new-session", "-d", *size, "-c", str(folder), *command)
        self.resize(columns, rows)

    def _ask(self, *arguments: str) -> str:
        done = subprocess.run([str(self._tmux), "-S", self._socket, *arguments], env=self._env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def screen(self, *, colours: bool = False) -> str:
        """What stands on it, a line a row; colours: with the sequences that make them."""
        return self._ask("capture-pane", "-p", *(["-e"] if colours else []))

    def shows(self, text: str, timeout: float = 20) -> str:
        """Wait until it shows ``text``; the whole screen then."""

        def look() -> str | None:
            found = self.screen()
            return found if text in found else None

        try:
            screen: str = until(look, timeout, f"{text!r} on the screen")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen()}") from None
        return screen

    def type(self, *keys: str) -> None:
        """As tmux names them: ``q``, ``Enter``, ``Escape``."""
        self._ask("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._ask("resize-window", "-x", str(columns), "-y", str(rows))

    def ended(self) -> int | None:
        """The status of the command when it has ended."""
        dead, _, status = self._ask("display-message", "-p", "#{pane_dead} #{pane_dead_status}").strip().partition(" ")
        return int(status or 0) if dead == "1" else None

    def close(self) -> None:
        subprocess.run([str(self._tmux), "-S", self._socket, "kill-server"], env=self._env, capture_output=True)
