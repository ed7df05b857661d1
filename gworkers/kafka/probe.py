"""Looking at what answers at an address, past kafka-python: which says more, and says it at once."""

from __future__ import annotations

import ssl
import struct
from typing import Any

import gevent.socket
import gevent.ssl

#: Seconds that one step may take.
TIMEOUT = 3.0

#: Requests by hand: length, key, version, correlation id 1, no client id. ApiVersions v0 is the first
#: thing a Kafka client says; Metadata v1 (of no topic) the first that needs a login;
#: SaslHandshake v1 asks for a mechanism and is told which there are.
_API_VERSIONS = bytes.fromhex("0000000a0012000000000001ffff")
_METADATA = bytes.fromhex("0000000e0003000100000001ffff00000000")


class NoConnectionError(Exception):
    """Why a server cannot be connected to."""


def connect(address: str, timeout: float = TIMEOUT) -> Any:
    """A socket. Raises NoConnectionError."""
    host, _, port = address.strip().rpartition(":")
    try:
        return gevent.socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)
    except gevent.socket.gaierror:
        raise NoConnectionError("is no known host name") from None
    except ConnectionRefusedError:
        raise NoConnectionError("refuses connections: nothing listens there") from None
    except TimeoutError:
        raise NoConnectionError("does not answer") from None
    except OSError as error:
        raise NoConnectionError(f"cannot be reached: {error.strerror or error}") from None
    except (ValueError, OverflowError):
        raise NoConnectionError("is no address that can be") from None


def refuses(address: str, timeout: float = TIMEOUT) -> str | None:
    """Why no connection can be made to the address, in words without it; None when one can."""
    try:
        connect(address, timeout).close()
    except NoConnectionError as error:
        return str(error)
    return None


def unreachable(addresses: list[str], patience: float = TIMEOUT) -> str | None:
    """Why no connection can be made to any of the addresses; None when one can."""
    reasons = []
    for address in addresses:
        why = refuses(address, max(0.1, min(TIMEOUT, patience)))
        if why is None:
            return None
        reasons.append(f"{address.strip()} {why}")
    return ", ".join(reasons)


def diagnose(addresses: list[str], *, wants_login: bool) -> str | None:
    """Why nobody who speaks Kafka in plain text answers at the addresses, in words; None when
    somebody does. wants_login: whether the client is going to log in. Blocks up to some seconds an
    address. Where the configuration is at fault, the sentence names its key, as kafka.client.…"""
    reasons = []
    for address in addresses:
        reason = _plain(address)
        if reason is None and not wants_login and wants_a_login(address, None):
            reason = login_wanted(address, None)
        if reason is None:
            return None
        reasons.append(f"{address.strip()} {reason}")
    return ", ".join(reasons)


def login_wanted(address: str, context: ssl.SSLContext | None) -> str:
    """The words for a broker that wants a login and was not offered one."""
    enabled = mechanisms(address, context)
    there = f" and sasl_mechanism ({', '.join(enabled)} are enabled there)" if enabled else " and sasl_mechanism"
    return f"wants a login; set kafka.client.security_protocol: {'SASL_SSL' if context is not None else 'SASL_PLAINTEXT'}{there}"


def _plain(address: str) -> str | None:
    try:
        answer = _ask(connect(address), _API_VERSIONS)
    except NoConnectionError as error:
        return str(error)
    except TimeoutError:
        return "accepts connections and does not answer as Kafka does"
    except OSError:
        answer = b""
    if answer.startswith((b"HTTP", b"<!DOC", b"<html")):
        return "answers as an HTTP server, not as Kafka"
    if answer[:1] == b"\x15":
        return "speaks TLS; set kafka.client.security_protocol: SSL or SASL_SSL"
    if not answer:
        return "closes the connection; does it want TLS or a password?"
    if len(answer) >= 8 and int.from_bytes(answer[4:8], "big") == 1:
        return None
    return "answers something that is not Kafka"


def speaks_plain_text(address: str) -> bool:
    """Whether Kafka answers there without TLS."""
    return _plain(address) is None


def wants_a_login(address: str, context: ssl.SSLContext | None) -> bool:
    """Whether Kafka answers there (with TLS when there is a context) and ends the connection at the
    first request of somebody who has not logged in."""
    try:
        connection = _secured(address, context)
        try:
            if not _exchange(connection, _API_VERSIONS):
                return False
            return not _exchange(connection, _METADATA)
        except (ConnectionError, ssl.SSLError):
            return True
        finally:
            connection.close()
    except (NoConnectionError, OSError):
        return False


def mechanisms(address: str, context: ssl.SSLContext | None) -> list[str]:
    """The ways to log in that are enabled there; none where nobody tells."""
    name = b"?"
    request = struct.pack(">hhih", 17, 1, 1, -1) + struct.pack(">h", len(name)) + name
    try:
        connection = _secured(address, context)
        try:
            answer = _exchange(connection, struct.pack(">i", len(request)) + request)
        finally:
            connection.close()
        (count,) = struct.unpack_from(">i", answer, 10)
        at, found = 14, []
        for _ in range(min(count, 20)):
            (length,) = struct.unpack_from(">h", answer, at)
            found.append(answer[at + 2 : at + 2 + length].decode())
            at += 2 + length
        return sorted(found)
    except (NoConnectionError, OSError, struct.error, UnicodeDecodeError):
        return []


def _secured(address: str, context: ssl.SSLContext | None) -> Any:
    connection = connect(address)
    connection.settimeout(TIMEOUT)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection, server_hostname=address.strip().rpartition(":")[0].strip("[]"))
    except BaseException:
        connection.close()
        raise


def _exchange(connection: Any, request: bytes) -> bytes:
    """Send a request and read one answer, with its length; empty when the connection is closed."""
    connection.sendall(request)
    answer = b""
    while len(answer) < 4 or len(answer) < 4 + int.from_bytes(answer[:4], "big"):
        part = connection.recv(65536)
        if not part or len(answer) > 2**20:
            return b""
        answer += part
    return answer


def _ask(connection: Any, request: bytes) -> bytes:
    """Send a request; the first bytes of whatever comes back."""
    try:
        connection.settimeout(TIMEOUT)
        connection.sendall(request)
        answer: bytes = connection.recv(8)
        return answer
    finally:
        connection.close()


def context_of(options: dict[str, Any]) -> ssl.SSLContext | None:
    """What kafka-python would speak TLS with, without looking at the server's certificate; None
    where it speaks none."""
    if options.get("security_protocol") not in ("SSL", "SASL_SSL"):
        return None
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context  # type: ignore[no-any-return]
