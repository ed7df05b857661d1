"""What systemd is told of a service of ``Type=notify``: that it serves, reloads, stops, how it is, and
with ``WatchdogSec=`` that it is well. The protocol of sd_notify(3): datagrams to $NOTIFY_SOCKET.

Without systemd nothing is told. Standard library alone: the master of several processes tells, too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notify:
    """Tells the service manager that ``environment`` names, if any. Never blocks, never raises.
    watchdog: within so many seconds it wants to hear that all is well; None when it does not."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog: float | None = None
        with contextlib.suppress(ValueError):
            if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
                self.watchdog = int(environment.get("WATCHDOG_USEC", "")) / 1e6

    def __bool__(self) -> bool:
        return bool(self._address)

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def status(self, status: str) -> None:
        self._tell(f"STATUS={status}")

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=taking up the configuration anew")

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=draining")

    def well(self) -> None:
        """To be called more often than ``watchdog`` says, as long as it is true."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), address)
