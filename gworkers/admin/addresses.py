"""Where the admin address is: ``host:port``, or ``unix:PATH`` for a socket in the file system, which
whoever may write to the file may use."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNIX = "unix:"
#: Bytes of a path that a socket may have (sun_path of unix(7), with the byte that ends it).
MOST_PATH = 107
#: Connections that wait to be accepted.
BACKLOG = 128


def path_of(address: str) -> str | None:
    """The path of a Unix socket; None for host:port."""
    return address.removeprefix(UNIX) if address.startswith(UNIX) else None


def page_at(shown: bool, address: str) -> str:
    """Where a browser finds the page, for a line of the log; nothing for a socket in the file
    system."""
    return f" (for a browser: http://{address}/)" if shown and path_of(address) is None else ""


def resolved(address: str, folder: Path) -> str:
    """With the path of a Unix socket from the folder of the configuration."""
    path = path_of(address)
    return address if path is None else f"{UNIX}{os.path.abspath(folder / path)}"


def connected(address: str, timeout: float, new: Callable[..., Any] = socket.socket) -> Any:
    """A connection to ``address``. new: the class of sockets, gevent's or the standard library's.
    Blocks for up to ``timeout`` seconds; raises OSError."""
    path = path_of(address)
    if path is not None:
        return _connect(new(socket.AF_UNIX, socket.SOCK_STREAM), path, timeout)
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    failed: OSError | None = None
    for family, kind, protocol, _, where in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM):
        try:
            return _connect(new(family, kind, protocol), where, timeout)
        except OSError as error:
            failed = error
    raise failed or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _connect(found: Any, where: Any, timeout: float) -> Any:
    try:
        found.settimeout(timeout)
        found.connect(where)
    except BaseException:
        found.close()
        raise
    return found


def of_worker(address: str, number: int) -> str:
    """Where a worker process of a master listens whose own address this is: beside its socket, or on
    loopback."""
    return f"{address}.{number}" if path_of(address) is not None else "127.0.0.1:0"


class UnixListener:
    """A Unix socket that is listened on. mode: the file's permissions. Raises OSError; what another
    program listens on is EADDRINUSE, and what is no socket EEXIST. A socket that nobody listens on is
    what a process left that was killed, and is replaced."""

    def __init__(self, path: str, mode: int, new: Callable[..., Any]) -> None:
        self.path = os.path.abspath(path)
        self.socket = new(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._make_room()
            before = os.umask(0o777 & ~mode)
            try:
                self.socket.bind(self.path)
            finally:
                os.umask(before)
            self.socket.listen(BACKLOG)
            self._file = os.lstat(self.path)
        except BaseException:
            self.socket.close()
            raise

    def _make_room(self) -> None:
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.setblocking(False)  # a full backlog is somebody, too
            try:
                other.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
                return
            except BlockingIOError:
                pass
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), self.path)

    def close(self) -> None:
        """The file is taken away, unless another has taken its place."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self.path), self._file):
                os.unlink(self.path)
