"""A TCP proxy that delays, cuts and half-opens connections: a network on a bad day."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

from tests.chaos.holding import Holder


class Proxy:
    """Listens on ``port`` and passes on to ``target``. delay: seconds before each piece is passed
    on; frozen: nothing is passed on; lost: "answers" or "requests", which are taken and not passed
    on."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = int(self._listener.getsockname()[1])
        self.target = 0
        self.delay = 0.0
        self.frozen = False
        self.lost = ""
        self.holder: Holder | None = None
        self._open: set[socket.socket] = set()
        self._closed = False
        self._guard = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset all connections that are open now."""
        with self._guard:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    one.shutdown(socket.SHUT_RDWR)

    def behave(self) -> None:
        """Pass everything on at once again."""
        self.delay, self.frozen, self.lost, self.holder = 0.0, False, "", None

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            near.close()
            return
        with self._guard:
            self._open |= {near, far}
        kept = False  # the connection to the broker is a held request's
        request = b""  # the beginning of one
        try:
            while True:
                ready, _, _ = select.select([near, far], [], [], 0.2)
                if self.frozen:
                    time.sleep(0.05)
                    continue
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    if self.delay:
                        time.sleep(self.delay)
                    if self.lost == ("answers" if one is far else "requests"):
                        continue
                    if one is far:
                        near.sendall(data)
                        continue
                    requests, request = _whole(request + data)
                    for whole in requests:
                        holder = self.holder
                        if holder is None or holder.passes(whole, far):
                            far.sendall(whole)
                            continue
                        kept = True
                        if not holder.cut:
                            self._wait_for_the_client(near)
                        return
        except (OSError, ValueError):
            pass
        finally:
            with self._guard:
                self._open -= {near, far}
            if kept:
                with contextlib.suppress(OSError):
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            else:
                far.close()
            near.close()

    @staticmethod
    def _wait_for_the_client(near: socket.socket) -> None:
        """Until it gives the connection up; what it says is lost."""
        with contextlib.suppress(OSError):
            while near.recv(65536):
                pass


def _whole(data: bytes) -> tuple[list[bytes], bytes]:
    """The requests that are there, and the beginning of the next."""
    found = []
    while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
        size = 4 + int.from_bytes(data[:4], "big")
        found.append(data[:size])
        data = data[size:]
    return found, data
