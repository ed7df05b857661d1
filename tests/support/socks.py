"""A SOCKS5 proxy without authentication (RFC 1928), which answers after a while as one across a sea
does."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Seconds that each step takes.
LATENCY = 0.05
#: A name that only the proxy knows.
INSIDE = "kafka.inside"


@contextmanager
def proxy() -> Iterator[str]:
    """host:port of one that runs."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        near: socket.socket = self.request
        near.recv(near.recv(2)[1])
        time.sleep(LATENCY)
        near.sendall(b"\5\0")
        kind = near.recv(4)[3]
        host = socket.inet_ntoa(near.recv(4)) if kind == 1 else near.recv(near.recv(1)[0]).decode()
        port = struct.unpack(">H", near.recv(2))[0]
        time.sleep(LATENCY)
        with suppress(OSError), socket.create_connection(("127.0.0.1" if host == INSIDE else host, port)) as far:
            near.sendall(b"\5\0\0\1" + bytes(6))
            threading.Thread(target=_pass_on, args=(near, far), daemon=True).start()
            _pass_on(far, near)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
