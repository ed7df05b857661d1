"""An HTTP and an HTTPS server that double a number, and misbehave a little: run with two ports, a
certificate and its key."""

from __future__ import annotations

import random
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

draw = random.Random(0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(0.002)
        chance = draw.random()
        if chance < 1 / 300:
            self.connection.close()
            self.close_connection = True
            return
        good = chance > 1 / 300 + 1 / 200
        body = str(2 * int(parse_qs(urlsplit(self.path).query)["n"][0])).encode() if good else b"try again"
        self.send_response(200 if good else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing of it is wanted."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that have gone."""


def main() -> None:
    plain, secure, certificate, key = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tls = Server(("127.0.0.1", int(secure)), Handler)
    tls.socket = context.wrap_socket(tls.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=tls.serve_forever, daemon=True).start()
    Server(("127.0.0.1", int(plain)), Handler).serve_forever()


if __name__ == "__main__":
    main()
